/*
 * The table of installed grants (grant.h). Invariant: the kernel's sets hold exactly what this
 * table holds, or less after an error, never more: an entry is made after the kernel took it and
 * removed only after the kernel dropped it.
 *
 * A TCP grant matters for the opening packet and its repetitions only, so idle ones go after a
 * minute. A UDP grant carries every packet of a connected socket that we do not see: it stays until
 * it is revoked, or the least recently asked-for one goes when the table is full.
 */
#include "fabric/grant.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

struct grant {
	TAILQ_ENTRY(grant) link;
	struct grant *next; /* of the same bucket */
	struct nft_grant v;
	uint64_t used_ms;
};

int grants_init(struct grants *g, struct nft *nft)
{
	*g = (struct grants){.nft = nft};
	for (int i = 0; i < 2; i++)
		TAILQ_INIT(&g->used[i]);
	if (getrandom(g->key, sizeof(g->key), 0) != sizeof(g->key))
		return -EIO;
	g->buckets = calloc(GRANT_BUCKETS, sizeof(*g->buckets));
	return g->buckets ? 0 : -ENOMEM;
}

static struct grant **bucket(const struct grants *g, uint32_t mark)
{
	uint64_t h;
	crypto_shorthash((uint8_t *)&h, (const uint8_t *)&mark, sizeof(mark), g->key);
	return &g->buckets[h % GRANT_BUCKETS];
}

/* Only from our table; the kernel's set is the caller's. */
static void forget(struct grants *g, struct grant *x)
{
	struct grant **p = bucket(g, x->v.mark);
	while (*p != x)
		p = &(*p)->next;
	*p = x->next;
	TAILQ_REMOVE(&g->used[x->v.udp], x, link);
	g->n[x->v.udp]--;
	free(x);
}

static void forget_all(struct grants *g)
{
	for (int i = 0; i < 2; i++)
		while (!TAILQ_EMPTY(&g->used[i]))
			forget(g, TAILQ_FIRST(&g->used[i]));
}

void grants_deinit(struct grants *g)
{
	if (!g->buckets)
		return;
	forget_all(g);
	free(g->buckets);
	g->buckets = NULL;
}

static int drop(struct grants *g, struct grant **v, size_t n)
{
	struct nft_grant gone[NFT_BATCH_MAX] = {0};
	for (size_t i = 0; i < n; i++)
		gone[i] = v[i]->v;
	int r = nft_change(g->nft, false, gone, n);
	for (size_t i = 0; r >= 0 && i < n; i++)
		forget(g, v[i]);
	return r;
}

int grants_add(struct grants *g, const struct nft_grant *v, uint64_t now_ms)
{
	if (v->mark == 0 || v->mark == NFT_MARK_OWN || !v->destination.ip_len)
		return -EINVAL;
	struct grant **head = bucket(g, v->mark);
	for (struct grant *x = *head; x; x = x->next) {
		if (x->v.mark != v->mark || x->v.udp != v->udp || x->v.from != v->from ||
			!addr_equal(&x->v.destination, &v->destination))
			continue;
		x->used_ms = now_ms;
		TAILQ_REMOVE(&g->used[v->udp], x, link);
		TAILQ_INSERT_TAIL(&g->used[v->udp], x, link);
		return 0;
	}
	if (g->n[v->udp] >= GRANTS_MAX) {
		struct grant *oldest = TAILQ_FIRST(&g->used[v->udp]);
		int r = drop(g, &oldest, 1);
		if (r < 0)
			return r;
	}
	_cleanup_free_ struct grant *x = malloc(sizeof(*x));
	if (!x)
		return -ENOMEM;
	int r = nft_change(g->nft, true, v, 1);
	if (r < 0)
		return r;
	head = bucket(g, v->mark);
	*x = (struct grant){.v = *v, .used_ms = now_ms, .next = *head};
	TAILQ_INSERT_TAIL(&g->used[v->udp], x, link);
	g->n[v->udp]++;
	*head = take_ptr(x);
	return 0;
}

int grants_revoke(struct grants *g, const struct nft_grant *v)
{
	bool any = false;
	for (;;) {
		struct grant *batch[NFT_BATCH_MAX];
		size_t n = 0;
		for (struct grant *x = *bucket(g, v->mark); x && n < NFT_BATCH_MAX; x = x->next)
			if (x->v.mark == v->mark && x->v.udp == v->udp &&
				(!v->from || x->v.from == v->from) &&
				(!v->destination.ip_len ||
					addr_equal(&x->v.destination, &v->destination)))
				batch[n++] = x;
		int r = n ? drop(g, batch, n) : 0;
		if (r < 0)
			return r;
		any = any || n;
		if (n < NFT_BATCH_MAX)
			break;
	}
	/* Answers to what the grant let through must end with it. A channel's come from a socket
	 * that ends itself. */
	return any && v->udp && !v->from ? nft_flush_answers(g->nft) : 0;
}

int grants_expire(struct grants *g, uint64_t now_ms)
{
	for (;;) {
		struct grant *batch[NFT_BATCH_MAX];
		struct grant *x;
		size_t n = 0;
		TAILQ_FOREACH (x, &g->used[0], link) {
			if (n == NFT_BATCH_MAX || now_ms - x->used_ms < GRANT_IDLE_MS)
				break;
			batch[n++] = x;
		}
		int r = n ? drop(g, batch, n) : 0;
		if (r < 0)
			return r;
		if (n < NFT_BATCH_MAX)
			return (int)g->n[0];
	}
}

int grants_flush(struct grants *g)
{
	int r = nft_flush(g->nft);
	if (r >= 0)
		forget_all(g);
	return r;
}
