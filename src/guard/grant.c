/*
 * Grants (grant.h). A fresh fabric has no grants, and neither has a
 * fresh guard: connections need theirs only while they open; a program asks again for each datagram
 * it addresses, and a connected datagram socket of before must connect again (docs/caveats.md).
 * Bounded: at GRANTS_MAX the oldest connection grant of the table gives way, which costs nothing
 * but the mark, since each connect makes its grant hold again.
 */
#include "guard/grant.h"

#include <errno.h>
#include <sodium.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fabric.pb-c.h"
#include "guard/judge.h"
#include "guard/lease.h"
#include "guard/pb.h"

#define BUCKETS 4096u

struct datagram_peer {
	struct addr client;
	uint64_t server;
};

struct principal_mark {
	LIST_ENTRY(principal_mark) link;
	uint64_t principal;
	uint32_t mark;
	size_t n; /* its grants */
};

struct grants {
	LIST_HEAD(, grant) buckets[BUCKETS];
	LIST_HEAD(, principal_mark) marks[BUCKETS]; /* by principal, which is a keyed hash */
	size_t n;
	struct datagram_peer peers[DATAGRAM_PEERS_MAX];
	size_t next_peer;
};

int grants_init(struct guard *g)
{
	g->grants = calloc(1, sizeof(*g->grants));
	return g->grants ? 0 : -ENOMEM;
}

static void grant_free(struct guard *g, struct grant *t)
{
	LIST_REMOVE(t, link);
	g->grants->n--;
	if (t->shared && --t->shared->n == 0) {
		LIST_REMOVE(t->shared, link);
		free(t->shared);
	}
	subject_unref(t->from);
	subject_unref(t->to);
	free(t);
}

void grants_deinit(struct guard *g)
{
	for (size_t i = 0; g->grants && i < BUCKETS; i++)
		while (!LIST_EMPTY(&g->grants->buckets[i]))
			grant_free(g, LIST_FIRST(&g->grants->buckets[i]));
	free(g->grants);
	g->grants = NULL;
}

static size_t bucket(
	const struct guard *g, uint64_t principal, Belay__Transport transport, const struct addr *d)
{
	uint8_t text[8 + 1 + 17 + 2], out[crypto_shorthash_BYTES];
	uint64_t h;
	memset(text, 0, sizeof(text));
	memcpy(text, &principal, 8);
	text[8] = (uint8_t)transport;
	text[9] = d->ip_len;
	memcpy(text + 10, d->ip, 16);
	memcpy(text + 26, &d->port, 2);
	crypto_shorthash(out, text, sizeof(text), g->hash_key);
	memcpy(&h, out, sizeof(h));
	return h % BUCKETS;
}

static void grant_revoke(struct guard *g, struct grant *t)
{
	Belay__FabricRevoke r = BELAY__FABRIC_REVOKE__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr d = pb_addr(&t->destination);
	r.mark = t->mark;
	r.destination = &d;
	r.transport = t->transport;
	m.body_case = BELAY__TO_FABRIC__BODY_REVOKE;
	m.revoke = &r;
	/* While the fabric is away there is nothing to do: a fresh one starts without grants. */
	if (arrow_up(g, ROLE_FABRIC) && arrow_order(g, &m, "revoke a grant") < 0)
		log_warn("cannot order the end of a grant");
	grant_free(g, t);
}

static uint32_t mark_new(void)
{
	uint32_t mark;
	do
		randombytes_buf(&mark, sizeof(mark));
	while (mark < MARK_MIN || mark > MARK_MAX);
	return mark;
}

static struct principal_mark *shared_find(struct guard *g, uint64_t principal)
{
	struct principal_mark *m;
	LIST_FOREACH (m, &g->grants->marks[principal % BUCKETS], link)
		if (m->principal == principal)
			return m;
	return NULL;
}

/* Entered, without a grant yet: the caller's is the first. */
static struct principal_mark *shared_new(struct guard *g, uint64_t principal)
{
	struct principal_mark *m = calloc(1, sizeof(*m));
	if (!m)
		return NULL;
	m->principal = principal;
	m->mark = mark_new();
	LIST_INSERT_HEAD(&g->grants->marks[principal % BUCKETS], m, link);
	return m;
}

static struct grant *grant_new(struct guard *g, const struct grant *want)
{
	size_t b = bucket(g, want->from->principal, want->transport, &want->destination);
	/* Full: what shares the new one's bucket gives way; a full table has long buckets. */
	for (size_t i = 0; g->grants->n >= GRANTS_MAX && i < BUCKETS; i++)
		while (!LIST_EMPTY(&g->grants->buckets[(b + i) % BUCKETS]) &&
			g->grants->n >= GRANTS_MAX)
			grant_revoke(g, LIST_FIRST(&g->grants->buckets[(b + i) % BUCKETS]));
	struct grant *t = calloc(1, sizeof(*t));
	if (!t)
		return NULL;
	*t = *want;
	if (t->transport == BELAY__TRANSPORT__TRANSPORT_UDP) {
		t->shared = shared_find(g, t->from->principal);
		if (!t->shared)
			t->shared = shared_new(g, t->from->principal);
		if (!t->shared) {
			free(t);
			return NULL;
		}
		t->shared->n++;
	}
	t->mark = t->shared ? t->shared->mark : mark_new();
	subject_ref(t->from);
	subject_ref(t->to);
	LIST_INSERT_HEAD(&g->grants->buckets[b], t, link);
	g->grants->n++;
	return t;
}

int grant_mark(struct guard *g, const struct grant *want, uint32_t *ret)
{
	struct grant *t;
	uint64_t principal = want->from->principal;
	LIST_FOREACH (t,
		&g->grants->buckets[bucket(g, principal, want->transport, &want->destination)],
		link) {
		if (t->from->principal != principal || t->transport != want->transport ||
			!addr_equal(&t->destination, &want->destination))
			continue;
		*ret = t->mark;
		return 0;
	}
	t = grant_new(g, want);
	if (!t)
		return -ENOMEM;
	*ret = t->mark;
	return 0;
}

void grant_datagram_note(struct guard *g, const struct addr *client, uint64_t server)
{
	if (!client->port || grant_datagram_answer(g, client, server))
		return;
	g->grants->peers[g->grants->next_peer] = (struct datagram_peer){*client, server};
	g->grants->next_peer = (g->grants->next_peer + 1) % DATAGRAM_PEERS_MAX;
}

bool grant_datagram_answer(struct guard *g, const struct addr *client, uint64_t server)
{
	for (size_t i = 0; i < DATAGRAM_PEERS_MAX; i++) {
		const struct datagram_peer *p = &g->grants->peers[i];
		if (p->server != server || p->client.port != client->port)
			continue;
		if (addr_is_any(&p->client) || addr_same_ip(&p->client, client))
			return true;
	}
	return false;
}

static void grants_each(struct guard *g,
	bool (*drop)(struct guard *g, struct grant *t, const void *x), const void *x)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct grant *t = LIST_FIRST(&g->grants->buckets[i]), *next;
		for (; t; t = next) {
			next = LIST_NEXT(t, link);
			if (drop(g, t, x))
				grant_revoke(g, t);
		}
	}
}

static bool has_mark(struct guard *g, struct grant *t, const void *x)
{
	(void)g;
	return t->transport == BELAY__TRANSPORT__TRANSPORT_UDP && t->mark == *(const uint32_t *)x;
}

void grant_inherited(struct guard *g, uint32_t mark, uint64_t principal)
{
	const struct principal_mark *own = shared_find(g, principal);
	if (!mark || (own && own->mark == mark))
		return;
	grants_each(g, has_mark, &mark);
}

struct gone {
	Belay__Transport transport;
	const struct addr *a;
};

static bool reaches(struct guard *g, struct grant *t, const void *x)
{
	(void)g;
	const struct gone *w = x;
	return t->transport == w->transport && t->destination.port == w->a->port &&
	       (addr_is_any(w->a) || addr_same_ip(&t->destination, w->a));
}

void grant_destination_gone(struct guard *g, Belay__Transport transport, const struct addr *a)
{
	struct gone w = {transport, a};
	if (transport == BELAY__TRANSPORT__TRANSPORT_TCP)
		lease_cut_destination(g, a);
	grants_each(g, reaches, &w);
}

static bool fails(struct guard *g, struct grant *t, const void *x)
{
	(void)x;
	struct verdict v;
	if (t->transport == BELAY__TRANSPORT__TRANSPORT_TCP)
		return true;
	judge_subject(g, &t->from);
	judge_subject(g, &t->to);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = t->transport,
		.from = t->from,
		.to = t->to,
		.address = &t->destination,
		.outside = t->outside,
		.dns = t->dns};
	decide_ask(g, &q, &v);
	return !v.allow;
}

void grant_judge(struct guard *g)
{
	memset(g->grants->peers, 0, sizeof(g->grants->peers));
	grants_each(g, fails, NULL);
}
