/*
 * sendto(2) with an address. On a UDP socket of the fabric the address is a question for the guard,
 * which has the kernel grant it; then the data, copied once, is sent from here, because the program
 * could exchange the address before it sent itself. Elsewhere the address decides nothing: a stream
 * has its peer, netlink is the tree's own. Cost: the copy, two process_vm_readv(2), one question.
 */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/epoll.h>

#include "enforce/enforce.h"
#include "enforce/target.h"

static uint8_t data[DATAGRAM_MAX];

static int read_address(struct request *r, struct sockaddr_storage *sa, socklen_t *ret_len)
{
	uint64_t len = r->n.data.args[5];
	*ret_len = (socklen_t)len;
	memset(sa, 0, sizeof(*sa));
	if ((int)len < 0 || *ret_len > sizeof(*sa))
		return -EINVAL;
	return *ret_len ? target_read((pid_t)r->n.pid, r->n.data.args[4], sa, *ret_len) : 0;
}

/* The data is read after the guard's answer; it is the program's to change until then. */
static void data_send(
	struct enforce *e, struct request *r, const struct sockaddr *sa, socklen_t sa_len)
{
	uint64_t len = r->n.data.args[2];
	int flags = (int)r->n.data.args[3] & ~(MSG_FASTOPEN | MSG_ZEROCOPY);
	if (len > sizeof(data) && r->type != SOCK_STREAM) {
		call_reply(e, r, -EMSGSIZE, 0);
		return;
	}
	if (len > sizeof(data))
		len = sizeof(data); /* a stream takes a part */
	int bad = len ? target_read((pid_t)r->n.pid, r->n.data.args[1], data, (size_t)len) : 0;
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	ssize_t n = -1;
	if (!bad) {
		watchdog_start();
		n = sendto(r->sock, data, (size_t)len, flags | MSG_DONTWAIT | MSG_NOSIGNAL, sa,
			sa_len);
		watchdog_stop();
		bad = n < 0 ? -errno : 0;
	}
	int fl = fcntl(r->sock, F_GETFL);
	if (bad == -EAGAIN && fl >= 0 && !(fl & O_NONBLOCK) && !(flags & MSG_DONTWAIT)) {
		r->started = true;
		call_wait_socket(e, r, EPOLLOUT);
		return;
	}
	call_reply(e, r, bad, n);
}

static void datagram_send(struct enforce *e, struct request *r)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int bad = addr_to_sockaddr(&r->address, r->family, &sa, &len);
	if (bad < 0)
		call_reply(e, r, -ENETUNREACH, 0);
	else
		data_send(e, r, (struct sockaddr *)&sa, len);
}

static void ask(struct enforce *e, struct request *r)
{
	Belay__Question q = BELAY__QUESTION__INIT;
	Belay__Addr a;
	int fds[] = {r->pidfd, r->sock};
	question_addr(&a, &r->address);
	q.call = BELAY__QUESTION__CALL__CALL_DATAGRAM;
	q.address = &a;
	q.transport = BELAY__TRANSPORT__TRANSPORT_UDP;
	q.family = (uint32_t)r->family;
	r->answer_to = ANSWER_DATAGRAM;
	question_ask(e, r, &q, fds, 2);
}

void data_answered(struct enforce *e, struct request *r, int error)
{
	r->started = true;
	if (error)
		call_reply(e, r, error, 0);
	else
		datagram_send(e, r);
}

static void unix_send(struct enforce *e, struct request *r)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	bool connected = getpeername(r->sock, (struct sockaddr *)&sa, &len) == 0;
	if (r->type == SOCK_SEQPACKET)
		data_send(e, r, NULL, 0);
	else
		call_reply(e, r, connected ? -EISCONN : -EOPNOTSUPP, 0);
}

void data_serve(struct enforce *e, struct request *r)
{
	struct sockaddr_storage sa;
	socklen_t len;
	if (r->family == AF_UNIX) {
		unix_send(e, r);
		return;
	}
	if (r->type == SOCK_STREAM) {
		data_send(e, r, NULL, 0); /* a stream ignores the address */
		return;
	}
	if (r->started) {
		datagram_send(e, r);
		return;
	}
	int bad = read_address(r, &sa, &len);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!bad && r->family == AF_NETLINK) {
		data_send(e, r, (struct sockaddr *)&sa, len);
		return;
	}
	if (!bad && sa.ss_family != r->family &&
		!(sa.ss_family == AF_INET && r->family == AF_INET6))
		bad = -EAFNOSUPPORT;
	if (!bad)
		bad = addr_from_sockaddr(&sa, len, &r->address);
	if (!bad && !r->address.port)
		bad = -EINVAL;
	if (bad)
		call_reply(e, r, bad, 0);
	else
		ask(e, r);
}
