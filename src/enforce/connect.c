/*
 * connect(2) on sockets of the fabric. The address is copied once and never looked at again in the
 * program; the guard has the fabric connect the program's very socket, so that all the program can
 * observe is the kernel's own doing. What remains here is the call's blocking half, held open while
 * the kernel connects, and calls on a socket that is already on its way, which are the kernel's to
 * answer. Cost: one process_vm_readv(2), three getsockopt(2), one question.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/connect.h"
#include "enforce/enforce.h"
#include "enforce/target.h"

#define ERESTARTSYS_                                                                             \
	512             /* the kernel's own: repeat the call or EINTR, as the handler was set up \
			 */
#define SIN6_LEN_OLD 24 /* without scope, as the kernel still takes it */

static bool nonblocking(const struct request *r)
{
	int flags = fcntl(r->sock, F_GETFL);
	return flags >= 0 && (flags & O_NONBLOCK);
}

static int tcp_state(int fd)
{
	struct tcp_info info = {0};
	socklen_t len = sizeof(info);
	return getsockopt(fd, IPPROTO_TCP, TCP_INFO, &info, &len) < 0 ? -errno : info.tcpi_state;
}

/*
 * The kernel's own answer, on a socket for which connect cannot begin anything new. Should the
 * program make it unconnected at this very moment, its mark still lets it reach nothing but what it
 * had been allowed.
 */
static int kernel_connect(const struct request *r)
{
	watchdog_start();
	int n = connect_to(r->sock, r->family, &r->address);
	watchdog_stop();
	return n == -EINTR ? -EALREADY : n;
}

static bool connected_to_it(const struct request *r)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct addr peer;
	return getpeername(r->sock, (struct sockaddr *)&sa, &len) == 0 &&
	       addr_from_sockaddr(&sa, len, &peer) == 0 && addr_equal(&peer, &r->address);
}

/* ---- the blocking half ---- */

static void set_deadline(struct request *r)
{
	struct timeval tv = {0};
	socklen_t len = sizeof(tv);
	if (getsockopt(r->sock, SOL_SOCKET, SO_SNDTIMEO, &tv, &len) == 0 &&
		(tv.tv_sec || tv.tv_usec))
		r->deadline_ms = clock_mono_ms() + (uint64_t)tv.tv_sec * 1000 +
				 (uint64_t)tv.tv_usec / 1000 + 1;
}

static void connect_wait(struct enforce *e, struct request *r)
{
	struct pollfd p = {.fd = r->sock, .events = POLLOUT};
	if (poll(&p, 1, 0) == 1) {
		int n = kernel_connect(r);
		if (n != -EALREADY && n != -EINPROGRESS) {
			call_reply(e, r, n == -EISCONN ? 0 : n, 0);
			return;
		}
	}
	if (r->deadline_ms && clock_mono_ms() >= r->deadline_ms)
		call_reply(e, r, -EINPROGRESS, 0); /* as the kernel says after SO_SNDTIMEO */
	else if (r->state == REQUEST_WAIT_SOCKET && target_signalled((pid_t)r->n.pid) > 0)
		call_reply(e, r, -ERESTARTSYS_, 0);
	else
		call_wait_socket(e, r, EPOLLOUT);
}

static void connect_begun(struct enforce *e, struct request *r)
{
	if (nonblocking(r)) {
		call_reply(e, r, -EINPROGRESS, 0);
		return;
	}
	r->started = true;
	set_deadline(r);
	connect_wait(e, r);
}

void connect_answered(struct enforce *e, struct request *r, int error)
{
	if (error == -EINPROGRESS || error == -EALREADY)
		connect_begun(e, r);
	else if (error == -EISCONN && connected_to_it(r))
		call_reply(e, r, 0, 0); /* a question asked twice, of two guards */
	else
		call_reply(e, r, error, 0);
}

/* ---- the call ---- */

static int read_address(struct request *r, struct sockaddr_storage *sa, socklen_t *ret_len)
{
	uint64_t len = r->n.data.args[2];
	*ret_len = (socklen_t)len;
	if ((int)len < 0 || *ret_len > sizeof(*sa))
		return -EINVAL;
	memset(sa, 0, sizeof(*sa));
	return *ret_len ? target_read((pid_t)r->n.pid, r->n.data.args[1], sa, *ret_len) : 0;
}

static int judge_address(struct request *r, const struct sockaddr_storage *sa, socklen_t len)
{
	socklen_t need = r->family == AF_INET ? sizeof(struct sockaddr_in) : SIN6_LEN_OLD;
	if (len < sizeof(sa->ss_family))
		return -EINVAL;
	if (sa->ss_family == AF_UNSPEC)
		return 0;
	if (sa->ss_family == AF_INET && r->family == AF_INET6 && r->type == SOCK_DGRAM)
		need = sizeof(struct sockaddr_in);
	else if (len >= need && sa->ss_family != r->family)
		return -EAFNOSUPPORT;
	if (len < need)
		return -EINVAL;
	int bad = addr_from_sockaddr(sa, sizeof(*sa), &r->address);
	if (!bad && addr_is_any(&r->address)) { /* the kernel takes it for the loopback address */
		memset(r->address.ip, 0, sizeof(r->address.ip));
		r->address.ip[0] = r->address.ip_len == 4 ? 127 : 0;
		r->address.ip[r->address.ip_len - 1] = 1;
	}
	return bad;
}

static void ask(struct enforce *e, struct request *r, bool disconnect)
{
	Belay__Question q = BELAY__QUESTION__INIT;
	Belay__Addr a;
	int fds[] = {r->pidfd, r->sock};
	q.call = disconnect ? BELAY__QUESTION__CALL__CALL_DISCONNECT
			    : BELAY__QUESTION__CALL__CALL_CONNECT;
	if (!disconnect) {
		question_addr(&a, &r->address);
		q.address = &a;
	}
	q.family = (uint32_t)r->family;
	q.transport = r->type == SOCK_DGRAM ? BELAY__TRANSPORT__TRANSPORT_UDP
					    : BELAY__TRANSPORT__TRANSPORT_TCP;
	q.lease = !disconnect && r->type == SOCK_STREAM && leased_asked(e, r);
	q.v6only = r->family == AF_INET6 && sock_int(r->sock, IPPROTO_IPV6, IPV6_V6ONLY) > 0;
	r->answer_to = ANSWER_CONNECT;
	question_ask(e, r, &q, fds, 2);
}

/*
 * Without asking, where a lease says so. True: the call is answered or waits. Whatever does not
 * succeed at once is as if it had not been tried: the guard is asked, and the kernel again.
 */
static bool connect_leased(struct enforce *e, struct request *r)
{
	const struct leased *l = r->type == SOCK_STREAM && !r->again ? leased_find(e, r) : NULL;
	struct journal_slot *s = &e->journal.slot[r - e->request];
	struct addr own;
	if (!l)
		return false;
	int n = connect_now(r->sock, r->family, &r->address, &s->lent);
	int state = n == -EINPROGRESS ? tcp_state(r->sock) : n ? TCP_CLOSE : TCP_ESTABLISHED;
	bool done = state > 0 && state != TCP_CLOSE && call_own_name(r, &own) == 0;
	if (done)
		leased_used(e, l, &own);
	else if (n == -EINPROGRESS)
		(void)!connect_to(r->sock, r->family, &r->address); /* takes its error */
	if (!done)
		return false;
	if (n)
		connect_begun(e, r);
	else
		call_reply(e, r, 0, 0);
	return true;
}

/* True when the socket is past its beginning, and the call is answered or waits. */
static bool connect_under_way(struct enforce *e, struct request *r)
{
	int state = r->type == SOCK_STREAM ? tcp_state(r->sock) : TCP_CLOSE;
	if (state == TCP_CLOSE)
		return false;
	if (r->again && connected_to_it(r)) {
		call_reply(e, r, 0, 0); /* done, but the answer was lost */
		return true;
	}
	if (state == TCP_SYN_SENT && (r->again || !nonblocking(r)))
		connect_begun(e, r);
	else
		call_reply(e, r, state < 0 ? state : kernel_connect(r), 0);
	return true;
}

static void netlink_connect(
	struct enforce *e, struct request *r, const struct sockaddr_storage *sa, socklen_t len)
{
	int n = connect(r->sock, (const struct sockaddr *)sa, len) < 0 ? -errno : 0;
	call_reply(e, r, n, 0);
}

/*
 * The call began, and then the guard, a predecessor of ours or what the guard needed was gone.
 * Whether what it connected was recorded by anybody is not known, or it has been ended: it is done
 * anew, on a socket that is as if it had not begun.
 */
static void connect_undo(struct request *r, struct journal_slot *s)
{
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	if (s->lent)
		connect_give_back(r->sock, &s->lent);
	if (s->begun) {
		(void)!connect(r->sock, &none, sizeof(none));
		(void)sock_int(r->sock, SOL_SOCKET, SO_ERROR); /* which takes it away */
	}
	s->begun = 0;
}

void connect_serve(struct enforce *e, struct request *r)
{
	struct sockaddr_storage sa;
	socklen_t len;
	if (r->started) {
		connect_wait(e, r);
		return;
	}
	struct journal_slot *slot = &e->journal.slot[r - e->request];
	connect_undo(r, slot);
	int bad = read_address(r, &sa, &len);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad && r->family == AF_NETLINK) {
		netlink_connect(e, r, &sa, len);
		return;
	}
	if (!bad)
		bad = judge_address(r, &sa, len);
	if (bad) {
		call_reply(e, r, bad, 0);
		return;
	}
	if (sa.ss_family == AF_UNSPEC) {
		ask(e, r, true);
	} else if (!connect_under_way(e, r)) {
		slot->begun = r->type == SOCK_STREAM;
		if (!connect_leased(e, r))
			ask(e, r, false);
	}
}
