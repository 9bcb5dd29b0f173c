/*
 * Where the instance lives: its directory, its lock, its control socket, the directories of the
 * roles that have files. Input: the path the administrator chose, and a file system that others may
 * have prepared: what is found must be a directory of ours, never a link, and what is made is
 * narrow from the start.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "belayd/belayd.h"

#define CONTROL_BACKLOG 1024

/* Makes the missing parents of path, as the user's umask would have them. */
static int make_parents(const char *path)
{
	char part[INSTANCE_DIR_MAX + 16];
	snprintf(part, sizeof(part), "%s", path);
	for (char *p = part + 1; (p = strchr(p, '/')); p++) {
		*p = '\0';
		if (mkdir(part, 0755) < 0 && errno != EEXIST)
			return -errno;
		*p = '/';
	}
	return 0;
}

/* The directory, made if missing, owned by owner, with exactly this mode. Return: descriptor. */
static int make_dir(int at, const char *path, uid_t owner, mode_t mode, struct error *e)
{
	if (mkdirat(at, path, 0700) < 0 && errno != EEXIST)
		return error_errno(e, -errno, "cannot make %s", path);
	_cleanup_close_ int fd = openat(at, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return error_errno(e, -errno, "cannot open %s", path);
	struct stat st;
	if (fstat(fd, &st) < 0)
		return error_errno(e, -errno, "cannot look at %s", path);
	if (st.st_uid != owner && (getuid() != 0 || fchown(fd, owner, (gid_t)owner) < 0))
		return error_set(e, -EPERM,
			"cannot use %s: it belongs to uid %u (try another --dir)", path, st.st_uid);
	if ((st.st_mode & 07777) != mode && fchmod(fd, mode) < 0)
		return error_errno(e, -errno, "cannot set the mode of %s", path);
	return take_fd(&fd);
}

static int take_lock(struct belayd *b, struct error *e)
{
	b->lock = openat(b->dir, "lock", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (b->lock < 0)
		return error_errno(e, -errno, "cannot make %s/lock", b->instance.dir);
	if (flock(b->lock, LOCK_EX | LOCK_NB) < 0)
		return error_set(e, -EBUSY,
			"cannot start: a belayd serves %s already (try `belay status`)",
			b->instance.dir);
	return 0;
}

static int open_control(struct belayd *b, int *ret, struct error *e)
{
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d/control", b->dir);
	if (fd < 0)
		return error_errno(e, -errno, "cannot make the control socket");
	/* We hold the lock, so whatever lies there is a dead predecessor's. */
	if (unlinkat(b->dir, "control", 0) < 0 && errno != ENOENT)
		return error_errno(e, -errno, "cannot remove the old %s/control", b->instance.dir);
	mode_t before = umask(0111); /* 0666: who may do what is decided by the guard */
	int r = bind(fd, (struct sockaddr *)&sa, sizeof(sa));
	int err = errno;
	umask(before);
	if (r < 0 || listen(fd, CONTROL_BACKLOG) < 0)
		return error_errno(
			e, r < 0 ? -err : -errno, "cannot listen on %s/control", b->instance.dir);
	*ret = take_fd(&fd);
	return 0;
}

static int open_states(struct belayd *b, struct error *e)
{
	int r = make_parents(b->state);
	if (r < 0)
		return error_errno(e, r, "cannot make the directories above %s", b->state);
	_cleanup_close_ int state =
		make_dir(AT_FDCWD, b->state, getuid(), b->host ? 0711 : 0700, e);
	if (state < 0)
		return state;
	for (int i = 1; i < _ROLE_N; i++) {
		struct child *c = &b->child[i];
		if (!heritage_has_state((enum role)i))
			continue;
		uid_t uid = privilege_uid(b, (enum role)i);
		c->state_dir = make_dir(state, role_name((enum role)i), uid, 0700, e);
		if (c->state_dir < 0)
			return c->state_dir;
	}
	return 0;
}

int place_open(struct belayd *b, int *ret_control, struct error *e)
{
	int r = make_parents(b->instance.dir);
	if (r < 0)
		return error_errno(e, r, "cannot make the directories above %s", b->instance.dir);
	b->dir = make_dir(AT_FDCWD, b->instance.dir, getuid(), b->host ? 0755 : 0700, e);
	if (b->dir < 0)
		return b->dir;
	r = take_lock(b, e);
	if (!r)
		r = open_states(b, e);
	return r < 0 ? r : open_control(b, ret_control, e);
}

void place_close(struct belayd *b)
{
	/* A client must not wait on a socket nobody will serve. The lock stays until the process is
	 * gone. */
	if (b->lock >= 0)
		unlinkat(b->dir, "control", 0);
}
