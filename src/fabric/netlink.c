/*
 * Netlink requests (netlink.h). The peer is the kernel, which is trusted; a sequence number that
 * does not fit is left over from a request given up earlier and is skipped. Two system calls a
 * request.
 */
#include "fabric/netlink.h"

#include <errno.h>
#include <sys/socket.h>

#define NETLINK_BUF (64u * 1024) /* a dump's part is at most 32 KiB */

int netlink_open(struct netlink *n, int protocol, unsigned groups)
{
	n->sock = mnl_socket_open2(protocol, SOCK_CLOEXEC);
	if (!n->sock)
		return -errno;
	if (mnl_socket_bind(n->sock, groups, MNL_SOCKET_AUTOPID) < 0) {
		int r = -errno;
		netlink_close(n);
		return r;
	}
	return 0;
}

void netlink_close(struct netlink *n)
{
	if (n->sock)
		mnl_socket_close(n->sock);
	n->sock = NULL;
}

int netlink_fd(const struct netlink *n)
{
	return mnl_socket_get_fd(n->sock);
}

uint32_t netlink_seq(struct netlink *n)
{
	if (++n->seq == 0)
		n->seq = 1;
	return n->seq;
}

int netlink_send(struct netlink *n, const void *buf, size_t len)
{
	return mnl_socket_sendto(n->sock, buf, len) < 0 ? -errno : 0;
}

struct answer {
	uint32_t seq;
	mnl_cb_t cb;
	void *data;
	int result;
};

/* Return: true when the answer is complete. */
static bool answer_message(struct answer *a, const struct nlmsghdr *h)
{
	if (h->nlmsg_seq != a->seq)
		return false;
	if (h->nlmsg_type == NLMSG_ERROR) {
		const struct nlmsgerr *e = mnl_nlmsg_get_payload(h);
		a->result = mnl_nlmsg_get_payload_len(h) < sizeof(e->error) ? -EBADMSG : e->error;
		return true;
	}
	if (h->nlmsg_type == NLMSG_DONE)
		return true;
	if (h->nlmsg_type < NLMSG_MIN_TYPE || !a->cb)
		return false;
	int r = a->cb(h, a->data);
	if (r < 0)
		a->result = errno ? -errno : -EBADMSG;
	return r <= MNL_CB_STOP;
}

int netlink_answer(struct netlink *n, uint32_t seq, mnl_cb_t cb, void *data)
{
	static _Thread_local char buf[NETLINK_BUF] __attribute__((aligned(8)));
	struct answer a = {.seq = seq, .cb = cb, .data = data};
	for (;;) {
		ssize_t got = mnl_socket_recvfrom(n->sock, buf, sizeof(buf));
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return -errno;
		int len = (int)got;
		for (const struct nlmsghdr *h = (void *)buf; mnl_nlmsg_ok(h, len);
			h = mnl_nlmsg_next(h, &len))
			if (answer_message(&a, h))
				return a.result;
	}
}

int netlink_talk(struct netlink *n, struct nlmsghdr *h)
{
	h->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	h->nlmsg_seq = netlink_seq(n);
	int r = netlink_send(n, h, h->nlmsg_len);
	return r < 0 ? r : netlink_answer(n, h->nlmsg_seq, NULL, NULL);
}
