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
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/clock.h"
#include "enforce/diag.h"
#include "enforce/enforce.h"
#include "enforce/listener.h"
#include "enforce/path.h"
#include "enforce/target.h"

#define ERESTARTSYS_ 512

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
	if (r->n.data.nr != __NR_connect) {
		dgram_answered(e, r, error);
		return;
	}
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

int unix_judge(struct enforce *e, struct request *r)
{
	static struct path p;
	p.fd = r->unix_fd;
	int bad = path_socket(e, r->tree, (pid_t)r->n.pid, &p);
	if (bad || listener_own(e, r->tree, &p.st))
		return bad;
	Belay__Question q;
	int fds[2] = {r->pidfd};
	size_t n = listener_question(e, &p, &q, &fds[1]);
	r->answer_to = ANSWER_UNIX;
	question_ask(e, r, &q, fds, 1 + n);
	return 1;
}

static int read_address(struct request *r, struct sockaddr_un *sa, socklen_t *ret_len)
{
	uint64_t len = r->n.data.args[2];
	*ret_len = (socklen_t)len;
	memset(sa, 0, sizeof(*sa));
	if (len < sizeof(sa->sun_family) || len > sizeof(*sa))
		return -EINVAL;
	int bad = target_read((pid_t)r->n.pid, r->n.data.args[1], sa, (size_t)len);
	if (!bad && sa->sun_family == AF_UNIX && len <= offsetof(struct sockaddr_un, sun_path))
		bad = -EINVAL;
	return bad;
}

int unix_resolve(struct enforce *e, struct request *r, const struct sockaddr_un *sa)
{
	char path[sizeof(sa->sun_path) + 1] = {0};
	bool walked = r->walked;
	memcpy(path, sa->sun_path, sizeof(sa->sun_path));
	r->walked = false;
	if (r->unix_fd >= 0)
		close(r->unix_fd);
	int fd = path_find(e, (pid_t)r->n.pid, path);
	r->unix_fd = fd < 0 ? -1 : fd;
	if (fd == -EAGAIN && !walked) {
		act_walk(e, r, path);
		return 1;
	}
	/* Again: a file system that has everything asked of it again. */
	return fd >= 0 ? 0 : fd == -EAGAIN ? -EACCES : fd;
}

/* A datagram socket may change its peer, or have none. */
static bool peer_stands(struct enforce *e, struct request *r, const struct sockaddr_un *sa)
{
	struct sockaddr_storage peer;
	socklen_t len = sizeof(peer);
	if (r->type == SOCK_DGRAM && sa->sun_family == AF_UNSPEC) {
		unix_finish(e, r, connect_now(e, r, sa, sizeof(sa->sun_family)));
		return true;
	}
	if (r->type == SOCK_DGRAM || getpeername(r->sock, (struct sockaddr *)&peer, &len) < 0)
		return false;
	call_reply(e, r, r->again ? 0 : -EISCONN, 0);
	return true;
}

void unix_connect_serve(struct enforce *e, struct request *r)
{
	struct sockaddr_un sa;
	socklen_t len;
	if (r->started && r->unix_fd >= 0) {
		connect_file(e, r);
		return;
	}
	int bad = read_address(r, &sa, &len);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad && peer_stands(e, r, &sa))
		return;
	if (!bad && sa.sun_family != AF_UNIX)
		bad = -EINVAL;
	if (!bad && !sa.sun_path[0]) {
		abstract_serve(e, r, &sa, len);
		return;
	}
	if (!bad)
		bad = unix_resolve(e, r, &sa);
	if (!bad)
		bad = unix_judge(e, r);
	if (bad < 0)
		call_reply(e, r, bad, 0);
	else if (!bad)
		connect_file(e, r);
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
