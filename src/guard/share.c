/* Who holds how much of which table (share.h). */
#include "guard/share.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "guard/refusals.h"
#include "guard/repeats.h"
#include "guard/tree.h"

#define BUCKETS 256u
#define WHO_OUTSIDE 1u
#define WHO_USER (1ull << 32)
#define WHO_NODE (1ull << 63)

/* How much there is of each, and how much of it anybody gets. */
static const struct {
	size_t all, floor;
	const char *name;
} limits[_SHARE_N] = {
	[SHARE_PROCESSES] = {PROCESSES_MAX, 64, "processes"},
	[SHARE_BINDS] = {BINDS_MAX, 32, "bound addresses"},
	[SHARE_CHANNELS] = {CHANNELS_MAX, 64, "channels"},
	[SHARE_QUESTIONS] = {JOBS_MAX, 32, "questions under way"},
	[SHARE_REFUSALS] = {REFUSALS_MAX, 1, "remembered refusals"},
	[SHARE_REPEATS] = {REPEATS_MAX, 4, "refusals being counted"},
};

struct holder {
	LIST_ENTRY(holder) link;
	share_who who;
	uint32_t n[_SHARE_N];
};

struct shares {
	LIST_HEAD(, holder) buckets[BUCKETS];
	size_t used[_SHARE_N];
};

int shares_init(struct guard *g)
{
	g->shares = calloc(1, sizeof(*g->shares));
	return g->shares ? 0 : -ENOMEM;
}

void shares_deinit(struct guard *g)
{
	for (size_t i = 0; g->shares && i < BUCKETS; i++)
		while (!LIST_EMPTY(&g->shares->buckets[i])) {
			struct holder *h = LIST_FIRST(&g->shares->buckets[i]);
			LIST_REMOVE(h, link);
			free(h);
		}
	free(g->shares);
	g->shares = NULL;
}

share_who share_user(uint32_t uid)
{
	return WHO_USER | uid;
}

share_who share_node(const struct guard *g, const char *node)
{
	uint8_t out[crypto_shorthash_BYTES];
	uint64_t h;
	crypto_shorthash(out, (const uint8_t *)node, strlen(node), g->hash_key);
	memcpy(&h, out, sizeof(h));
	return h | WHO_NODE;
}

share_who share_subject(const struct guard *g, const struct subject *s)
{
	if (!s)
		return WHO_OUTSIDE;
	return s->node[0] ? share_node(g, s->node) : share_user(s->evidence->uid);
}

share_who share_tree(struct guard *g, uint64_t tree)
{
	uint32_t uid;
	return tree_uid(g, tree, &uid) ? share_user(uid) : WHO_OUTSIDE;
}

static struct holder *holder_find(struct guard *g, share_who who)
{
	struct holder *h;
	LIST_FOREACH (h, &g->shares->buckets[who % BUCKETS], link)
		if (h->who == who)
			return h;
	return NULL;
}

size_t share_count(struct guard *g, enum share what, share_who who)
{
	const struct holder *h = holder_find(g, who);
	return h ? h->n[what] : 0;
}

bool share_free(struct guard *g, enum share what, share_who who)
{
	size_t used = g->shares->used[what], all = limits[what].all;
	size_t mine = share_count(g, what, who);
	return used < all && (mine < limits[what].floor || mine < all - used);
}

void share_add(struct guard *g, enum share what, share_who who)
{
	struct holder *h = holder_find(g, who);
	if (!h) {
		h = calloc(1, sizeof(*h));
		if (!h)
			abort(); /* what is not counted is not bounded */
		h->who = who;
		LIST_INSERT_HEAD(&g->shares->buckets[who % BUCKETS], h, link);
	}
	h->n[what]++;
	g->shares->used[what]++;
}

void share_drop(struct guard *g, enum share what, share_who who)
{
	static const uint32_t nothing[_SHARE_N];
	struct holder *h = holder_find(g, who);
	if (!h || !h->n[what])
		return;
	h->n[what]--;
	g->shares->used[what]--;
	if (memcmp(h->n, nothing, sizeof(nothing)) != 0)
		return;
	LIST_REMOVE(h, link);
	free(h);
}

const char *share_refusal(enum share what)
{
	static const char *const text[_SHARE_N] = {
		[SHARE_PROCESSES] = "its user has as many processes here as one may",
		[SHARE_BINDS] = "its user holds as many bound addresses as one may",
		[SHARE_CHANNELS] = "its user or node holds as many channels as one may",
		[SHARE_QUESTIONS] = "its user asks as many questions at once as one may",
	};
	return text[what] ? text[what] : limits[what].name;
}
