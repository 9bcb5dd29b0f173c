/*
 * Counts by rule (limit.h). Only rules with a limit have an entry, and only while something counts:
 * an open channel, or the moment until which the rule's rate has been used up.
 */
#include "guard/limit.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "guard/share.h"

struct limit {
	SLIST_ENTRY(limit) link;
	uint32_t n;
	uint64_t busy_us; /* monotonic: what came so far fills the rule's rate until then */
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

static uint64_t now_us(void)
{
	return clock_mono_ms() * 1000;
}

/* Entries that count nothing any more. */
static void limits_sweep(struct guard *g)
{
	uint64_t now = now_us();
	for (struct limit *l = SLIST_FIRST(&g->limits), *next; l; l = next) {
		next = SLIST_NEXT(l, link);
		if (l->n || l->busy_us > now)
			continue;
		SLIST_REMOVE(&g->limits, l, limit, link);
		free(l);
	}
}

static struct limit *limit_get(struct guard *g, const char *rule)
{
	struct limit *l = limit_find(g, rule);
	if (l)
		return l;
	limits_sweep(g);
	l = calloc(1, sizeof(*l));
	if (!l)
		abort(); /* a limit that is not counted is not a limit */
	snprintf(l->rule, sizeof(l->rule), "%s", rule);
	SLIST_INSERT_HEAD(&g->limits, l, link);
	return l;
}

void limit_add(struct guard *g, const char *rule)
{
	if (rule[0])
		limit_get(g, rule)->n++;
}

void limit_drop(struct guard *g, const char *rule)
{
	struct limit *l = rule[0] ? limit_find(g, rule) : NULL;
	if (l && !--l->n)
		limits_sweep(g);
}

/*
 * One more under the rule's rate? Each takes its share of the period, and as many may come at once
 * as the whole period holds: what is counted is one moment, whatever the rate.
 */
static bool rate_take(struct guard *g, const struct verdict *v)
{
	uint64_t now = now_us(), period = v->rate_s * 1000000ull;
	struct limit *l = limit_get(g, v->rate_rule);
	uint64_t from = l->busy_us > now ? l->busy_us : now;
	if (from + period / v->rate > now + period)
		return false;
	l->busy_us = from + period / v->rate;
	return true;
}

static void refuse_seat(struct verdict *v, const char *of, const char *why)
{
	char rule[NAME_MAX_LEN];
	memcpy(rule, of, sizeof(rule));
	verdict_deny(v, "%s", why);
	memcpy(v->rule, rule, sizeof(rule));
}

void seat_take(struct guard *g, struct verdict *v, struct seat *s, uint64_t who)
{
	if (!v->allow)
		return;
	if (!share_free(g, SHARE_CHANNELS, who)) {
		verdict_deny(v, "%s", share_refusal(SHARE_CHANNELS));
		return;
	}
	if (v->connections && limit_count(g, v->limit_rule) >= v->connections) {
		refuse_seat(v, v->limit_rule, "as many connections as its rule allows are open");
		return;
	}
	if (v->rate && !rate_take(g, v)) {
		refuse_seat(v, v->rate_rule, "new connections come faster than its rule allows");
		return;
	}
	s->who = who;
	share_add(g, SHARE_CHANNELS, who);
	if (v->connections) {
		memcpy(s->limit_rule, v->limit_rule, sizeof(s->limit_rule));
		limit_add(g, s->limit_rule);
	}
}

void seat_leave(struct guard *g, struct seat *s)
{
	limit_drop(g, s->limit_rule);
	s->limit_rule[0] = '\0';
	if (s->who)
		share_drop(g, SHARE_CHANNELS, s->who);
	s->who = 0;
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
