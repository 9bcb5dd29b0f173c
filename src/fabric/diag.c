/*
 * sock_diag (diag.h). The peer is the kernel.
 *
 * A socket is destroyed by the cookie of one that was read before, never by its names alone: asked
 * by name for a connection that has just gone, the kernel finds the listener instead. Ends of
 * sockets come by multicast, so nothing polls and an idle fabric sleeps.
 */
#include "fabric/diag.h"

#include <errno.h>
#include <linux/inet_diag.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#define EVENT_BUF (64u * 1024)
#define EVENT_QUEUE (8 * 1024 * 1024) /* bytes of kernel memory: about 10,000 closes at once */
#define STATES_ALL (~(1u << DIAG_TIME_WAIT) & 0xfffu)

_Static_assert(sizeof(struct inet_diag_sockid) <= sizeof(((struct diag_sock *)0)->id), "id");

static unsigned group(unsigned g)
{
	return 1u << (g - 1);
}

int diag_open(struct diag *d)
{
	int size = EVENT_QUEUE;
	int r = netlink_open(&d->ask, NETLINK_SOCK_DIAG, 0);
	if (r >= 0)
		r = netlink_open(&d->events, NETLINK_SOCK_DIAG,
			group(SKNLGRP_INET_TCP_DESTROY) | group(SKNLGRP_INET_UDP_DESTROY) |
				group(SKNLGRP_INET6_TCP_DESTROY) |
				group(SKNLGRP_INET6_UDP_DESTROY));
	/* Needs a capability only the initial namespace gives on older kernels: less room then. */
	if (r >= 0 && setsockopt(netlink_fd(&d->events), SOL_SOCKET, SO_RCVBUFFORCE, &size,
			      sizeof(size)) < 0)
		(void)!setsockopt(
			netlink_fd(&d->events), SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	if (r < 0)
		diag_close(d);
	return r;
}

void diag_close(struct diag *d)
{
	netlink_close(&d->ask);
	netlink_close(&d->events);
}

static void name_read(uint8_t family, const __be32 ip[4], uint16_t port, struct addr *ret)
{
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = port};
	memset(ret, 0, sizeof(*ret));
	if (family == AF_INET) {
		ret->ip_len = 4;
		memcpy(ret->ip, ip, 4);
		ret->port = ntohs(port);
		return;
	}
	memcpy(&in6.sin6_addr, ip, 16);
	(void)!addr_from_sockaddr(&in6, sizeof(in6), ret);
}

static void info_read(const struct nlattr *a, struct diag_sock *s)
{
	struct tcp_info t = {0};
	size_t len = mnl_attr_get_payload_len(a);
	memcpy(&t, mnl_attr_get_payload(a), len < sizeof(t) ? len : sizeof(t));
	s->sent = t.tcpi_bytes_sent - t.tcpi_bytes_retrans;
	s->received = t.tcpi_bytes_received;
	/* CLOSE_WAIT, LAST_ACK, CLOSING: the peer's FIN was counted. */
	if ((s->state == 8 || s->state == 9 || s->state == 11) && s->received)
		s->received--;
	s->idle_ms = t.tcpi_last_data_recv < t.tcpi_last_data_sent ? t.tcpi_last_data_recv
								   : t.tcpi_last_data_sent;
}

static int attr_read(const struct nlattr *a, void *data)
{
	struct diag_sock *s = data;
	if (mnl_attr_get_type(a) == INET_DIAG_INFO)
		info_read(a, s); /* UDP has none */
	if (mnl_attr_get_type(a) == INET_DIAG_MARK && mnl_attr_get_payload_len(a) == 4)
		s->mark = mnl_attr_get_u32(a);
	if (mnl_attr_get_type(a) == INET_DIAG_PROTOCOL && mnl_attr_get_payload_len(a) == 1)
		s->udp = mnl_attr_get_u8(a) == IPPROTO_UDP;
	return MNL_CB_OK;
}

/* Return: false when the message is not a socket's. */
static bool sock_read(const struct nlmsghdr *h, bool udp, struct diag_sock *s)
{
	const struct inet_diag_msg *m = mnl_nlmsg_get_payload(h);
	if (mnl_nlmsg_get_payload_len(h) < sizeof(*m) ||
		(m->idiag_family != AF_INET && m->idiag_family != AF_INET6))
		return false;
	*s = (struct diag_sock){.family = m->idiag_family,
		.udp = udp,
		.state = m->idiag_state,
		.inode = m->idiag_inode};
	memcpy(s->id, &m->id, sizeof(m->id));
	name_read(s->family, m->id.idiag_src, m->id.idiag_sport, &s->local);
	if (m->id.idiag_dport)
		name_read(s->family, m->id.idiag_dst, m->id.idiag_dport, &s->peer);
	return mnl_attr_parse(h, sizeof(*m), attr_read, s) >= 0;
}

static struct inet_diag_req_v2 *request(
	char *buf, struct nlmsghdr **ret, uint16_t type, uint8_t family, bool udp)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST;
	struct inet_diag_req_v2 *q = mnl_nlmsg_put_extra_header(h, sizeof(*q));
	q->sdiag_family = family;
	q->sdiag_protocol = udp ? IPPROTO_UDP : IPPROTO_TCP;
	q->idiag_ext = udp ? 0 : 1 << (INET_DIAG_INFO - 1);
	q->idiag_states = STATES_ALL;
	*ret = h;
	return q;
}

struct dump {
	diag_sock_fn fn;
	void *data;
	bool udp;
	int result;
};

static int dump_message(const struct nlmsghdr *h, void *data)
{
	struct dump *d = data;
	struct diag_sock s;
	/* The dump is read to its end whatever fn says: the next request must not find its rest. */
	if (d->result >= 0 && sock_read(h, d->udp, &s))
		d->result = d->fn(&s, d->data);
	return MNL_CB_OK;
}

int diag_dump(struct diag *d, bool udp, uint16_t local_port, uint16_t peer_port, diag_sock_fn fn,
	void *data)
{
	static const uint8_t families[] = {AF_INET, AF_INET6};
	struct dump dump = {.fn = fn, .data = data, .udp = udp};
	for (size_t i = 0; i < ARRAY_LEN(families); i++) {
		char buf[256] = {0};
		struct nlmsghdr *h;
		struct inet_diag_req_v2 *q =
			request(buf, &h, SOCK_DIAG_BY_FAMILY, families[i], udp);
		q->id.idiag_sport = htons(local_port);
		q->id.idiag_dport = htons(peer_port);
		h->nlmsg_flags |= NLM_F_DUMP;
		h->nlmsg_seq = netlink_seq(&d->ask);
		int r = netlink_send(&d->ask, h, h->nlmsg_len);
		if (r >= 0)
			r = netlink_answer(&d->ask, h->nlmsg_seq, dump_message, &dump);
		if (r < 0 && r != -ENOENT) /* a kernel without that family or protocol */
			return r;
		if (dump.result < 0)
			return dump.result;
	}
	return 0;
}

struct get {
	struct diag_sock *s;
	bool found;
};

static int get_message(const struct nlmsghdr *h, void *data)
{
	struct get *g = data;
	g->found = sock_read(h, false, g->s);
	return MNL_CB_STOP;
}

int diag_get(
	struct diag *d, const struct addr *local, const struct addr *peer, struct diag_sock *ret)
{
	char buf[256] = {0};
	struct nlmsghdr *h;
	struct get g = {.s = ret};
	if (local->ip_len != peer->ip_len)
		return -EINVAL;
	struct inet_diag_req_v2 *q = request(
		buf, &h, SOCK_DIAG_BY_FAMILY, local->ip_len == 4 ? AF_INET : AF_INET6, false);
	memcpy(q->id.idiag_src, local->ip, local->ip_len);
	memcpy(q->id.idiag_dst, peer->ip, peer->ip_len);
	q->id.idiag_sport = htons(local->port);
	q->id.idiag_dport = htons(peer->port);
	q->id.idiag_cookie[0] = q->id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	h->nlmsg_seq = netlink_seq(&d->ask);
	int r = netlink_send(&d->ask, h, h->nlmsg_len);
	if (r >= 0)
		r = netlink_answer(&d->ask, h->nlmsg_seq, get_message, &g);
	if (r < 0)
		return r;
	/* Without such a connection the kernel answers with the listener, or its TIME_WAIT. */
	if (!g.found || ret->state == DIAG_LISTEN || ret->state == DIAG_TIME_WAIT ||
		!addr_equal(&ret->local, local) || !addr_equal(&ret->peer, peer))
		return -ENOENT;
	return 0;
}

int diag_destroy(struct diag *d, const struct diag_sock *s)
{
	char buf[256] = {0};
	struct nlmsghdr *h;
	struct inet_diag_req_v2 *q = request(buf, &h, SOCK_DESTROY, s->family, s->udp);
	memcpy(&q->id, s->id, sizeof(q->id));
	return netlink_talk(&d->ask, h);
}

int diag_events(struct diag *d, diag_sock_fn fn, void *data)
{
	static _Thread_local char buf[EVENT_BUF] __attribute__((aligned(8)));
	ssize_t got = recv(netlink_fd(&d->events), buf, sizeof(buf), MSG_DONTWAIT);
	if (got < 0)
		return -errno;
	int len = (int)got;
	for (const struct nlmsghdr *h = (void *)buf; mnl_nlmsg_ok(h, len);
		h = mnl_nlmsg_next(h, &len)) {
		struct diag_sock s;
		if (h->nlmsg_type < NLMSG_MIN_TYPE || !sock_read(h, false, &s))
			continue;
		int r = fn(&s, data);
		if (r < 0)
			return r;
	}
	return 0;
}
