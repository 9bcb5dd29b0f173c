/*
 * Unix datagram sockets. Each sendmsg(2) on one may name another path, in memory that a second
 * thread can change, so a program is never given one that can send: its socket is of the right
 * kind, receives and is bound and connected like any other, but is shut for sending before the
 * program has it, for good. What is sent is sent from here, on a socket of this process's own, to
 * the file that was found in the caller's place and judged: the one named, or else the one the
 * socket is connected to. So that send(2) and sendmsg(2) come here at all the socket gets one of
 * the numbers the filter traps (DATAGRAM_FD_FIRST); under any other number they fail with EPIPE.
 *
 * The receiver sees the caller's user and group, and its process number where this process has
 * CAP_SYS_ADMIN (a host instance), which is raised for that one call; else this process's.
 *
 * A verdict is good for LEASE_MS for the same process, socket and address, so that a line to the
 * log costs no question. Input: addresses, lengths and data of a hostile program. Cost, with a
 * lease: some twenty system calls and two copies.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/netlink.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/fds.h"
#include "base/log.h"
#include "enforce/diag.h"
#include "enforce/enforce.h"
#include "enforce/listener.h"
#include "enforce/message.h"
#include "enforce/path.h"
#include "enforce/target.h"
#include "ipc/control.h"

#define LEASE_MS 1000
#define ERESTARTSYS_ 512

/* ---- the one power that is not held all the time ---- */

static void names_pids(const struct enforce *e, bool on)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct cap[2];
	const uint32_t bit = 1u << CAP_SYS_ADMIN;
	_Static_assert(CAP_SYS_ADMIN < 32, "the first word");
	if (!e->names_pids || syscall(__NR_capget, &head, cap) < 0)
		return;
	cap[0].effective = on ? cap[0].effective | bit : cap[0].effective & ~bit;
	if (syscall(__NR_capset, &head, cap) < 0 && !on)
		_exit(1); /* never serve the next caller with that */
}

int dgram_init(struct enforce *e)
{
	/* Tells which file a datagram socket is bound to: they are of our own network namespace. */
	e->diag = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	e->lease_timer.data = e;
	return uv_timer_init(&e->c->loop, &e->lease_timer);
}

void dgram_lower(struct enforce *e)
{
	struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct cap[2];
	e->names_pids =
		syscall(__NR_capget, &head, cap) == 0 && cap[0].permitted & 1u << CAP_SYS_ADMIN;
	names_pids(e, false);
}

/* ---- making one ---- */

static int install(const struct request *r, int fd, int type, int at)
{
	struct seccomp_notif_addfd a = {.id = r->n.id,
		.flags = at < 0 ? 0 : (uint32_t)SECCOMP_ADDFD_FLAG_SETFD,
		.srcfd = (uint32_t)fd,
		.newfd = at < 0 ? 0 : (uint32_t)at,
		.newfd_flags = type & SOCK_CLOEXEC ? O_CLOEXEC : 0};
	int n = ioctl(r->tree->notify, SECCOMP_IOCTL_NOTIF_ADDFD, &a);
	return n < 0 ? -errno : n;
}

/*
 * A number of the trapped ones that the caller does not use, or -1. Between this look and the use a
 * thread could only open that number if all below it were in use, so then we do without.
 */
static int number_free(pid_t tid)
{
	for (int n = DATAGRAM_FD_FIRST - 1; n < DATAGRAM_FD_FIRST + DATAGRAM_FDS; n++) {
		int fd = target_fd(tid, n);
		if (fd >= 0)
			(void)fds_discard(fd);
		if (n < DATAGRAM_FD_FIRST ? fd != -EBADF : fd == -EBADF)
			return n < DATAGRAM_FD_FIRST ? -1 : n;
	}
	return -1;
}

void dgram_socket_serve(struct enforce *e, struct request *r)
{
	int type = (int)r->n.data.args[1], kind = type & 0xf;
	if ((type & ~(0xf | SOCK_NONBLOCK | SOCK_CLOEXEC)) ||
		(kind != SOCK_DGRAM && kind != SOCK_RAW)) {
		call_reply(e, r, -ESOCKTNOSUPPORT, 0);
		return;
	}
	if (r->n.data.args[2] && (int)r->n.data.args[2] != AF_UNIX) {
		call_reply(e, r, -EPROTONOSUPPORT, 0);
		return;
	}
	_cleanup_close_ int fd =
		socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | (type & SOCK_NONBLOCK), 0);
	if (fd < 0 || shutdown(fd, SHUT_WR) < 0) {
		call_reply(e, r, -ENFILE, 0);
		return;
	}
	unix_refuse_rights(fd);
	int at = number_free((pid_t)r->n.pid), n = -1;
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (at >= 0)
		n = install(r, fd, type, at);
	if (n < 0)
		n = install(r, fd, type, -1); /* its limit is lower, or it uses all of them */
	call_reply(e, r, n < 0 ? n : 0, n);
}

/* ---- sending ---- */

static uint8_t data[DATAGRAM_MAX];

struct outgoing {
	char control[CMSG_SPACE(sizeof(struct ucred)) + CMSG_SPACE(RIGHTS_MAX * sizeof(int))]
		__attribute__((aligned(8)));
	struct msghdr h;
};

static void control_add(struct outgoing *o, int type, const void *what, size_t len)
{
	struct cmsghdr *c = (void *)(o->control + o->h.msg_controllen);
	*c = (struct cmsghdr){CMSG_LEN(len), SOL_SOCKET, type};
	memcpy(CMSG_DATA(c), what, len);
	o->h.msg_controllen += CMSG_SPACE(len);
}

static int send_as_caller(
	struct enforce *e, struct request *r, size_t len, const int *fds, size_t n_fds)
{
	struct sockaddr_un to = {.sun_family = AF_UNIX};
	struct iovec iov = {data, len};
	struct outgoing o = {.h = {.msg_name = &to,
				     .msg_namelen = sizeof(to),
				     .msg_iov = &iov,
				     .msg_iovlen = 1}};
	struct actor actor;
	_cleanup_close_ int out = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	snprintf(to.sun_path, sizeof(to.sun_path), "/proc/self/fd/%d", r->unix_fd);
	int bad = actor_set(e, (pid_t)r->n.pid, &actor);
	if (!bad && out >= 0) {
		struct ucred who = {e->names_pids ? (pid_t)r->pid : getpid(), geteuid(), getegid()};
		o.h.msg_control = o.control;
		control_add(&o, SCM_CREDENTIALS, &who, sizeof(who));
		if (n_fds)
			control_add(&o, SCM_RIGHTS, fds, n_fds * sizeof(*fds));
		names_pids(e, true);
		bad = sendmsg(out, &o.h, MSG_NOSIGNAL) < 0 ? -errno : 0;
		names_pids(e, false);
	}
	actor_reset(&actor);
	return out < 0 ? -ENFILE : bad;
}

/* ---- leases ---- */

static ino_t socket_of(const struct request *r)
{
	struct stat st;
	return fstat(r->sock, &st) < 0 ? 0 : st.st_ino;
}

static void lease_clear(struct lease *l)
{
	if (l->tree) {
		close(l->file);
		close(l->pidfd);
	}
	*l = (struct lease){0};
}

static void lease_expire(uv_timer_t *t)
{
	struct enforce *e = t->data;
	uint64_t now = clock_mono_ms(), left = 0;
	for (size_t i = 0; i < LEASES_MAX; i++) {
		struct lease *l = &e->lease[i];
		if (l->tree && l->until_ms <= now)
			lease_clear(l);
		else if (l->tree)
			left = LEASE_MS;
	}
	if (left)
		uv_timer_start(t, lease_expire, left, 0);
}

static struct lease *lease_find(
	struct enforce *e, const struct request *r, const struct sockaddr_un *to)
{
	ino_t socket = socket_of(r);
	for (size_t i = 0; i < LEASES_MAX; i++) {
		struct lease *l = &e->lease[i];
		if (l->tree == r->tree->id && l->pid == r->pid && l->socket == socket &&
			!memcmp(&l->to, to, sizeof(*to)) && l->until_ms > clock_mono_ms() &&
			fds_pidfd_alive(l->pidfd) == 1)
			return l;
	}
	return NULL;
}

/* Relative names are found anew each time. */
static void lease_make(struct enforce *e, const struct request *r, const struct sockaddr_un *to)
{
	int file = to->sun_path[0] == '/' ? fcntl(r->unix_fd, F_DUPFD_CLOEXEC, 3) : -1;
	int pidfd = file < 0 ? -1 : fcntl(r->pidfd, F_DUPFD_CLOEXEC, 3);
	if (pidfd < 0) {
		if (file >= 0)
			close(file);
		return;
	}
	struct lease *l = &e->lease[e->next_lease++ % LEASES_MAX];
	lease_clear(l);
	*l = (struct lease){.tree = r->tree->id,
		.pid = r->pid,
		.socket = socket_of(r),
		.to = *to,
		.file = file,
		.pidfd = pidfd,
		.until_ms = clock_mono_ms() + LEASE_MS};
	if (!uv_is_active((uv_handle_t *)&e->lease_timer))
		uv_timer_start(&e->lease_timer, lease_expire, LEASE_MS, 0);
}

void dgram_image_new(struct enforce *e, uint32_t pid)
{
	for (size_t i = 0; i < LEASES_MAX; i++)
		if (e->lease[i].pid == pid)
			lease_clear(&e->lease[i]);
}

/* ---- the calls ---- */

static void reply_sent(struct enforce *e, struct request *r, size_t len)
{
	uint32_t n = (uint32_t)len;
	bool many = r->n.data.nr == __NR_sendmmsg; /* of which it is the first, and only one */
	int bad = many ? target_write((pid_t)r->n.pid, r->n.data.args[1] + sizeof(struct msghdr),
				 &n, sizeof(n))
		       : 0;
	call_reply(e, r, bad, many ? 1 : (int64_t)len);
}

/* To r->unix_fd, which was judged; the data is the program's to change until now. */
static void send_judged(struct enforce *e, struct request *r)
{
	struct message m;
	int fds[RIGHTS_MAX], fl = fcntl(r->sock, F_GETFL);
	size_t n_fds = 0, len = 0;
	pid_t tid = (pid_t)r->n.pid, pid = 0;
	int bad = message_read(r, &m);
	if (!bad)
		bad = target_process(tid, &pid, &r->pidfd);
	if (!bad)
		bad = message_data(tid, &m, data, &len);
	if (!bad)
		bad = message_rights(tid, &m, fds, &n_fds);
	bool valid = call_valid(r);
	if (valid && !bad)
		bad = send_as_caller(e, r, len, fds, n_fds);
	for (size_t i = 0; i < n_fds; i++)
		(void)fds_discard(fds[i]);
	if (!valid) {
		call_drop(e, r);
	} else if (bad == -EAGAIN && fl >= 0 && !(fl & O_NONBLOCK) && !(m.flags & MSG_DONTWAIT)) {
		/* The receiver's queue is full; there is nothing to wait on. */
		if (r->state == REQUEST_WAIT_TICK && target_signalled(tid) > 0)
			call_reply(e, r, -ERESTARTSYS_, 0);
		else
			call_wait(e, r, REQUEST_WAIT_TICK);
	} else if (bad) {
		dgram_image_new(e, r->pid); /* who listens there may be gone: look again */
		call_reply(e, r, bad, 0);
	} else {
		reply_sent(e, r, len);
	}
}

static void send_first(struct enforce *e, struct request *r)
{
	pid_t pid;
	r->started = true;
	if (target_process((pid_t)r->n.pid, &pid, &r->pidfd) == 0)
		lease_make(e, r, &r->to);
	send_judged(e, r);
}

void dgram_answered(struct enforce *e, struct request *r, int error)
{
	if (error)
		call_reply(e, r, error, 0);
	else
		send_first(e, r);
}

void dgram_send_serve(struct enforce *e, struct request *r)
{
	struct message m;
	if (r->family != AF_UNIX || r->type != SOCK_DGRAM) {
		call_continue(e, r);
		return;
	}
	if (r->started && r->unix_fd >= 0) {
		send_judged(e, r);
		return;
	}
	int bad = message_read(r, &m);
	if (!bad && !m.to_len)
		bad = message_peer(r, &m);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad && !m.to.sun_path[0])
		bad = -EACCES; /* an abstract name: of another network namespace than the tree's */
	r->to = m.to;
	const struct lease *l = bad ? NULL : lease_find(e, r, &m.to);
	if (l && (r->unix_fd = fcntl(l->file, F_DUPFD_CLOEXEC, 3)) >= 0) {
		r->started = true;
		send_judged(e, r);
		return;
	}
	if (!bad)
		bad = unix_resolve(e, r, &m.to);
	if (!bad)
		bad = unix_judge(e, r);
	if (bad < 0)
		call_reply(e, r, bad, 0);
	else if (!bad)
		send_first(e, r);
}
