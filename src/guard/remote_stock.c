/*
 * The accepting side of a lease (docs/protocol.md, 4a): channels made in advance for one program of
 * another node and one listener of ours, and what becomes of them.
 *
 *   ChannelReserve ─▶ whose pair? listener, policy, log ─▶ sockets of the fabric under a mark of
 *   their own ─▶ ids and keys minted ─▶ conn enters them ─▶ ChannelReserved
 *   OPEN at conn ─▶ it connects the socket itself ─▶ news ─▶ recorded
 *
 * Input: another node, for what its own channels are; conn, for what it was given. The mark lets
 * these sockets reach this listener and nothing else, and is revoked when the lease ends: from then
 * on the kernel refuses, whatever conn or the other node do. A stock stays in the list until conn
 * has said that nothing of it will be reported any more.
 */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "crypto/random.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/judge.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "guard/remote.h"
#include "guard/reserve.h"
#include "guard/share.h"

/* One batch being made. */
struct filling {
	uint64_t request;
	uint32_t count;
	uint8_t theirs[REMOTE_NONCE_LEN], ours[REMOTE_NONCE_LEN];
	uint8_t id[RESERVE_BATCH][CHANNEL_ID_LEN];
	struct secret key[RESERVE_BATCH];
};

struct stock {
	TAILQ_ENTRY(stock) link;
	struct guard *guard;
	char node[NAME_MAX_LEN];
	uint64_t id, until_ms;
	struct subject *from, *to;
	struct addr source, destination;
	struct verdict verdict;
	uint32_t mark;
	struct bind_seen seen;
	struct process_wait *wait;
	struct filling *filling;
	struct call *pending;  /* the batch's */
	struct call *draining; /* conn's word that it is over */
	bool ended;
	struct reserve reserve;
};

/* ---- life ---- */

static void filling_free(struct stock *s)
{
	if (s->filling)
		secret_zero(s->filling, sizeof(*s->filling));
	free(take_ptr(s->filling));
}

static void stock_free(struct stock *s)
{
	struct guard *g = s->guard;
	TAILQ_REMOVE(&g->remote->stocks, s, link);
	g->remote->n_stocks--;
	arrow_cancel(s->pending);
	arrow_cancel(s->draining);
	process_forget_wait(s->wait);
	filling_free(s);
	subject_unref(s->from);
	subject_unref(s->to);
	free(s);
}

static void stock_settle(struct stock *s)
{
	if (s->ended && !s->draining && !s->pending && !s->wait)
		stock_free(s);
}

static void stock_drained(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g, (void)error, (void)reply, (void)fds, (void)n_fds;
	struct stock *s = ctx;
	s->draining = NULL;
	stock_settle(s);
}

static void stock_revoke(struct stock *s)
{
	struct guard *g = s->guard;
	Belay__FabricRevoke r = BELAY__FABRIC_REVOKE__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	r.mark = s->mark;
	r.transport = BELAY__TRANSPORT__TRANSPORT_TCP;
	m.body_case = BELAY__TO_FABRIC__BODY_REVOKE;
	m.revoke = &r;
	/* While the fabric is away there is nothing to do: a fresh one starts without grants. */
	if (arrow_up(g, ROLE_FABRIC) && arrow_order(g, &m, "end a lease") < 0)
		log_warn("cannot order the end of a lease");
}

/* tell: what the other node is told, or NULL. May free s. */
static void stock_end(struct stock *s, const char *tell)
{
	struct guard *g = s->guard;
	if (s->ended)
		return;
	s->ended = true;
	stock_revoke(s);
	const struct remote_node *n = remote_node_find(g, s->node);
	if (n && tell)
		remote_reserve_end_at(g, n, s->id, tell, true);
	Belay__ConnReserveEnd e = BELAY__CONN_RESERVE_END__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	e.lease = s->id;
	m.body_case = BELAY__TO_CONN__BODY_RESERVE_END;
	m.reserve_end = &e;
	if (arrow_up(g, ROLE_CONN) && arrow_call(g, ROLE_CONN, &m.base, NULL, 0, CALL_NOWAIT,
					      stock_drained, s, &s->draining) < 0)
		s->draining = NULL;
	stock_settle(s);
}

void remote_stocks_end(struct guard *g, const char *node, const char *tell)
{
	struct stock *s, *next;
	for (s = TAILQ_FIRST(&g->remote->stocks); s; s = next) {
		next = TAILQ_NEXT(s, link);
		if (!node || strcmp(s->node, node) == 0)
			stock_end(s, tell);
	}
}

void remote_stocks_drop(struct guard *g)
{
	while (!TAILQ_EMPTY(&g->remote->stocks))
		stock_free(TAILQ_FIRST(&g->remote->stocks));
}

bool remote_stocks_tick(struct guard *g)
{
	uint64_t now = clock_mono_ms();
	struct stock *s, *next;
	for (s = TAILQ_FIRST(&g->remote->stocks); s; s = next) {
		next = TAILQ_NEXT(s, link);
		if (s->until_ms <= now)
			stock_end(
				s, NULL); /* the other side counts for itself, and began earlier */
	}
	return !TAILQ_EMPTY(&g->remote->stocks);
}

void remote_stock_listener_gone(struct guard *g, Belay__Transport transport, const struct addr *a)
{
	struct stock *s, *next;
	if (!g->remote || transport != BELAY__TRANSPORT__TRANSPORT_TCP)
		return;
	for (s = TAILQ_FIRST(&g->remote->stocks); s; s = next) {
		next = TAILQ_NEXT(s, link);
		if (s->destination.port == a->port &&
			(addr_is_any(a) || addr_same_ip(a, &s->destination)))
			stock_end(s, "its listener has ended or changed hands");
	}
}

static struct endpoint_question question(const struct stock *s)
{
	return (struct endpoint_question){.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = BELAY__TRANSPORT__TRANSPORT_TCP,
		.from = s->from,
		.to = s->to,
		.address = &s->destination};
}

/* What the facts of now say. */
static bool stock_holds(struct stock *s, struct verdict *v)
{
	judge_subject(s->guard, &s->to);
	struct endpoint_question q = question(s);
	decide_ask(s->guard, &q, v);
	return remote_leasable(v);
}

void remote_stocks_judge(struct guard *g)
{
	struct stock *s, *next;
	struct verdict v;
	for (s = TAILQ_FIRST(&g->remote->stocks); s; s = next) {
		next = TAILQ_NEXT(s, link);
		if (s->ended || s->wait)
			continue;
		if (!stock_holds(s, &v) || v.idle_ms != s->verdict.idle_ms)
			stock_end(s, "the policy or what it rests on has changed");
		else
			s->verdict = v;
	}
}

/* ---- filling ---- */

static void answer_error(struct guard *g, const char *node, uint64_t request, int error)
{
	Belay__ChannelReserved a = BELAY__CHANNEL_RESERVED__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	const struct remote_node *n = remote_node_find(g, node);
	a.request = request;
	a.error = error;
	m.body_case = BELAY__NODE_MESSAGE__BODY_RESERVED;
	m.reserved = &a;
	if (n && n->ready && remote_send(g, n, &m) < 0)
		log_warn("cannot answer node %s", node);
}

static void filling_fail(struct stock *s, int error)
{
	if (s->filling)
		answer_error(s->guard, s->node, s->filling->request, error);
	filling_free(s);
	if (s->ended)
		stock_settle(s);
	else
		stock_end(s, "no more of it can be made");
}

static int filling_tell(struct stock *s)
{
	const struct filling *f = s->filling;
	const struct remote_node *n = remote_node_find(s->guard, s->node);
	Belay__ChannelReserved a = BELAY__CHANNEL_RESERVED__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	Belay__Reserved one[RESERVE_BATCH], *list[RESERVE_BATCH];
	for (size_t i = 0; i < f->count; i++) {
		belay__reserved__init(&one[i]);
		one[i].channel = pb_bytes(f->id[i], CHANNEL_ID_LEN);
		one[i].key = pb_bytes(f->key[i].bytes, SECRET_LEN);
		list[i] = &one[i];
	}
	a.request = f->request;
	a.lease = s->id;
	a.nonce = pb_bytes(f->ours, sizeof(f->ours));
	a.n_channel = f->count;
	a.channel = list;
	m.body_case = BELAY__NODE_MESSAGE__BODY_RESERVED;
	m.reserved = &a;
	return n && n->ready ? remote_send(s->guard, n, &m) : -ENOTCONN;
}

static void filling_entered(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g, (void)fds, (void)n_fds;
	struct stock *s = ctx;
	s->pending = NULL;
	error = s->ended ? -ECANCELED : remote_conn_result(error, reply);
	for (size_t i = 0; !error && i < s->filling->count; i++)
		error = reserve_add(&s->reserve, s->filling->id[i]) ? 0 : -ENOBUFS;
	if (!error)
		error = filling_tell(s);
	if (error)
		filling_fail(s, error);
	else
		filling_free(s);
}

/* Mints as many as there are sockets and has conn enter them. */
static int filling_enter(struct stock *s, const int *fds)
{
	struct guard *g = s->guard;
	struct filling *f = s->filling;
	const struct remote_node *n = remote_node_find(g, s->node);
	Belay__ConnReserve o = BELAY__CONN_RESERVE__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	Belay__ConnReserved one[RESERVE_BATCH], *list[RESERVE_BATCH];
	struct channel_secrets keys[RESERVE_BATCH];
	Belay__Addr to = pb_addr(&s->destination);
	int r = n && n->ready ? 0 : -ENOTCONN;
	random_bytes(f->ours, sizeof(f->ours));
	for (size_t i = 0; r == 0 && i < f->count; i++) {
		random_secret(&f->key[i]);
		r = channel_new_id(f->id[i]);
		/* As those that are asked for: one listener's share a data connection. */
		f->id[i][0] = (uint8_t)((f->id[i][0] & ~1u) | (s->destination.port & 1u));
		if (r == 0)
			r = channel_secrets_derive(
				&f->key[i], f->theirs, f->ours, &n->exporter, f->id[i], &keys[i]);
		belay__conn_reserved__init(&one[i]);
		one[i].channel = pb_bytes(f->id[i], CHANNEL_ID_LEN);
		one[i].send_key = pb_bytes(keys[i].responder.bytes, SECRET_LEN);
		one[i].receive_key = pb_bytes(keys[i].initiator.bytes, SECRET_LEN);
		list[i] = &one[i];
	}
	o.lease = s->id;
	o.node = s->node;
	o.idle_ms = s->verdict.idle_ms;
	o.destination = &to;
	o.n_channel = f->count;
	o.channel = list;
	m.body_case = BELAY__TO_CONN__BODY_RESERVE;
	m.reserve = &o;
	if (r == 0)
		r = arrow_call(g, ROLE_CONN, &m.base, fds, f->count, CALL_NOWAIT, filling_entered,
			s, &s->pending);
	secret_zero(keys, sizeof(keys));
	return r;
}

static void filling_sockets(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g;
	struct stock *s = ctx;
	const Belay__FromFabric *m = reply;
	s->pending = NULL;
	if (!error)
		error = m->error ? m->error : s->ended ? -ECANCELED : 0;
	if (!error && (!n_fds || n_fds > s->filling->count))
		error = -EPROTO;
	if (!error) {
		s->filling->count = (uint32_t)n_fds;
		error = filling_enter(s, fds);
	}
	if (error)
		filling_fail(s, error);
}

static void stock_fill(struct stock *s)
{
	Belay__FabricDialers o = BELAY__FABRIC_DIALERS__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr from = pb_addr(&s->source), to = pb_addr(&s->destination);
	o.mark = s->mark;
	o.source = &from;
	o.destination = &to;
	o.count = s->filling->count;
	m.body_case = BELAY__TO_FABRIC__BODY_DIALERS;
	m.dialers = &o;
	int r = arrow_call(s->guard, ROLE_FABRIC, &m.base, NULL, 0, CALL_NOWAIT, filling_sockets, s,
		&s->pending);
	if (r < 0)
		filling_fail(s, r);
}

/* ---- asked ---- */

static void stock_listener(struct guard *g, void *ctx, int error, struct subject *to)
{
	struct stock *s = ctx;
	struct verdict v = {0};
	s->wait = NULL;
	if (!error && to->principal == s->to->principal &&
		bind_is_still(g, BELAY__TRANSPORT__TRANSPORT_TCP, &s->destination, &s->seen)) {
		subject_unref(s->to);
		s->to = subject_ref(to);
		if (stock_holds(s, &v)) {
			struct endpoint_question q = question(s);
			error = decide_record(g, &q, &v, 0);
		} else {
			error = -EACCES;
		}
	} else {
		error = -ECONNREFUSED;
	}
	s->verdict = v;
	if (error || s->ended)
		filling_fail(s, error ? error : -ECANCELED);
	else
		stock_fill(s);
}

static struct stock *stock_new(
	struct guard *g, const struct remote_node *n, const struct channel *c)
{
	struct stock *s = g->remote->n_stocks < REMOTE_LEASES_MAX ? calloc(1, sizeof(*s)) : NULL;
	if (!s)
		return NULL;
	s->guard = g;
	memcpy(s->node, n->name, sizeof(s->node));
	s->id = ++g->remote->last_lease;
	s->until_ms = clock_mono_ms() + REMOTE_LEASE_MS + REMOTE_LEASE_LATE_MS;
	s->from = subject_ref(c->from);
	s->to = subject_ref(c->to);
	s->source = c->a;
	s->source.port = 0;
	s->destination = c->b;
	do
		randombytes_buf(&s->mark, sizeof(s->mark));
	while (s->mark < MARK_MIN || s->mark == UINT32_MAX);
	TAILQ_INSERT_TAIL(&g->remote->stocks, s, link);
	g->remote->n_stocks++;
	remote_lease_timer(g);
	return s;
}

static bool stock_begin(struct stock *s, const Belay__ChannelReserve *m)
{
	size_t room = RESERVE_MAX - s->reserve.n;
	if (!share_free(s->guard, SHARE_CHANNELS, share_node(s->guard, s->node)))
		return false;
	s->filling = room ? calloc(1, sizeof(*s->filling)) : NULL;
	if (!s->filling)
		return false;
	s->filling->request = m->request;
	s->filling->count = m->count < room ? m->count : (uint32_t)room;
	memcpy(s->filling->theirs, m->nonce.data, REMOTE_NONCE_LEN);
	return true;
}

/* A lease of the pair of a channel of that node that is open here. */
static void reserve_first(struct guard *g, struct remote_node *n, const Belay__ChannelReserve *m)
{
	struct channel *c = channel_find(g, m->channel.data);
	if (c &&
		(c->via != CHANNEL_REMOTE || c->initiator || strcmp(c->from->node, n->name) != 0)) {
		remote_surprise(g, n, "it asks for more of a channel that is not its own");
		return;
	}
	struct bind *b =
		c && !c->why_ending ? bind_find(g, BELAY__TRANSPORT__TRANSPORT_TCP, &c->b) : NULL;
	struct stock *s = b ? stock_new(g, n, c) : NULL;
	if (!s || !stock_begin(s, m)) {
		answer_error(g, n->name, m->request, s ? -ENOMEM : -ENOENT);
		if (s)
			stock_free(s);
		return;
	}
	struct process_wait *w;
	s->seen = bind_see(b);
	bind_subject(g, b, stock_listener, s, &w);
	if (w) /* NULL: it was called already, and s may be gone */
		s->wait = w;
}

void remote_take_reserve(struct guard *g, struct remote_node *n, const Belay__ChannelReserve *m)
{
	if (m->nonce.len != REMOTE_NONCE_LEN || !m->count || m->count > RESERVE_BATCH ||
		(!m->lease && m->channel.len != CHANNEL_ID_LEN)) {
		remote_surprise(g, n, "it asks for channels in a way nobody does");
		return;
	}
	if (!m->lease) {
		reserve_first(g, n, m);
		return;
	}
	struct stock *s;
	TAILQ_FOREACH (s, &g->remote->stocks, link)
		if (s->id == m->lease && !s->ended && strcmp(s->node, n->name) == 0)
			break;
	if (!s)
		answer_error(g, n->name, m->request, -ENOENT); /* it has just ended */
	else if (s->filling || !stock_begin(s, m))
		answer_error(g, n->name, m->request, -EAGAIN);
	else
		stock_fill(s);
}

void remote_stock_ended(struct guard *g, const struct remote_node *n, uint64_t id)
{
	struct stock *s;
	TAILQ_FOREACH (s, &g->remote->stocks, link) {
		if (s->id != id || strcmp(s->node, n->name) != 0)
			continue;
		stock_end(s, NULL);
		return;
	}
}

/* ---- what conn has opened ---- */

static void used_end(struct guard *g, const uint8_t *id, const char *reason)
{
	Belay__ConnEnd e = BELAY__CONN_END__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	e.channel = pb_bytes(id, CHANNEL_ID_LEN);
	e.reason = pb_text(reason);
	m.body_case = BELAY__TO_CONN__BODY_END;
	m.end = &e;
	log_error("a channel that was opened in advance ends: %s", reason);
	if (arrow_send(g, ROLE_CONN, &m.base, NULL, 0) < 0)
		log_error("cannot order conn to end a channel");
}

void remote_stock_used(struct guard *g, const uint8_t *id, const struct addr *local)
{
	struct stock *s;
	TAILQ_FOREACH (s, &g->remote->stocks, link)
		if (reserve_take(&s->reserve, id))
			break;
	if (!s) {
		used_end(g, id, "no lease has it");
		return;
	}
	struct channel t = {.via = CHANNEL_REMOTE,
		.transport = BELAY__TRANSPORT__TRANSPORT_TCP,
		.protection = BELAY__PROTECTION__PROTECTION_ENCRYPT,
		.a = *local,
		.b = s->destination,
		.from = s->from,
		.to = s->to,
		.idle_limit_ms = s->verdict.idle_ms};
	struct channel *c = NULL;
	memcpy(t.id, id, sizeof(t.id));
	snprintf(t.rule, sizeof(t.rule), "%s", s->verdict.rule);
	if (!share_free(g, SHARE_CHANNELS, share_node(g, s->node)))
		used_end(g, id, share_refusal(SHARE_CHANNELS));
	else if (channel_start(g, &t, &c) < 0)
		used_end(g, id, "it cannot be recorded");
	else
		c->held = true;
	if (c && s->ended)
		channel_judge_one(g, c, "policy");
}
