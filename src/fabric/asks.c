/*
 * Datagrams sent without asking (asks.h). sendmsg(2) names its destination in memory, where no
 * system call filter looks; so the packet filter, which drops what has no grant, tells of it. The
 * socket is found by the packet's source: which process it belongs to, and whether that may, others
 * know. What is told of is lost in any case; nothing is decided by a packet.
 *
 * Input: the kernel's messages, with headers the kernel wrote. Cost: a recv and a dump of the
 * sockets of one port for each, at most ASKS_PER_SECOND.
 */
#include "fabric/asks.h"

#include <errno.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_log.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "fabric/nft.h"

#define ASKS_COPY 64 /* as the packet filter says: headers only */
#define ASKS_BUF 8192

static uint16_t get16(const uint8_t *p)
{
	return (uint16_t)(p[0] << 8 | p[1]);
}

int asks_parse(const uint8_t *p, size_t len, struct addr *from, struct addr *to)
{
	bool v4 = len >= 20 && p[0] >> 4 == 4, v6 = len >= 40 && p[0] >> 4 == 6;
	size_t at = v4 ? (size_t)(p[0] & 15) * 4 : 40;
	if ((!v4 && !v6) || at < 20 || len < at + 4 || p[v4 ? 9 : 6] != IPPROTO_UDP)
		return -EBADMSG;
	if (v4 && get16(p + 6) & 0x1fff) /* a later part of a datagram has no ports */
		return -EBADMSG;
	*from = *to = (struct addr){.ip_len = v4 ? 4 : 16};
	memcpy(from->ip, p + (v4 ? 12 : 8), from->ip_len);
	memcpy(to->ip, p + (v4 ? 16 : 24), to->ip_len);
	from->port = get16(p + at);
	to->port = get16(p + at + 2);
	return from->port && to->port ? 0 : -EBADMSG;
}

struct seek {
	const struct addr *from;
	uint64_t inode;
	bool exact, several;
};

/* The socket named so, or, as one has not, the one with that port on every address. */
static int seek_sock(const struct diag_sock *s, void *data)
{
	struct seek *k = data;
	bool exact = addr_same_ip(&s->local, k->from);
	if (s->local.port != k->from->port || !s->inode || (!exact && !addr_is_any(&s->local)) ||
		(k->exact && !exact))
		return 0;
	k->several = k->inode && k->exact == exact;
	k->exact = exact;
	k->inode = s->inode;
	return 0;
}

static void asks_packet(struct asks *a, const uint8_t *p, size_t len)
{
	struct addr from, to;
	struct seek k = {.from = &from};
	uint64_t now = clock_mono_ms() / 1000;
	if (now != a->second) {
		a->second = now;
		a->in_second = 0;
	}
	if (asks_parse(p, len, &from, &to) < 0 || ++a->in_second > ASKS_PER_SECOND)
		return;
	/* Of two, who knows which it was: they have to ask. */
	if (diag_dump(a->diag, true, from.port, 0, seek_sock, &k) == 0 && k.inode && !k.several)
		a->fn(a->data, k.inode, &to);
}

static int asks_attr(const struct nlattr *attr, void *data)
{
	if (mnl_attr_get_type(attr) == NFULA_PAYLOAD)
		asks_packet(data, mnl_attr_get_payload(attr), mnl_attr_get_payload_len(attr));
	return MNL_CB_OK;
}

static void asks_ready(uv_poll_t *p, int status, int events)
{
	static _Thread_local char buf[ASKS_BUF] __attribute__((aligned(8)));
	struct asks *a = p->data;
	(void)events;
	for (int i = 0; i < ASKS_TURN; i++) {
		/* More than were read are lost like the datagrams: their senders send again. */
		ssize_t n = recv(netlink_fd(&a->nl), buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && errno != ENOBUFS)
			break;
		int len = n < 0 ? 0 : (int)n;
		for (const struct nlmsghdr *h = (void *)buf; mnl_nlmsg_ok(h, len);
			h = mnl_nlmsg_next(h, &len))
			if (h->nlmsg_type == (NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_PACKET))
				(void)mnl_attr_parse(h, sizeof(struct nfgenmsg), asks_attr, a);
	}
	if (status < 0) /* an overrun, at which libuv stopped looking */
		uv_poll_start(p, UV_READABLE, asks_ready);
}

static int asks_bind(struct netlink *n)
{
	char buf[256] __attribute__((aligned(8))) = {0};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = NFNL_SUBSYS_ULOG << 8 | NFULNL_MSG_CONFIG;
	struct nfgenmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
	m->nfgen_family = AF_UNSPEC;
	m->res_id = htons(NFT_ASKS_GROUP);
	struct nfulnl_msg_config_cmd cmd = {.command = NFULNL_CFG_CMD_BIND};
	struct nfulnl_msg_config_mode mode = {
		.copy_mode = NFULNL_COPY_PACKET, .copy_range = htonl(ASKS_COPY)};
	mnl_attr_put(h, NFULA_CFG_CMD, sizeof(cmd), &cmd);
	mnl_attr_put(h, NFULA_CFG_MODE, sizeof(mode), &mode);
	return netlink_talk(n, h);
}

int asks_start(struct asks *a, uv_loop_t *loop, struct diag *diag, asks_fn fn, void *data)
{
	*a = (struct asks){.diag = diag, .fn = fn, .data = data};
	int r = netlink_open(&a->nl, NETLINK_NETFILTER, 0);
	if (r >= 0)
		r = asks_bind(&a->nl);
	if (r >= 0)
		r = uv_poll_init(loop, &a->poll, netlink_fd(&a->nl));
	a->poll.data = a;
	return r < 0 ? r : uv_poll_start(&a->poll, UV_READABLE, asks_ready);
}
