/* The ring of refusals (refusals.h). */
#include "guard/refusals.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct refusals {
	TAILQ_HEAD(refusal_list, refusal) list; /* the newest first */
	size_t n;
	struct refusal room[REFUSALS_MAX];
};

int refusals_init(struct guard *g)
{
	g->refusals = calloc(1, sizeof(*g->refusals));
	if (!g->refusals)
		return -ENOMEM;
	TAILQ_INIT(&g->refusals->list);
	return 0;
}

void refusals_deinit(struct guard *g)
{
	free(g->refusals);
	g->refusals = NULL;
}

/* The oldest of whoever has most. */
static struct refusal *giving_way(struct guard *g)
{
	struct refusal *r, *found = NULL;
	size_t most = 0;
	TAILQ_FOREACH_REVERSE(r, &g->refusals->list, refusal_list, link)
	{
		size_t n = share_count(g, SHARE_REFUSALS, r->who);
		if (n <= most)
			continue;
		most = n;
		found = r;
	}
	return found;
}

void refusals_add(struct guard *g, const struct refusal *r)
{
	struct refusals *t = g->refusals;
	struct refusal *e;
	if (t->n < REFUSALS_MAX) {
		e = &t->room[t->n++];
	} else {
		e = giving_way(g);
		TAILQ_REMOVE(&t->list, e, link);
		share_drop(g, SHARE_REFUSALS, e->who);
	}
	*e = *r;
	e->count = 1;
	share_add(g, SHARE_REFUSALS, e->who);
	TAILQ_INSERT_HEAD(&t->list, e, link);
}

bool refusals_again(struct guard *g, uint64_t key, uint32_t pid, uint64_t when_ms)
{
	struct refusal *r;
	TAILQ_FOREACH (r, &g->refusals->list, link)
		if (r->key == key && r->pid == pid)
			break;
	if (!r)
		return false;
	r->when_ms = when_ms;
	r->count++;
	TAILQ_REMOVE(&g->refusals->list, r, link);
	TAILQ_INSERT_HEAD(&g->refusals->list, r, link);
	return true;
}

/* `have` is ADDRESS:PORT or [ADDRESS6]:PORT; `want` may leave out the port. */
static bool is_at(const char *want, const char *have)
{
	size_t n = strlen(want);
	if (!strcmp(want, have))
		return true;
	have += have[0] == '[';
	return !strncmp(want, have, n) &&
	       (!strcmp(have + n, "") || have[n] == ']' || have[n] == ':') &&
	       (have[n] != ':' || !strchr(want, ':'));
}

const struct refusal *refusals_get(struct guard *g, size_t *i, uint32_t pid, const char *address)
{
	const struct refusal *r;
	size_t n = 0;
	TAILQ_FOREACH (r, &g->refusals->list, link) {
		if (n++ < *i || (pid && r->pid != pid))
			continue;
		if (address && address[0] && !is_at(address, r->address) &&
			!is_at(address, r->from))
			continue;
		*i = n;
		return r;
	}
	return NULL;
}
