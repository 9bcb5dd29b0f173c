/*
 * bind(2) and listen(2) on Unix sockets, netlink's bind(2). A path is bound by a child of this
 * process that takes the caller's place first: its user namespace, root and working directory, its
 * ids, umask and capabilities. So the name is the caller's own bytes, resolved by the kernel as the
 * caller would have it, and a file system that never answers holds up the child alone. The child
 * keeps no descriptor but the socket. Abstract names and netlink's numbers need none of that.
 *
 * A path to connect to is walked by such a child too when the kernel has not got all of it in its
 * cache; afterwards it has, and this process looks without waiting.
 *
 * Why not let the call through: a second thread could by then have put a socket of the fabric under
 * the same number, and what was looked at would not be what is bound.
 *
 * Input: a hostile program's address, and its /proc files, which the kernel writes. Invariant: the
 * child does one thing to one socket with no more power than the caller has; nothing it does
 * allocates or locks. Cost: a fork(2) and some fifteen system calls, once a Unix listener.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/log.h"
#include "enforce/enforce.h"
#include "enforce/listener.h"
#include "enforce/target.h"

#define CHILD_SOCKET 3 /* or the directory of a pipe */
#define CHILD_SHM 4
#define SHM_LINK "/dev/shm/"

struct order {
	enum { ORDER_BIND, ORDER_LISTEN, ORDER_WALK, ORDER_FIFO } what;
	bool host, relative;
	int sock, root, cwd, user_ns, backlog;
	int shm; /* a pipe for the tree alone is made there, or -1 */
	mode_t mode;
	uid_t owner; /* of the user namespace: whoever has its user id may enter */
	struct target_ids ids;
	struct sockaddr_un name;
	socklen_t name_len;
	char path[PATH_MAX]; /* to walk; of a pipe in shm: where its link leads */
};

/* ---- in the child ---- */

/* On a host this process has a user of its own: become the one who may enter the caller's
 * namespace. */
static int become_owner(const struct order *o)
{
	if (!o->host)
		return 0;
	if (syscall(__NR_setgroups, o->ids.n_groups, o->ids.groups) < 0 ||
		syscall(__NR_setresgid, o->ids.egid, o->ids.egid, o->ids.egid) < 0 ||
		syscall(__NR_setresuid, o->owner, o->owner, o->owner) < 0)
		return -errno;
	return 0;
}

static int enter(const struct order *o)
{
	if (setns(o->user_ns, CLONE_NEWUSER) < 0 || fchdir(o->root) < 0 || chroot(".") < 0)
		return -errno;
	return fchdir(o->cwd) < 0 && o->relative ? -errno : 0;
}

/* The capabilities it has here by entering become those the caller has. */
static int become_caller(const struct order *o)
{
	if (syscall(__NR_setresgid, o->ids.egid, o->ids.egid, o->ids.egid) < 0 ||
		syscall(__NR_setresuid, o->ids.euid, o->ids.euid, o->ids.euid) < 0)
		return -errno;
	setfsgid(o->ids.gid);
	setfsuid(o->ids.uid);
	if ((uid_t)setfsuid((uid_t)-1) != o->ids.uid || (gid_t)setfsgid((gid_t)-1) != o->ids.gid)
		return -EPERM;
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct cap[2];
	if (syscall(__NR_capget, &head, cap) < 0)
		return -errno;
	for (int i = 0; i < 2; i++) {
		cap[i].permitted &= (uint32_t)(o->ids.capabilities >> (32 * i));
		cap[i].effective = cap[i].permitted;
		cap[i].inheritable = 0;
	}
	return syscall(__NR_capset, &head, cap) < 0 ? -errno : 0;
}

static int make_fifo(const struct order *o)
{
	const char *name = o->name.sun_path, *own = o->path + strlen(SHM_LINK);
	if (o->shm < 0)
		return mknodat(CHILD_SOCKET, name, S_IFIFO | o->mode, 0) < 0 ? -errno : 0;
	if (mknodat(CHILD_SHM, own, S_IFIFO | o->mode, 0) < 0)
		return -errno;
	if (symlinkat(o->path, CHILD_SOCKET, name) == 0)
		return 0;
	int error = errno;
	(void)!unlinkat(CHILD_SHM, own, 0);
	return -error;
}

static int act(const struct order *o)
{
	int r = become_owner(o);
	if (r < 0 || (r = enter(o)) < 0 || (r = become_caller(o)) < 0)
		return r == -ENOENT ? r : -EACCES;
	umask(o->ids.umask);
	int shm = o->shm < 0 ? -1 : fcntl(o->shm, F_DUPFD_CLOEXEC, CHILD_SHM + 1);
	/* A path through /proc/self/fd must find nothing of this process. */
	if (dup3(o->sock, CHILD_SOCKET, O_CLOEXEC) < 0 && errno != EINVAL)
		return -errno;
	if (shm >= 0 && dup3(shm, CHILD_SHM, O_CLOEXEC) < 0)
		return -errno;
	if (syscall(__NR_close_range, CHILD_SOCKET + 1 + (shm >= 0), ~0u, 0) < 0)
		return -errno;
	if (o->what == ORDER_FIFO)
		return make_fifo(o);
	if (o->what == ORDER_WALK)
		return open(o->path, O_PATH | O_CLOEXEC) < 0 ? -errno : 0;
	if (o->what == ORDER_LISTEN)
		return listen(CHILD_SOCKET, o->backlog) < 0 ? -errno : 0;
	const struct sockaddr *sa = (const struct sockaddr *)&o->name;
	return bind(CHILD_SOCKET, sa, o->name_len) < 0 ? -errno : 0;
}

/* ---- its parent ---- */

static pid_t act_fork(const struct order *o)
{
	sigset_t all, old;
	sigfillset(&all); /* the loop's handlers write to a pipe that both would share */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pid_t pid = fork();
	if (pid == 0)
		_exit(-act(o));
	int error = errno;
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return pid < 0 ? -error : pid;
}

static int order_fill(struct enforce *e, struct request *r, struct order *o)
{
	pid_t tid = (pid_t)r->n.pid;
	o->host = e->c->heritage.host;
	o->root = target_magic(tid, "root", O_PATH | O_DIRECTORY);
	o->cwd = o->root < 0 ? o->root : target_magic(tid, "cwd", O_PATH | O_DIRECTORY);
	o->user_ns = o->cwd < 0 ? o->cwd : target_magic(tid, "ns/user", O_RDONLY);
	if (o->user_ns < 0)
		return o->user_ns;
	o->sock = o->what == ORDER_FIFO ? r->unix_fd : r->sock >= 0 ? r->sock : o->root;
	if (ioctl(o->user_ns, NS_GET_OWNER_UID, &o->owner) < 0)
		return -errno;
	return target_ids(tid, &o->ids);
}

static struct act *act_free(struct enforce *e)
{
	for (uint32_t i = 0; i < ACTS_MAX && e->n_act < ACTS_MAX; i++)
		if (!e->act[i].pid)
			return &e->act[i];
	return NULL;
}

static void act_start(struct enforce *e, struct request *r, struct order *o)
{
	struct act *a = r->tree->acts < TREE_ACTS_MAX ? act_free(e) : NULL;
	if (!a) {
		call_wait(e, r, REQUEST_WAIT_TICK);
		return;
	}
	o->root = o->cwd = o->user_ns = -1;
	int bad = order_fill(e, r, o);
	bool valid = call_valid(r);
	if (!bad && valid) {
		pid_t pid = act_fork(o);
		bad = pid < 0 ? pid : 0;
		*a = bad ? (struct act){0}
			 : (struct act){pid, r->tree->id, r->n.id, o->what == ORDER_WALK};
	}
	const int fds[] = {o->root, o->cwd, o->user_ns};
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		if (fds[i] >= 0)
			close(fds[i]);
	if (!valid) {
		call_drop(e, r);
	} else if (bad) {
		call_reply(e, r, -EACCES, 0);
	} else {
		e->n_act++;
		r->tree->acts++;
		call_wait(e, r, REQUEST_WAIT_ACT);
	}
}

/* A predecessor's child may have done it while the answer was lost. */
static bool named_already(const struct request *r, const struct order *o)
{
	struct sockaddr_un own = {0};
	socklen_t len = sizeof(own);
	return getsockname(r->sock, (struct sockaddr *)&own, &len) == 0 &&
	       len > sizeof(own.sun_family) &&
	       !strncmp(own.sun_path, o->name.sun_path, sizeof(own.sun_path));
}

/* It receives from now on, without another call. */
static void bound_datagram(struct enforce *e, struct request *r)
{
	pid_t pid;
	if (target_process((pid_t)r->n.pid, &pid, &r->pidfd) == 0 && call_valid(r))
		listener_note(e, r);
}

bool act_ended(struct enforce *e, pid_t pid, int status)
{
	struct act *a = NULL;
	for (uint32_t i = 0; i < ACTS_MAX && e->n_act && !a; i++)
		if (e->act[i].pid == pid)
			a = &e->act[i];
	if (!a)
		return false;
	struct act was = *a;
	*a = (struct act){0};
	e->n_act--;
	struct tree *t = tree_find(e, was.tree);
	if (t)
		t->acts--;
	for (uint32_t i = 0; t && i < JOURNAL_SLOTS; i++) {
		struct request *r = &e->request[i];
		if (r->tree != t || r->state != REQUEST_WAIT_ACT || r->n.id != was.call)
			continue;
		int error = WIFEXITED(status) ? -WEXITSTATUS(status) : -EACCES;
		r->walked = was.walk && !error;
		if (r->walked) {
			call_serve(e, r);
			break;
		}
		if (!error && r->n.data.nr == __NR_bind && r->type == SOCK_DGRAM)
			bound_datagram(e, r);
		call_reply(e, r, error, 0);
		break;
	}
	return true;
}

void act_gone(struct enforce *e, const struct request *r)
{
	for (uint32_t i = 0; i < ACTS_MAX && e->n_act; i++)
		if (e->act[i].pid && e->act[i].tree == r->tree->id && e->act[i].call == r->n.id)
			kill(e->act[i].pid, SIGKILL); /* not reaped yet: the number is its own */
}

/* ---- the calls ---- */

static int read_name(struct request *r, void *name, size_t max, socklen_t *ret_len)
{
	uint64_t len = r->n.data.args[2];
	*ret_len = (socklen_t)len;
	if ((uint32_t)len < sizeof(sa_family_t) || (uint32_t)len > max)
		return -EINVAL;
	return target_read((pid_t)r->n.pid, r->n.data.args[1], name, *ret_len);
}

/* Of the tree's own network namespace, where the names and numbers are nobody else's. */
static bool is_own(const struct request *r)
{
	uint64_t own = r->tree->diag < 0 ? 0 : sock_cookie_netns(r->tree->diag);
	return own && sock_cookie_netns(r->sock) == own;
}

static void unix_bind(struct enforce *e, struct request *r)
{
	struct order o = {.shm = -1};
	int bad = read_name(r, &o.name, sizeof(o.name), &o.name_len);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad && o.name.sun_family != AF_UNIX)
		bad = -EINVAL;
	if (!bad && r->again && named_already(r, &o)) {
		call_reply(e, r, 0, 0);
		return;
	}
	bool path = o.name_len > offsetof(struct sockaddr_un, sun_path) && o.name.sun_path[0];
	o.relative = o.name.sun_path[0] != '/';
	if (!bad && path) {
		act_start(e, r, &o);
		return;
	}
	if (!bad)
		bad = !is_own(r)                                                  ? -EACCES
		      : bind(r->sock, (struct sockaddr *)&o.name, o.name_len) < 0 ? -errno
										  : 0;
	call_reply(e, r, bad, 0);
}

/* Number 0 asks for the caller's own process id, which here would be ours. */
static int netlink_number(const struct request *r, struct sockaddr_nl *sa)
{
	bool any = !sa->nl_pid;
	if (any)
		sa->nl_pid = r->pid;
	if (bind(r->sock, (struct sockaddr *)sa, sizeof(*sa)) == 0)
		return 0;
	if (!any || (errno != EADDRINUSE && errno != EINVAL))
		return -errno;
	sa->nl_pid = 0; /* taken, or named already: then 0 leaves it */
	return bind(r->sock, (struct sockaddr *)sa, sizeof(*sa)) < 0 ? -errno : 0;
}

static void netlink_bind(struct enforce *e, struct request *r)
{
	struct sockaddr_storage sa = {0};
	struct sockaddr_nl *nl = (struct sockaddr_nl *)&sa;
	socklen_t len;
	int bad = read_name(r, &sa, sizeof(sa), &len);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad && (len < sizeof(*nl) || nl->nl_family != AF_NETLINK))
		bad = -EINVAL;
	if (!bad && !is_own(r))
		bad = -EACCES;
	call_reply(e, r, bad ? bad : netlink_number(r, nl), 0);
}

void act_walk(struct enforce *e, struct request *r, const char *path)
{
	struct order o = {.what = ORDER_WALK, .relative = path[0] != '/', .shm = -1};
	snprintf(o.path, sizeof(o.path), "%s", path);
	act_start(e, r, &o);
}

void act_fifo(struct enforce *e, struct request *r, int shm)
{
	static uint64_t made;
	bool at = r->n.data.nr == __NR_mknodat;
	struct order o = {.what = ORDER_FIFO,
		.shm = shm,
		.mode = (mode_t)r->n.data.args[at ? 2 : 1] & 07777,
		.name = r->to};
	/* Unlike any other's: two of one tree, or of a successor of this process. */
	snprintf(o.path, sizeof(o.path), SHM_LINK "pipe-%llx-%llx-%llx",
		(unsigned long long)r->tree->id, (unsigned long long)r->n.id,
		(unsigned long long)++made);
	act_start(e, r, &o);
}

void act_serve(struct enforce *e, struct request *r)
{
	struct order o = {.what = ORDER_LISTEN, .shm = -1, .backlog = (int)r->n.data.args[1]};
	if (r->state == REQUEST_WAIT_ACT)
		return;
	if (r->n.data.nr == __NR_bind && r->family == AF_UNIX)
		unix_bind(e, r);
	else if (r->n.data.nr == __NR_bind)
		netlink_bind(e, r);
	else if (r->family != AF_UNIX)
		call_reply(e, r, -EOPNOTSUPP, 0);
	else
		act_start(e, r, &o);
}
