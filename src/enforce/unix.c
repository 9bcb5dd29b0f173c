/*
 * connect(2) to a Unix socket. The file is found as the caller would find it, held by descriptor,
 * and judged by where it is; the connection is then made to that very file, on the caller's socket.
 * Free when whoever listens there is of the caller's own tree, which the kernel's list of the
 * tree's network namespace says; else the guard decides by the path. Belay's own control socket is
 * refused always. The listener sees this process as its peer (SO_PEERCRED): docs/caveats.md.
 * Input: an address of a hostile program; every symbolic link on the way is its own. Cost: some ten
 * system calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/fds.h"
#include "base/log.h"
#include "base/mountinfo.h"
#include "enforce/diag.h"
#include "enforce/enforce.h"
#include "enforce/listener.h"
#include "enforce/target.h"

#define ERESTARTSYS_ 512
#define FDINFO_MAX 4096

/* ---- acting with the caller's permissions, on a host, where this process has a uid of its own
 * ---- */

/*
 * The file system ids decide what it may open; the effective ones are what a listener sees as its
 * peer. Real and saved ids stay this process's own: they are what decides who may signal or trace
 * it. The raw calls change only this thread, which is the only one that matters.
 */
struct actor {
	bool changed;
	uid_t uid;
	gid_t gid;
};

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

static int actor_set(const struct enforce *e, pid_t tid, struct actor *a)
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

static void actor_reset(const struct actor *a)
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
static int find_file(struct enforce *e, struct request *r, const char *path)
{
	bool absolute = path[0] == '/';
	_cleanup_close_ int base =
		target_magic((pid_t)r->n.pid, absolute ? "root" : "cwd", O_PATH | O_DIRECTORY);
	if (base < 0)
		return base;
	struct open_how how = {.flags = O_PATH | O_CLOEXEC,
		.resolve =
			RESOLVE_NO_MAGICLINKS | RESOLVE_CACHED | (absolute ? RESOLVE_IN_ROOT : 0)};
	struct actor actor;
	int n = actor_set(e, (pid_t)r->n.pid, &actor);
	if (n >= 0) {
		n = (int)syscall(__NR_openat2, base, path, &how, sizeof(how));
		n = n < 0 ? -errno : n;
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

static bool on_fuse(const struct request *r)
{
	char path[64];
	_cleanup_free_ char *text = NULL;
	size_t len;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", r->unix_fd);
	if (fds_read_file(AT_FDCWD, path, FDINFO_MAX, &text, &len) < 0)
		return true;
	const char *at = strstr(text, "mnt_id:");
	if (!at)
		return true;
	int id = atoi(at + strlen("mnt_id:"));
	snprintf(path, sizeof(path), "/proc/%d/mountinfo", (int)r->n.pid);
	return mount_is_fuse(path, id) && mount_is_fuse("/proc/self/mountinfo", id);
}

static bool is_control(struct enforce *e, const struct stat *st)
{
	char path[HERITAGE_DIR_MAX + 16];
	struct stat own;
	snprintf(path, sizeof(path), "%s/control", e->c->heritage.dir);
	return stat(path, &own) == 0 && own.st_dev == st->st_dev && own.st_ino == st->st_ino;
}

static bool has_control_path(struct enforce *e, const char *path)
{
	size_t n = strlen(e->c->heritage.dir);
	return !strncmp(path, e->c->heritage.dir, n) && path[n] == '/';
}

/* ---- connecting ---- */

/* Without ever waiting: the program's own flag is taken back at once. */
static int connect_now(
	struct enforce *e, struct request *r, const struct sockaddr_un *sa, socklen_t len)
{
	struct actor actor;
	int flags = fcntl(r->sock, F_GETFL), n = actor_set(e, (pid_t)r->n.pid, &actor);
	if (n >= 0 && flags >= 0) {
		bool blocking = !(flags & O_NONBLOCK);
		if (blocking)
			fcntl(r->sock, F_SETFL, flags | O_NONBLOCK);
		watchdog_start();
		n = connect(r->sock, (const struct sockaddr *)sa, len) < 0 ? -errno : 0;
		watchdog_stop();
		if (blocking)
			fcntl(r->sock, F_SETFL, flags);
	}
	actor_reset(&actor);
	return n == -EINTR ? -EAGAIN : n;
}

static void unix_finish(struct enforce *e, struct request *r, int n)
{
	int flags = fcntl(r->sock, F_GETFL);
	if (n != -EAGAIN || flags < 0 || (flags & O_NONBLOCK)) {
		call_reply(e, r, n, 0);
		return;
	}
	/* The listener's queue is full; the kernel offers nothing to wait on. */
	if (r->state == REQUEST_WAIT_TICK && target_signalled((pid_t)r->n.pid) > 0)
		call_reply(e, r, -ERESTARTSYS_, 0);
	else
		call_wait(e, r, REQUEST_WAIT_TICK);
}

static void connect_file(struct enforce *e, struct request *r)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	r->started = true;
	int n = snprintf(sa.sun_path, sizeof(sa.sun_path), "/proc/self/fd/%d", r->unix_fd);
	unix_finish(e, r,
		connect_now(e, r, &sa,
			(socklen_t)(offsetof(struct sockaddr_un, sun_path) + (size_t)n + 1)));
}

void unix_connect_answered(struct enforce *e, struct request *r, int error)
{
	if (error) {
		call_reply(e, r, error, 0);
		return;
	}
	unix_refuse_rights(r->sock); /* another tree's, or outside: it gives this one nothing */
	connect_file(e, r);
}

/* ---- the call ---- */

static void abstract_serve(
	struct enforce *e, struct request *r, const struct sockaddr_un *sa, socklen_t len)
{
	/* Abstract names belong to the socket's network namespace: only the tree's own will do. */
	uint64_t own = r->tree->diag < 0 ? 0 : sock_cookie_netns(r->tree->diag);
	if (!own || sock_cookie_netns(r->sock) != own)
		call_reply(e, r, -EACCES, 0);
	else
		unix_finish(e, r, connect_now(e, r, sa, len));
}

static void path_judge(struct enforce *e, struct request *r)
{
	struct stat st;
	char link[64], path[PATH_MAX];
	if (on_fuse(r)) {
		tree_notice(
			r->tree, "refused: a Unix socket in a file system that a program serves");
		call_reply(e, r, -EACCES, 0);
		return;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", r->unix_fd);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0 || n == sizeof(path) - 1 || fstat(r->unix_fd, &st) < 0) {
		call_reply(e, r, -EACCES, 0);
		return;
	}
	path[n] = '\0';
	if (!S_ISSOCK(st.st_mode)) {
		call_reply(e, r, -ECONNREFUSED, 0);
		return;
	}
	if (is_control(e, &st) || has_control_path(e, path)) {
		tree_notice(r->tree, "refused: Belay's own sockets are not for bound programs");
		call_reply(e, r, -EACCES, 0);
		return;
	}
	if (diag_listens(r->tree->diag, &st) == 1) {
		connect_file(e, r);
		return;
	}
	Belay__Question q = BELAY__QUESTION__INIT;
	q.call = BELAY__QUESTION__CALL__CALL_UNIX_CONNECT;
	q.transport = BELAY__TRANSPORT__TRANSPORT_UNIX;
	q.family = AF_UNIX;
	q.unix_path = path;
	const struct listener *l = listener_find(e, &st);
	int fds[] = {r->pidfd, l ? l->pidfd : -1};
	if (l) {
		q.unix_peer_pid = l->pid;
		q.unix_peer_tree = l->tree;
	}
	r->answer_to = ANSWER_UNIX;
	question_ask(e, r, &q, fds, l ? 2 : 1);
}

static int read_address(struct request *r, struct sockaddr_un *sa, socklen_t *ret_len)
{
	uint64_t len = r->n.data.args[2];
	*ret_len = (socklen_t)len;
	memset(sa, 0, sizeof(*sa));
	if (len <= offsetof(struct sockaddr_un, sun_path) || len > sizeof(*sa))
		return -EINVAL;
	int bad = target_read((pid_t)r->n.pid, r->n.data.args[1], sa, (size_t)len);
	return bad ? bad : sa->sun_family == AF_UNIX ? 0 : -EINVAL;
}

void unix_connect_serve(struct enforce *e, struct request *r)
{
	struct sockaddr_un sa;
	struct sockaddr_storage peer;
	socklen_t len, peer_len = sizeof(peer);
	if (r->started && r->unix_fd >= 0) {
		connect_file(e, r);
		return;
	}
	int bad = read_address(r, &sa, &len);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad && r->type == SOCK_DGRAM)
		bad = -EACCES; /* its later datagrams name paths of their own */
	else if (!bad && getpeername(r->sock, (struct sockaddr *)&peer, &peer_len) == 0) {
		call_reply(e, r, r->again ? 0 : -EISCONN, 0);
		return;
	}
	if (!bad && !sa.sun_path[0]) {
		abstract_serve(e, r, &sa, len);
		return;
	}
	char path[sizeof(sa.sun_path) + 1] = {0};
	if (!bad) {
		memcpy(path, sa.sun_path, sizeof(sa.sun_path));
		if (r->unix_fd >= 0)
			close(r->unix_fd);
		r->unix_fd = find_file(e, r, path);
		bad = r->unix_fd < 0 ? r->unix_fd : 0;
	}
	if (bad == -EAGAIN && !r->walked) {
		r->unix_fd = -1;
		act_walk(e, r, path);
		return;
	}
	r->walked = false;
	if (bad == -EAGAIN)
		bad = -EACCES; /* a file system that has everything asked of it again */
	if (bad && r->unix_fd < 0)
		r->unix_fd = -1;
	if (bad)
		call_reply(e, r, bad, 0);
	else
		path_judge(e, r);
}

/* ---- socketpair ---- */

static int install(const struct request *r, int fd, int flags)
{
	struct seccomp_notif_addfd a = {.id = r->n.id,
		.srcfd = (uint32_t)fd,
		.newfd_flags = flags & SOCK_CLOEXEC ? O_CLOEXEC : 0};
	int n = ioctl(r->tree->notify, SECCOMP_IOCTL_NOTIF_ADDFD, &a);
	return n < 0 ? -errno : n;
}

/*
 * A pair of datagram sockets, which programs use to wake themselves, would take a path with every
 * sendmsg. The program gets a pair that keeps message bounds just the same, but is connected for
 * good. A caller that dies or gives a bad address keeps the descriptors.
 */
void unix_pair_serve(struct enforce *e, struct request *r)
{
	int type = (int)r->n.data.args[1], v[2], got[2] = {-1, -1};
	if ((int)r->n.data.args[0] != AF_UNIX || (int)r->n.data.args[2] != 0 ||
		(type & ~(0xf | SOCK_NONBLOCK | SOCK_CLOEXEC)) ||
		((type & 0xf) != SOCK_DGRAM && (type & 0xf) != SOCK_RAW)) {
		call_reply(e, r, -EOPNOTSUPP, 0);
		return;
	}
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | (type & SOCK_NONBLOCK), 0, v) < 0) {
		call_reply(e, r, -ENFILE, 0);
		return;
	}
	got[0] = install(r, v[0], type);
	got[1] = got[0] < 0 ? got[0] : install(r, v[1], type);
	close(v[0]);
	close(v[1]);
	int bad = got[1] < 0 ? got[1] : 0;
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad)
		bad = target_write((pid_t)r->n.pid, r->n.data.args[3], got, sizeof(got));
	call_reply(e, r, bad, 0);
}
