/* The ring of refusals (refusals.h). */
#include "guard/refusals.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct refusals {
	size_t next, n;
	struct refusal ring[REFUSALS_MAX];
};

int refusals_init(struct guard *g)
{
	g->refusals = calloc(1, sizeof(*g->refusals));
	return g->refusals ? 0 : -ENOMEM;
}

void refusals_deinit(struct guard *g)
{
	free(g->refusals);
	g->refusals = NULL;
}

void refusals_add(struct guard *g, const struct refusal *r)
{
	struct refusals *t = g->refusals;
	t->ring[t->next] = *r;
	t->next = (t->next + 1) % REFUSALS_MAX;
	if (t->n < REFUSALS_MAX)
		t->n++;
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
	struct refusals *t = g->refusals;
	while (*i < t->n) {
		const struct refusal *r =
			&t->ring[(t->next + REFUSALS_MAX - 1 - (*i)++) % REFUSALS_MAX];
		if (pid && r->pid != pid)
			continue;
		if (address && address[0] && !is_at(address, r->address) &&
			!is_at(address, r->from))
			continue;
		return r;
	}
	return NULL;
}
