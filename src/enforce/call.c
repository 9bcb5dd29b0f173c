/*
 * Trapped calls: which is it, and how it ends. Input: a notification, every number of which the
 * program chose, from a filter the program's user chose: an unknown call or architecture is ENOSYS.
 * Two rules: a call is executed here and never continued, but for execve, of which nothing is read,
 * and for what is sent on sockets that the filter does not trap under other numbers; a request is
 * acted on only after call_valid() said that its caller still waits.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/log.h"
#include "enforce/enforce.h"
#include "enforce/listener.h"
#include "enforce/target.h"

#if defined(__x86_64__)
#define CALL_ARCH AUDIT_ARCH_X86_64
#else
#define CALL_ARCH AUDIT_ARCH_AARCH64
#endif
#define PORT_NEVER 65535 /* the one port the kernel would let a program bind by itself */

/* ---- states ---- */

static void sock_forget(struct enforce *e, struct request *r)
{
	if (r->sock < 0)
		return;
	/* Explicitly: the description lives on in the program, and epoll watches descriptions. */
	if (r->watched)
		epoll_ctl(e->ready, EPOLL_CTL_DEL, r->sock, NULL);
	r->watched = false;
	fds_close_foreign(r->sock);
	r->sock = -1;
}

void call_wait(struct enforce *e, struct request *r, enum request_state state)
{
	if (r->state == REQUEST_NONE)
		e->waiting++;
	if (state == REQUEST_ASKED || state != r->state)
		r->since_ms = clock_mono_ms();
	r->state = state;
	if (state != REQUEST_ASKED)
		tick_start(e);
	else
		tick_slow_start(e);
}

void call_wait_socket(struct enforce *e, struct request *r, uint32_t events)
{
	struct epoll_event ev = {
		.events = events | EPOLLONESHOT, .data.u32 = (uint32_t)(r - e->request)};
	if (epoll_ctl(e->ready, EPOLL_CTL_ADD, r->sock, &ev) < 0 &&
		epoll_ctl(e->ready, EPOLL_CTL_MOD, r->sock, &ev) < 0) {
		call_wait(e, r, REQUEST_WAIT_TICK);
		return;
	}
	r->watched = true;
	call_wait(e, r, REQUEST_WAIT_SOCKET);
}

void call_drop(struct enforce *e, struct request *r)
{
	struct tree *t = r->tree;
	if (r->state == REQUEST_WAIT_ACT && t)
		act_gone(e, r);
	if (r->state != REQUEST_NONE)
		e->waiting--;
	sock_forget(e, r);
	if (r->unix_fd >= 0)
		close(r->unix_fd);
	*r = (struct request){.sock = -1, .unix_fd = -1};
	journal_release(&e->journal, (uint32_t)(r - e->request));
	if (t) {
		t->requests--;
		tree_unpause(t);
	}
}

bool call_valid(const struct request *r)
{
	uint64_t id = r->n.id;
	return ioctl(r->tree->notify, SECCOMP_IOCTL_NOTIF_ID_VALID, &id) == 0;
}

/* A pidfd of the caller's process, or -1. */
static int process_of(const struct request *r)
{
	pid_t pid;
	int fd;
	if (target_process((pid_t)r->n.pid, &pid, &fd) < 0 || (uint32_t)pid != r->pid)
		return -1;
	return fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

static void call_send(struct enforce *e, struct request *r, struct seccomp_notif_resp *a)
{
	a->id = r->n.id;
	/* First, so that a close(2) of the program's that follows is the last one, and its to do.
	 */
	sock_forget(e, r);
	_cleanup_close_ int process = r->lease.generation ? process_of(r) : -1;
	int n = ioctl(r->tree->notify, SECCOMP_IOCTL_NOTIF_SEND, a);
	if (n < 0 && errno != ENOENT)
		log_peer("an answer was not taken: %s", strerror(errno));
	/* Taken: so the caller had waited all the while, and runs the image that was judged. */
	if (n == 0 && process >= 0)
		leased_keep(e, r, take_fd(&process));
	call_drop(e, r);
}

void call_reply(struct enforce *e, struct request *r, int error, int64_t value)
{
	struct seccomp_notif_resp a = {.error = error, .val = error ? 0 : value};
	call_send(e, r, &a);
}

void call_continue(struct enforce *e, struct request *r)
{
	struct seccomp_notif_resp a = {.flags = SECCOMP_USER_NOTIF_FLAG_CONTINUE};
	call_send(e, r, &a);
}

/* ---- bind and listen ---- */

static void ask(struct enforce *e, struct request *r, Belay__Question *q)
{
	int fds[] = {r->pidfd, r->sock};
	q->transport = r->type == SOCK_DGRAM ? BELAY__TRANSPORT__TRANSPORT_UDP
					     : BELAY__TRANSPORT__TRANSPORT_TCP;
	q->family = (uint32_t)r->family;
	r->answer_to = ANSWER_PLAIN;
	question_ask(e, r, q, fds, 2);
}

int call_own_name(const struct request *r, struct addr *ret)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	if (getsockname(r->sock, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	return addr_from_sockaddr(&sa, len, ret);
}

static int bind_address(const struct request *r, struct addr *ret)
{
	struct sockaddr_storage sa = {0};
	socklen_t len = (socklen_t)r->n.data.args[2];
	socklen_t need = r->family == AF_INET ? sizeof(struct sockaddr_in) : 24;
	if ((int)len < 0 || len > sizeof(sa))
		return -EINVAL;
	int bad = target_read((pid_t)r->n.pid, r->n.data.args[1], &sa, len);
	if (bad < 0)
		return bad;
	if (len < need)
		return -EINVAL;
	/* AF_UNSPEC with the wildcard is how some old programs say AF_INET. */
	if (r->family == AF_INET && sa.ss_family == AF_UNSPEC &&
		((struct sockaddr_in *)&sa)->sin_addr.s_addr == INADDR_ANY)
		sa.ss_family = AF_INET;
	if (sa.ss_family != r->family)
		return -EAFNOSUPPORT;
	return addr_from_sockaddr(&sa, sizeof(sa), ret);
}

static void bind_serve(struct enforce *e, struct request *r)
{
	struct addr own;
	int bad = bind_address(r, &r->address);
	if (bad >= 0 && !call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (bad >= 0 && r->address.port == PORT_NEVER)
		bad = -EACCES;
	if (bad < 0) {
		call_reply(e, r, bad, 0);
		return;
	}
	if (r->again && call_own_name(r, &own) == 0 && own.port &&
		(own.port == r->address.port || !r->address.port)) {
		call_reply(e, r, 0, 0); /* done, but the answer was lost */
		return;
	}
	Belay__Question q = BELAY__QUESTION__INIT;
	Belay__Addr a;
	question_addr(&a, &r->address);
	q.call = BELAY__QUESTION__CALL__CALL_BIND;
	q.address = &a;
	q.v6only = r->family == AF_INET6 && sock_int(r->sock, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
	q.reuse_port = sock_int(r->sock, SOL_SOCKET, SO_REUSEPORT) > 0;
	ask(e, r, &q);
}

static void listen_serve(struct enforce *e, struct request *r)
{
	Belay__Question q = BELAY__QUESTION__INIT;
	Belay__Addr a;
	if (r->type != SOCK_STREAM) {
		call_reply(e, r, -EOPNOTSUPP, 0);
		return;
	}
	q.call = BELAY__QUESTION__CALL__CALL_LISTEN;
	q.backlog = (int32_t)r->n.data.args[1];
	q.v6only = r->family == AF_INET6 && sock_int(r->sock, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
	q.reuse_port = sock_int(r->sock, SOL_SOCKET, SO_REUSEPORT) > 0;
	if (call_own_name(r, &r->address) == 0 && r->address.port) {
		question_addr(&a, &r->address);
		q.address = &a;
	}
	ask(e, r, &q);
}

/* ---- dispatch ---- */

/* As the call itself would say. The descriptor may be of any file, which is why it is not just
 * closed. */
static void not_a_socket(struct enforce *e, struct request *r)
{
	struct tree *t = r->tree;
	int error = r->family;
	bool kept = fds_discard(r->sock);
	r->sock = -1;
	call_reply(e, r, error, 0);
	if (!kept) {
		log_warn("tree %llu offers files that do not close", (unsigned long long)t->id);
		question_tree_gone(e, t->id);
		tree_remove(t);
	}
}

/* 1: the socket is of the fabric; 0: of the tree's own kind (Unix, netlink); else answered. */
static int sock_take(struct enforce *e, struct request *r)
{
	pid_t tid = (pid_t)r->n.pid, pid = 0;
	int bad = 0;
	if (r->sock < 0) {
		r->sock = target_fd(tid, (int)r->n.data.args[0]);
		bad = r->sock < 0 ? r->sock : 0;
		r->sock = bad ? -1 : r->sock;
	}
	if (!bad)
		bad = target_process(tid, &pid, &r->pidfd);
	r->pid = (uint32_t)pid;
	if (!call_valid(r)) {
		call_drop(e, r);
		return -ESRCH;
	}
	r->family = bad ? 0 : sock_domain(r->sock);
	r->type = bad ? 0 : sock_int(r->sock, SOL_SOCKET, SO_TYPE);
	if (!bad && r->family < 0) {
		not_a_socket(e, r);
		return -ENOTSOCK;
	}
	if (!bad && (r->family == AF_UNIX || r->family == AF_NETLINK))
		return 0;
	if (!bad && r->family != AF_INET && r->family != AF_INET6)
		bad = -EACCES;
	if (!bad && !e->cookie) {
		pool_refill(e); /* which namespace is the fabric's is not known yet */
		call_wait(e, r, REQUEST_WAIT_SOCKETS);
		return -EAGAIN;
	}
	if (!bad && sock_cookie_netns(r->sock) != e->cookie) {
		tree_notice(r->tree, "refused: a network socket from outside Belay");
		bad = -EACCES;
	}
	if (bad)
		call_reply(e, r, bad == -EPERM ? -EACCES : bad, 0);
	return bad ? bad : 1;
}

static void sock_serve(struct enforce *e, struct request *r)
{
	int kind = sock_take(e, r);
	if (kind < 0)
		return;
	switch (r->n.data.nr) {
	case __NR_connect:
		if (kind || r->family == AF_NETLINK)
			connect_serve(e, r);
		else
			unix_connect_serve(e, r);
		return;
	case __NR_sendto:
	case __NR_sendmsg:
	case __NR_sendmmsg:
		if (r->n.data.nr != __NR_sendto || !r->n.data.args[4] ||
			(r->family == AF_UNIX && r->type == SOCK_DGRAM))
			dgram_send_serve(e, r);
		else
			data_serve(e, r);
		return;
	case __NR_bind:
	case __NR_listen:
		if (!kind && r->family == AF_UNIX && r->n.data.nr == __NR_listen)
			listener_note(e, r);
		if (!kind)
			act_serve(e, r);
		else if (r->n.data.nr == __NR_bind)
			bind_serve(e, r);
		else
			listen_serve(e, r);
		return;
	}
}

void call_serve(struct enforce *e, struct request *r)
{
	if (r->n.data.arch != CALL_ARCH) {
		call_reply(e, r, -ENOSYS, 0);
		return;
	}
	switch (r->n.data.nr) {
	case __NR_socket:
		if ((int)r->n.data.args[0] == AF_UNIX)
			dgram_socket_serve(e, r);
		else
			pool_serve(e, r);
		return;
	case __NR_connect:
	case __NR_bind:
	case __NR_listen:
	case __NR_sendto:
	case __NR_sendmsg:
	case __NR_sendmmsg:
		sock_serve(e, r);
		return;
#ifdef __NR_mknod
	case __NR_mknod:
#endif
	case __NR_mknodat:
		fifo_serve(e, r);
		return;
	case __NR_socketpair:
		unix_pair_serve(e, r);
		return;
	case __NR_execve:
	case __NR_execveat:
		exec_serve(e, r);
		return;
	default:
		call_reply(e, r, -ENOSYS, 0);
	}
}

void call_answered(struct enforce *e, struct request *r, int error)
{
	r->again = true;
	switch (r->answer_to) {
	case ANSWER_CONNECT:
		connect_answered(e, r, error);
		return;
	case ANSWER_DATAGRAM:
		data_answered(e, r, error);
		return;
	case ANSWER_UNIX:
		unix_connect_answered(e, r, error);
		return;
	case ANSWER_FIFO:
		fifo_answered(e, r, error);
		return;
	case ANSWER_PLAIN:
		call_reply(e, r, error, 0);
		return;
	}
}
