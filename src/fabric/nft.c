/*
 * The packet filter (nft.h). The table is one text, loaded once with libnftables (as a library:
 * nothing is executed); grants are set elements, changed with hand-packed batches on one netlink
 * socket, because a grant is on the way of a program's connect: two system calls and no allocation
 * outside libnftnl.
 *
 * Default is drop. What passes:
 *  - TCP that is not an opening packet, first, because that is every packet but one of a
 * connection. It can only belong to a connection that opened, or to a pair that the fabric made;
 *  - an opening packet whose (mark, destination) is a grant. The kernel lets only the fabric set
 * marks, so a program cannot take another's grant, and its own marked socket reaches one
 * destination only;
 *  - UDP likewise; a granted packet enters (source, destination) into a set with a time-out, and a
 * packet the other way round is an answer. No connection tracking, whose table and cost all traffic
 * would share;
 *  - ICMP errors the kernel itself sends for a closed UDP port (programs have no raw sockets here).
 * A refused SYN is reset, so that connect fails at once; refused UDP is told of (asks.c), so that
 * programs need not ask before they send, then EPERM to its sender.
 */
#include "fabric/nft.h"

#include <errno.h>
#include <libnftnl/batch.h>
#include <libnftnl/set.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <nftables/libnftables.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TABLE "belay"

/*
 * A datagram without a grant is told of once a second for each flow, and lost: its port becomes one
 * that nobody can have, so that its sender sees what it sees of any loss; further ones in that
 * second are an error to it. Sets of their size bound how many are told of.
 */
#define ASK_SETS                                                                \
	" set q4 { type ipv4_addr . inet_service . ipv4_addr . inet_service;\n" \
	"  flags dynamic,timeout; timeout 1s; size 512; }\n"                    \
	" set q6 { type ipv6_addr . inet_service . ipv6_addr . inet_service;\n" \
	"  flags dynamic,timeout; timeout 1s; size 512; }\n"
#define ASK_RULES                                                            \
	"  ip saddr . udp sport . ip daddr . udp dport @q4 drop\n"           \
	"  ip6 saddr . udp sport . ip6 daddr . udp dport @q6 drop\n"         \
	"  add @q4 { ip saddr . udp sport . ip daddr . udp dport }"          \
	" log group 1 snaplen 64 queue-threshold 1 udp dport set 0 accept\n" \
	"  add @q6 { ip6 saddr . udp sport . ip6 daddr . udp dport }"        \
	" log group 1 snaplen 64 queue-threshold 1 udp dport set 0 accept\n"
#define RULESET(ask_sets, ask_rules)                                                     \
	"table inet " TABLE " {}\n"                                                      \
	"delete table inet " TABLE "\n"                                                  \
	"table inet " TABLE " {\n"                                                       \
	" set t4 { type mark . ipv4_addr . inet_service; size 65536; }\n"                \
	" set t6 { type mark . ipv6_addr . inet_service; size 65536; }\n"                \
	" set u4 { type mark . ipv4_addr . inet_service; size 65536; }\n"                \
	" set u6 { type mark . ipv6_addr . inet_service; size 65536; }\n"                \
	" set b4 { type mark . ipv4_addr . inet_service . inet_service; size 65536; }\n" \
	" set b6 { type mark . ipv6_addr . inet_service . inet_service; size 65536; }\n" \
	" set a4 { type ipv4_addr . inet_service . ipv4_addr . inet_service;\n"          \
	"  flags dynamic,timeout; timeout 2m; size 65536; }\n"                           \
	" set a6 { type ipv6_addr . inet_service . ipv6_addr . inet_service;\n"          \
	"  flags dynamic,timeout; timeout 2m; size 65536; }\n" ask_sets                  \
	" chain out { type filter hook output priority filter; policy drop;\n"           \
	"  tcp flags & (syn | ack) != syn accept\n"                                      \
	"  meta mark . ip daddr . tcp dport @t4 accept\n"                                \
	"  meta mark . ip6 daddr . tcp dport @t6 accept\n"                               \
	"  meta l4proto tcp meta mark 0xffffffff accept\n"                               \
	"  meta l4proto tcp reject with tcp reset\n"                                     \
	"  meta mark . ip daddr . udp dport @u4"                                         \
	" update @a4 { ip saddr . udp sport . ip daddr . udp dport } accept\n"           \
	"  meta mark . ip6 daddr . udp dport @u6"                                        \
	" update @a6 { ip6 saddr . udp sport . ip6 daddr . udp dport } accept\n"         \
	"  meta mark . ip daddr . udp dport . udp sport @b4"                             \
	" update @a4 { ip saddr . udp sport . ip daddr . udp dport } accept\n"           \
	"  meta mark . ip6 daddr . udp dport . udp sport @b6"                            \
	" update @a6 { ip6 saddr . udp sport . ip6 daddr . udp dport } accept\n"         \
	"  ip daddr . udp dport . ip saddr . udp sport @a4 accept\n"                     \
	"  ip6 daddr . udp dport . ip6 saddr . udp sport @a6 accept\n"                   \
	"  icmp type destination-unreachable accept\n"                                   \
	"  icmpv6 type destination-unreachable accept\n" ask_rules " }\n"                \
	"}\n"

static int ruleset_load(const char *ruleset, struct error *e)
{
	struct nft_ctx *c = nft_ctx_new(NFT_CTX_DEFAULT);
	if (!c)
		return error_set(e, -ENOMEM, "cannot start libnftables");
	nft_ctx_buffer_error(c);
	nft_ctx_buffer_output(c);
	int r = 0;
	if (nft_run_cmd_from_buffer(c, ruleset) != 0) {
		/* The first line says it; the rest quotes the ruleset. */
		const char *text = nft_ctx_get_error_buffer(c);
		r = error_set(e, -EOPNOTSUPP,
			"cannot load the fabric's packet filter: %.*s (does the kernel have "
			"nf_tables?)",
			(int)strcspn(text, "\n"), text);
	}
	nft_ctx_free(c);
	return r;
}

int nft_open(struct nft *n, struct error *e)
{
	/* A kernel without the log: datagrams without a grant are an error to their sender. */
	struct error first = {0};
	int r = ruleset_load(RULESET(ASK_SETS, ASK_RULES), &first);
	n->asks = r >= 0;
	if (r < 0)
		r = ruleset_load(RULESET("", ""), e);
	if (r < 0)
		return r;
	r = netlink_open(&n->nl, NETLINK_NETFILTER, 0);
	return r < 0 ? error_errno(e, r, "cannot open the packet filter's netlink socket") : 0;
}

void nft_close(struct nft *n)
{
	netlink_close(&n->nl);
}

static const char *grant_set(const struct nft_grant *g)
{
	bool v4 = g->destination.ip_len == 4;
	if (g->from)
		return v4 ? "b4" : "b6";
	return g->udp ? (v4 ? "u4" : "u6") : (v4 ? "t4" : "t6");
}

/* A concatenated key: mark in host order, address and ports in network order, each padded to four
 * bytes. */
static uint32_t grant_key(const struct nft_grant *g, uint8_t key[28])
{
	uint8_t ip_len = g->destination.ip_len;
	memcpy(key, &g->mark, 4);
	memcpy(key + 4, g->destination.ip, ip_len);
	key[4 + ip_len] = (uint8_t)(g->destination.port >> 8);
	key[5 + ip_len] = (uint8_t)g->destination.port;
	key[6 + ip_len] = key[7 + ip_len] = 0;
	key[8 + ip_len] = (uint8_t)(g->from >> 8);
	key[9 + ip_len] = (uint8_t)g->from;
	key[10 + ip_len] = key[11 + ip_len] = 0;
	return (g->from ? 12u : 8u) + ip_len;
}

/* One element message at `buf`; flush: no element, which the kernel takes as all of them. */
static int elem_put(char *buf, const struct nft_grant *g, const char *set, bool add, uint32_t seq)
{
	uint16_t type = add ? NFT_MSG_NEWSETELEM : NFT_MSG_DELSETELEM;
	uint16_t flags = (uint16_t)(NLM_F_ACK | (add ? NLM_F_CREATE : 0));
	struct nftnl_set *s = nftnl_set_alloc();
	if (!s)
		return -ENOMEM;
	int r = -ENOMEM;
	if (nftnl_set_set_str(s, NFTNL_SET_TABLE, TABLE) < 0 ||
		nftnl_set_set_str(s, NFTNL_SET_NAME, set) < 0)
		goto out;
	if (g) {
		uint8_t key[28];
		struct nftnl_set_elem *el = nftnl_set_elem_alloc();
		if (!el)
			goto out;
		if (nftnl_set_elem_set(el, NFTNL_SET_ELEM_KEY, key, grant_key(g, key)) < 0) {
			nftnl_set_elem_free(el);
			goto out;
		}
		nftnl_set_elem_add(s, el);
	}
	struct nlmsghdr *h = nftnl_nlmsg_build_hdr(buf, type, NFPROTO_INET, flags, seq);
	nftnl_set_elems_nlmsg_build_payload(h, s);
	r = (int)h->nlmsg_len;
out:
	nftnl_set_free(s);
	return r;
}

#define ELEM_MAX 160 /* bytes of one element's message; 124 seen */
#define BATCH_LEN ((NFT_BATCH_MAX + 2) * ELEM_MAX)

/* Sends begin .. end at buf and collects one acknowledgement a message; the first error is the
 * result. */
static int batch_talk(struct nft *n, char *buf, size_t used, uint32_t first, size_t count)
{
	nftnl_batch_end(buf + used, netlink_seq(&n->nl));
	used += ((struct nlmsghdr *)(void *)(buf + used))->nlmsg_len;
	int r = netlink_send(&n->nl, buf, used);
	for (size_t i = 0; r >= 0 && i < count; i++)
		r = netlink_answer(&n->nl, first + (uint32_t)i, NULL, NULL);
	return r;
}

static size_t batch_begin(struct nft *n, char *buf)
{
	/* The sequence numbers of one batch are consecutive: start anew where they would wrap. */
	if (n->nl.seq > UINT32_MAX - NFT_BATCH_MAX - 4)
		n->nl.seq = 0;
	nftnl_batch_begin(buf, netlink_seq(&n->nl));
	return ((struct nlmsghdr *)(void *)buf)->nlmsg_len;
}

int nft_change(struct nft *n, bool add, const struct nft_grant *v, size_t n_v)
{
	static _Thread_local char buf[BATCH_LEN] __attribute__((aligned(8)));
	if (!n_v)
		return 0;
	if (n_v > NFT_BATCH_MAX)
		return -E2BIG;
	size_t used = batch_begin(n, buf);
	uint32_t first = n->nl.seq + 1;
	for (size_t i = 0; i < n_v; i++) {
		int len = elem_put(buf + used, &v[i], grant_set(&v[i]), add, netlink_seq(&n->nl));
		if (len < 0)
			return len;
		used += (size_t)len;
	}
	return batch_talk(n, buf, used, first, n_v);
}

static int flush_sets(struct nft *n, const char *const *sets, size_t n_sets)
{
	char buf[10 * ELEM_MAX] __attribute__((aligned(8)));
	size_t used = batch_begin(n, buf);
	uint32_t first = n->nl.seq + 1;
	for (size_t i = 0; i < n_sets; i++) {
		int len = elem_put(buf + used, NULL, sets[i], false, netlink_seq(&n->nl));
		if (len < 0)
			return len;
		used += (size_t)len;
	}
	return batch_talk(n, buf, used, first, n_sets);
}

int nft_flush_answers(struct nft *n)
{
	static const char *const sets[] = {"a4", "a6"};
	return flush_sets(n, sets, ARRAY_LEN(sets));
}

int nft_flush(struct nft *n)
{
	static const char *const sets[] = {"t4", "t6", "u4", "u6", "b4", "b6", "a4", "a6"};
	return flush_sets(n, sets, ARRAY_LEN(sets));
}
