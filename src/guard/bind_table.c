/*
 * The table of bound addresses (architecture.md, Binding addresses).
 *
 * Rules: entries of two principals never overlap on a port, so a connection that was allowed to one
 * cannot land at the other, whatever SO_REUSEPORT says; entries of one principal may. A wildcard
 * overlaps every address of its family; :: without IPV6_V6ONLY overlaps IPv4 too. A connection
 * reaches the exact address before the wildcard of its family, before a dual-stack ::, as the
 * kernel's own search does.
 *
 * Cost: one chain by port; chains are as long as one port has entries.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "guard/bind.h"
#include "guard/share.h"

#define BUCKETS 1024u

struct binds {
	LIST_HEAD(, bind) buckets[BUCKETS];
	size_t n;
};

int binds_init(struct guard *g)
{
	g->binds = calloc(1, sizeof(*g->binds));
	return g->binds ? 0 : -ENOMEM;
}

void binds_deinit(struct guard *g)
{
	for (size_t i = 0; g->binds && i < BUCKETS; i++)
		while (!LIST_EMPTY(&g->binds->buckets[i]))
			bind_remove(g, LIST_FIRST(&g->binds->buckets[i]));
	free(g->binds);
	g->binds = NULL;
}

bool bind_overlap(const struct addr *a, bool a_v6only, const struct addr *b, bool b_v6only)
{
	if (!a->port || a->port != b->port)
		return false;
	if (a->ip_len == b->ip_len)
		return addr_is_any(a) || addr_is_any(b) || addr_same_ip(a, b);
	const struct addr *six = a->ip_len == 16 ? a : b;
	bool v6only = a->ip_len == 16 ? a_v6only : b_v6only;
	return addr_is_any(six) && !v6only;
}

struct bind *bind_conflict(struct guard *g, Belay__Transport transport, const struct addr *a,
	bool v6only, uint64_t principal)
{
	struct bind *b;
	LIST_FOREACH (b, &g->binds->buckets[a->port % BUCKETS], link)
		if (b->transport == transport && b->subject->principal != principal &&
			bind_overlap(a, v6only, &b->addr, b->v6only))
			return b;
	return NULL;
}

/* How well an entry fits a destination: 0 not at all, larger is nearer. */
static int fit(const struct bind *b, const struct addr *to)
{
	if (b->addr.port != to->port)
		return 0;
	if (addr_same_ip(&b->addr, to))
		return 3;
	if (!addr_is_any(&b->addr))
		return 0;
	if (b->addr.ip_len == to->ip_len)
		return 2;
	return b->addr.ip_len == 16 && !b->v6only ? 1 : 0;
}

struct bind *bind_find(struct guard *g, Belay__Transport transport, const struct addr *to)
{
	struct bind *b, *best = NULL;
	int best_fit = 0;
	LIST_FOREACH (b, &g->binds->buckets[to->port % BUCKETS], link) {
		/* Datagrams are received from bind on; connections only once somebody listens. */
		if (b->transport != transport || b->pending ||
			(transport == BELAY__TRANSPORT__TRANSPORT_TCP && !b->listening))
			continue;
		int f = fit(b, to);
		if (f > best_fit) {
			best = b;
			best_fit = f;
		}
	}
	return best;
}

struct bind *bind_insert(struct guard *g, const struct bind *template)
{
	struct bind *b = g->binds->n < BINDS_MAX ? malloc(sizeof(*b)) : NULL;
	if (!b)
		return NULL;
	*b = *template;
	subject_ref(b->subject);
	b->who = share_tree(g, b->tree);
	share_add(g, SHARE_BINDS, b->who);
	LIST_INSERT_HEAD(&g->binds->buckets[b->addr.port % BUCKETS], b, link);
	g->binds->n++;
	return b;
}

void bind_rename(struct guard *g, struct bind *b, const struct addr *addr)
{
	LIST_REMOVE(b, link);
	b->addr = *addr;
	LIST_INSERT_HEAD(&g->binds->buckets[b->addr.port % BUCKETS], b, link);
}

void bind_remove(struct guard *g, struct bind *b)
{
	LIST_REMOVE(b, link);
	g->binds->n--;
	share_drop(g, SHARE_BINDS, b->who);
	subject_unref(b->subject);
	free(b);
}

struct bind *bind_by_inode(struct guard *g, uint64_t inode)
{
	struct bind *b;
	for (size_t i = 0; inode && i < BUCKETS; i++)
		LIST_FOREACH (b, &g->binds->buckets[i], link)
			if (b->inode == inode)
				return b;
	return NULL;
}

/* What a restored entry of that name is; several of one name are confirmed one by one. */
struct bind *bind_unseen_at(struct guard *g, Belay__Transport transport, const struct addr *a)
{
	struct bind *b;
	LIST_FOREACH (b, &g->binds->buckets[a->port % BUCKETS], link)
		if (b->unseen && b->transport == transport && addr_equal(&b->addr, a))
			return b;
	return NULL;
}

struct bind *bind_at(
	struct guard *g, Belay__Transport transport, const struct addr *a, bool listening)
{
	struct bind *b;
	LIST_FOREACH (b, &g->binds->buckets[a->port % BUCKETS], link)
		if (b->transport == transport && b->listening == listening && !b->pending &&
			addr_equal(&b->addr, a))
			return b;
	return NULL;
}

void bind_each(
	struct guard *g, void (*fn)(struct guard *g, struct bind *b, const void *x), const void *x)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct bind *b = LIST_FIRST(&g->binds->buckets[i]), *next;
		for (; b; b = next) {
			next = LIST_NEXT(b, link);
			fn(g, b, x);
		}
	}
}
