/* Counts by rule (limit.h). Only rules with a limit have an entry, and only while something counts.
 */
#include "guard/limit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct limit {
	SLIST_ENTRY(limit) link;
	uint32_t n;
	char rule[NAME_MAX_LEN];
};

static struct limit *limit_find(struct guard *g, const char *rule)
{
	struct limit *l;
	SLIST_FOREACH (l, &g->limits, link)
		if (!strcmp(l->rule, rule))
			return l;
	return NULL;
}

void limit_add(struct guard *g, const char *rule)
{
	if (!rule[0])
		return;
	struct limit *l = limit_find(g, rule);
	if (!l) {
		l = calloc(1, sizeof(*l));
		if (!l)
			abort(); /* a limit that is not counted is not a limit */
		snprintf(l->rule, sizeof(l->rule), "%s", rule);
		SLIST_INSERT_HEAD(&g->limits, l, link);
	}
	l->n++;
}

void limit_drop(struct guard *g, const char *rule)
{
	struct limit *l = rule[0] ? limit_find(g, rule) : NULL;
	if (!l || --l->n)
		return;
	SLIST_REMOVE(&g->limits, l, limit, link);
	free(l);
}

void seat_take(struct guard *g, struct verdict *v, struct seat *s)
{
	char rule[NAME_MAX_LEN];
	if (!v->allow || !v->connections)
		return;
	if (limit_count(g, v->limit_rule) < v->connections) {
		memcpy(s->limit_rule, v->limit_rule, sizeof(s->limit_rule));
		limit_add(g, s->limit_rule);
		return;
	}
	memcpy(rule, v->limit_rule, sizeof(rule));
	verdict_deny(v, "as many connections as its rule allows are open");
	memcpy(v->rule, rule, sizeof(rule));
}

void seat_leave(struct guard *g, struct seat *s)
{
	limit_drop(g, s->limit_rule);
	s->limit_rule[0] = '\0';
}

uint32_t limit_count(struct guard *g, const char *rule)
{
	const struct limit *l = rule[0] ? limit_find(g, rule) : NULL;
	return l ? l->n : 0;
}

void limits_deinit(struct guard *g)
{
	while (!SLIST_EMPTY(&g->limits)) {
		struct limit *l = SLIST_FIRST(&g->limits);
		SLIST_REMOVE_HEAD(&g->limits, link);
		free(l);
	}
}
