/*
 * See path.h. Input: paths of hostile programs, every symbolic link of which is their own. What is
 * judged is the file that is reached, held by descriptor. Cost: some ten system calls.
 */
#include "enforce/path.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fds.h"
#include "base/log.h"
#include "base/mountinfo.h"
#include "enforce/target.h"

#define FDINFO_MAX 4096
#define TRIES 16

/* ---- acting with the caller's permissions, on a host, where this process has a uid of its own
 * ---- */

/*
 * The file system ids decide what it may open; the effective ones are what a listener sees as its
 * peer. Real and saved ids stay this process's own: they are what decides who may signal or trace
 * it. The raw calls change only this thread, which is the only one that matters.
 */
static int ids_set(uid_t euid, gid_t egid, uid_t fsuid, gid_t fsgid)
{
	if (syscall(__NR_setresgid, -1, egid, -1) < 0 || syscall(__NR_setresuid, -1, euid, -1) < 0)
		return -errno;
	setfsgid(fsgid);
	setfsuid(fsuid);
	/* They report nothing; an id that is not valid reads them back. */
	return (uid_t)setfsuid((uid_t)-1) == fsuid && (gid_t)setfsgid((gid_t)-1) == fsgid ? 0
											  : -EPERM;
}

int actor_set(const struct enforce *e, pid_t tid, struct actor *a)
{
	*a = (struct actor){.uid = geteuid(), .gid = getegid()};
	struct target_ids ids;
	if (!e->c->heritage.host)
		return 0; /* the same user */
	int r = target_ids(tid, &ids);
	if (r < 0)
		return r;
	if (syscall(__NR_setgroups, ids.n_groups, ids.groups) < 0)
		return -errno;
	a->changed = true;
	return ids_set(ids.euid, ids.egid, ids.uid, ids.gid);
}

void actor_reset(const struct actor *a)
{
	if (!a->changed)
		return;
	if (ids_set(a->uid, a->gid, a->uid, a->gid) < 0 || syscall(__NR_setgroups, 0, NULL) < 0) {
		log_error("cannot go back to this process's own permissions");
		_exit(1); /* never serve the next caller with this one's */
	}
	component_tie();
}

/* ---- finding the file ---- */

/*
 * As the caller resolves it: an absolute path below its root, a relative one from its working
 * directory. An absolute link on a relative path is followed from our own root, where the program
 * may not be at home; what is judged is the file that is reached, whichever way. -EAGAIN: the
 * kernel would have to ask a file system, which could take as long as its owner likes.
 */
int path_find(const struct enforce *e, pid_t tid, const char *path)
{
	_cleanup_close_ int base =
		target_magic(tid, path[0] == '/' ? "root" : "cwd", O_PATH | O_DIRECTORY);
	return base < 0 ? base : path_find_at(e, tid, base, path);
}

int path_find_at(const struct enforce *e, pid_t tid, int base, const char *path)
{
	struct open_how how = {.flags = O_PATH | O_CLOEXEC,
		.resolve = RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED |
			   (path[0] == '/' ? RESOLVE_IN_ROOT : 0)};
	struct actor actor;
	int n = actor_set(e, tid, &actor);
	if (n >= 0) {
		/* Also when somebody mounts or renames just now: that passes. */
		for (int i = 0; i < TRIES && (i == 0 || n == -EAGAIN); i++) {
			n = (int)syscall(__NR_openat2, base, path, &how, sizeof(how));
			n = n < 0 ? -errno : n;
		}
	}
	actor_reset(&actor);
	return n == -ELOOP || n == -EXDEV ? -EACCES : n;
}

/*
 * Whether the file lies where a program may be the file system (FUSE): looking at it there waits
 * for that program. What cannot be found out counts. Not by statfs(2), which asks it.
 */
static bool mount_is_fuse(const char *mountinfo, int id)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	if (fds_read_file(AT_FDCWD, mountinfo, MOUNTINFO_MAX, &text, &len) < 0)
		return true;
	struct mount_line m;
	for (char *at = text; mountinfo_next(&at, &m) > 0;)
		if (m.id == id)
			return !strncmp(m.type, "fuse", 4);
	return true;
}

static bool on_fuse(pid_t tid, int fd)
{
	char path[64];
	_cleanup_free_ char *text = NULL;
	size_t len;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (fds_read_file(AT_FDCWD, path, FDINFO_MAX, &text, &len) < 0)
		return true;
	const char *at = strstr(text, "mnt_id:");
	if (!at)
		return true;
	int id = atoi(at + strlen("mnt_id:"));
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)tid);
	return mount_is_fuse(path, id) && mount_is_fuse("/proc/self/mountinfo", id);
}

static bool is_control(const struct enforce *e, const struct stat *st)
{
	char path[HERITAGE_DIR_MAX + 16];
	struct stat own;
	snprintf(path, sizeof(path), "%s/control", e->c->heritage.dir);
	return stat(path, &own) == 0 && own.st_dev == st->st_dev && own.st_ino == st->st_ino;
}

static bool has_control_path(const struct enforce *e, const char *path)
{
	size_t n = strlen(e->c->heritage.dir);
	return !strncmp(path, e->c->heritage.dir, n) && path[n] == '/';
}

/* ---- what it is ---- */

int path_where(struct tree *t, pid_t tid, struct path *p)
{
	char link[64];
	if (on_fuse(tid, p->fd)) {
		tree_notice(t, "refused: a socket or pipe in a file system that a program serves");
		return -EACCES;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", p->fd);
	ssize_t n = readlink(link, p->text, sizeof(p->text) - 1);
	if (n <= 0 || n == sizeof(p->text) - 1 || fstat(p->fd, &p->st) < 0)
		return -EACCES;
	p->text[n] = '\0';
	return 0;
}

int path_socket(const struct enforce *e, struct tree *t, pid_t tid, struct path *p)
{
	int bad = path_where(t, tid, p);
	if (bad)
		return bad;
	if (!S_ISSOCK(p->st.st_mode))
		return -ECONNREFUSED;
	if (is_control(e, &p->st) || has_control_path(e, p->text)) {
		tree_notice(t, "refused: Belay's own sockets are not for bound programs");
		return -EACCES;
	}
	return strlen(p->text) < PATH_JUDGED_MAX ? 0 : -EACCES; /* longer than any rule's */
}

bool path_shared(int fd)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	struct stat st;
	struct mount_line m;
	if (fstat(fd, &st) < 0 ||
		fds_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, &len) < 0)
		return true;
	for (char *at = text; mountinfo_next(&at, &m) > 0;)
		if (m.major == major(st.st_dev) && m.minor == minor(st.st_dev))
			return true;
	return false;
}
