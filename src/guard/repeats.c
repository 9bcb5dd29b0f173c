/*
 * Counting entries that are alike (repeats.h). A kind has an entry here from its first occurrence
 * until a window has passed without one; the timer runs only while there is any.
 */
#include "guard/repeats.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "guard/auditing.h"

#define BUCKETS 256u

/* A record's texts, which a copy has to own. op and transport are words of ours. */
static const size_t texts[] = {
	offsetof(struct audit_record, rule),
	offsetof(struct audit_record, reason),
	offsetof(struct audit_record, subject),
	offsetof(struct audit_record, by),
	offsetof(struct audit_record, from.program),
	offsetof(struct audit_record, from.path),
	offsetof(struct audit_record, from.user),
	offsetof(struct audit_record, from.node),
	offsetof(struct audit_record, from.unix_path),
	offsetof(struct audit_record, to.program),
	offsetof(struct audit_record, to.path),
	offsetof(struct audit_record, to.user),
	offsetof(struct audit_record, to.node),
	offsetof(struct audit_record, to.unix_path),
};

struct repeat {
	LIST_ENTRY(repeat) link;
	uint64_t key, since_ms;
	share_who who;
	uint32_t logged;           /* in this window */
	uint64_t held;             /* counted, not yet written */
	struct audit_record *copy; /* of one that is held; NULL: none is */
};

struct repeats {
	LIST_HEAD(, repeat) buckets[BUCKETS];
	size_t n;
	uv_timer_t *timer;
};

/* One block: the record, what it points to, and the texts. */
static struct audit_record *record_copy(const struct audit_record *r)
{
	struct block {
		struct audit_record r;
		uint8_t sha[2][32];
		struct addr addr[2];
		char text[];
	} * b;
	size_t len = 0;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		const char *s = *(const char *const *)((const char *)r + texts[i]);
		len += s ? strnlen(s, AUDIT_TEXT_MAX) + 1 : 0;
	}
	b = calloc(1, sizeof(*b) + len);
	if (!b)
		return NULL;
	b->r = *r;
	b->r.channel = b->r.sha256 = NULL;
	char *at = b->text;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		const char **s = (const char **)((char *)&b->r + texts[i]);
		size_t n = *s ? strnlen(*s, AUDIT_TEXT_MAX) : 0;
		if (!*s)
			continue;
		memcpy(at, *s, n);
		*s = at;
		at += n + 1;
	}
	struct audit_party *p[] = {&b->r.from, &b->r.to};
	for (size_t i = 0; i < ARRAY_LEN(p); i++) {
		if (p[i]->sha256)
			p[i]->sha256 = memcpy(b->sha[i], p[i]->sha256, 32);
		if (p[i]->address)
			p[i]->address = memcpy(&b->addr[i], p[i]->address, sizeof(b->addr[i]));
	}
	return &b->r;
}

static struct repeat *repeat_find(struct guard *g, uint64_t key)
{
	struct repeat *t;
	LIST_FOREACH (t, &g->repeats->buckets[key % BUCKETS], link)
		if (t->key == key)
			return t;
	return NULL;
}

static void repeat_free(struct guard *g, struct repeat *t)
{
	LIST_REMOVE(t, link);
	g->repeats->n--;
	share_drop(g, SHARE_REPEATS, t->who);
	free(t->copy);
	free(t);
}

static void window_over(uv_timer_t *timer);

static struct repeat *repeat_new(struct guard *g, uint64_t key, share_who who)
{
	struct repeat *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	t->key = key;
	t->who = who;
	t->since_ms = clock_mono_ms();
	LIST_INSERT_HEAD(&g->repeats->buckets[key % BUCKETS], t, link);
	share_add(g, SHARE_REPEATS, who);
	if (!g->repeats->n++) {
		uv_update_time(&g->component.loop);
		uv_timer_start(
			g->repeats->timer, window_over, REPEATS_WINDOW_MS, REPEATS_WINDOW_MS);
	}
	return t;
}

/* Writes what was counted, as one. What cannot be written is counted on. */
static void repeat_write(struct guard *g, struct repeat *t)
{
	if (!t->held || !t->copy)
		return;
	t->copy->count = t->held;
	if (auditing_write(g, t->copy) < 0)
		return;
	t->held = 0;
	free(t->copy);
	t->copy = NULL;
}

/* True while there is something to wait for. */
static bool repeat_look(struct guard *g, struct repeat *t, uint64_t now)
{
	if (now - t->since_ms < REPEATS_WINDOW_MS)
		return true;
	bool goes_on = t->held > 0;
	repeat_write(g, t);
	t->since_ms = now;
	t->logged = REPEATS_FIRST; /* it goes on: from here on only counted */
	return goes_on;
}

static void window_over(uv_timer_t *timer)
{
	struct guard *g = timer->data;
	uint64_t now = clock_mono_ms();
	for (size_t i = 0; i < BUCKETS; i++) {
		struct repeat *t = LIST_FIRST(&g->repeats->buckets[i]), *next;
		for (; t; t = next) {
			next = LIST_NEXT(t, link);
			if (!repeat_look(g, t, now))
				repeat_free(g, t);
		}
	}
	if (!g->repeats->n)
		uv_timer_stop(timer);
}

/* Too many kinds of this one's: what they have in common is who, and what was asked. */
static struct repeat *repeat_rest(
	struct guard *g, share_who who, const struct audit_record *r, struct audit_record *ret)
{
	uint64_t key = (who ^ (uint64_t)r->type) * 31 + (r->op ? (uint8_t)r->op[0] : 0);
	*ret = (struct audit_record){.type = r->type,
		.verdict = r->verdict,
		.op = r->op,
		.subject = "of many kinds",
		.from = {.program = r->from.program,
			.user = r->from.user,
			.uid = r->from.uid,
			.pid = r->from.pid,
			.node = r->from.node}};
	struct repeat *t = repeat_find(g, key);
	return t ? t : repeat_new(g, key, who);
}

int repeats_record(struct guard *g, uint64_t key, share_who who, const struct audit_record *r)
{
	const struct audit_record *kept = r;
	struct audit_record rest;
	struct repeat *t = repeat_find(g, key);
	if (!t && share_count(g, SHARE_REPEATS, who) < REPEATS_PER_WHO &&
		share_free(g, SHARE_REPEATS, who))
		t = repeat_new(g, key, who);
	else if (!t && (t = repeat_rest(g, who, r, &rest)))
		kept = &rest;
	if (!t)
		return auditing_write(g, r);
	if (t->logged < REPEATS_FIRST) {
		t->logged++;
		return auditing_write(g, r);
	}
	if (!t->copy)
		t->copy = record_copy(kept);
	if (!t->copy)
		return auditing_write(g, r);
	t->held++;
	return 0;
}

static void timer_free(uv_handle_t *h)
{
	free(h);
}

int repeats_init(struct guard *g)
{
	g->repeats = calloc(1, sizeof(*g->repeats));
	uv_timer_t *t = g->repeats ? calloc(1, sizeof(*t)) : NULL;
	if (!t)
		return -ENOMEM;
	t->data = g;
	g->repeats->timer = t;
	return uv_timer_init(&g->component.loop, t);
}

void repeats_deinit(struct guard *g)
{
	if (!g->repeats)
		return;
	for (size_t i = 0; i < BUCKETS; i++)
		while (!LIST_EMPTY(&g->repeats->buckets[i])) {
			repeat_write(g, LIST_FIRST(&g->repeats->buckets[i]));
			repeat_free(g, LIST_FIRST(&g->repeats->buckets[i]));
		}
	if (g->repeats->timer)
		uv_close((uv_handle_t *)g->repeats->timer, timer_free);
	free(g->repeats);
	g->repeats = NULL;
}
