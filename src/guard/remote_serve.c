/*
 * The receiving side of a channel between nodes (remote_open.c has the picture). Input: ChannelOpen
 * of another node, whose word counts for what its certificate names and nothing else. What it asks
 * is decided here again, by our policy, against our listener.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "crypto/channel_keys.h"
#include "crypto/random.h"
#include "fabric.pb-c.h"
#include "guard/datagram.h"
#include "guard/grant.h"
#include "guard/job.h"
#include "guard/judge.h"
#include "guard/limit.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "guard/remote.h"
#include "guard/share.h"

struct serving {
	TAILQ_ENTRY(serving) link;
	struct guard *guard;
	struct remote_node *node;
	uint64_t request;
	Belay__Transport transport;
	struct subject *from, *to;
	struct addr source, destination;
	uint8_t nonce[REMOTE_NONCE_LEN], id[CHANNEL_ID_LEN], ours[REMOTE_NONCE_LEN];
	struct secret key;
	struct verdict verdict;
	struct bind_seen seen;
	struct seat seat;
	struct process_wait *wait;
	struct call *pending;
	bool started; /* the channel is in the table */
};

static void serving_free(struct serving *s)
{
	TAILQ_REMOVE(&s->node->serving, s, link);
	s->node->n_serving--;
	seat_leave(s->guard, &s->seat);
	arrow_cancel(s->pending);
	process_forget_wait(s->wait);
	subject_unref(s->from);
	subject_unref(s->to);
	secret_zero(s, sizeof(*s));
	free(s);
}

static void answer_error(
	struct guard *g, struct remote_node *n, uint64_t request, int error, const char *why)
{
	Belay__ChannelAnswer a = BELAY__CHANNEL_ANSWER__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	a.request = request;
	a.error = error;
	a.why = pb_text(why);
	m.body_case = BELAY__NODE_MESSAGE__BODY_ANSWER;
	m.answer = &a;
	if (remote_send(g, n, &m) < 0)
		log_warn("cannot answer node %s", n->name);
}

static void serving_fail(struct serving *s, int error, const char *why)
{
	struct guard *g = s->guard;
	struct channel *c = s->started ? channel_find(g, s->id) : NULL;
	answer_error(g, s->node, s->request, error, why);
	if (c)
		channel_end(g, c, why);
	serving_free(s);
}

static void served_carried(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct serving *s = ctx;
	s->pending = NULL;
	error = remote_conn_result(error, reply);
	struct channel *c = channel_find(g, s->id);
	if (error || !c) {
		serving_fail(s, error == -EPIPE ? -EAGAIN : -ECONNREFUSED,
			error ? "its conn cannot take it" : "ended meanwhile");
		return;
	}
	c->held = true;
	char *programs[SUBJECT_PROGRAMS_MAX];
	for (size_t i = 0; i < s->to->n_programs; i++)
		programs[i] = pb_text(s->to->programs[i]);
	Belay__ChannelAnswer a = BELAY__CHANNEL_ANSWER__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	a.request = s->request;
	a.channel = pb_bytes(s->id, sizeof(s->id));
	a.key = pb_bytes(s->key.bytes, SECRET_LEN);
	a.nonce = pb_bytes(s->ours, sizeof(s->ours));
	a.to = (Belay__Evidence *)(uintptr_t)s->to->evidence;
	a.n_to_programs = s->to->n_programs;
	a.to_programs = programs;
	a.rule = s->verdict.rule;
	a.idle_ms = datagram_idle(s->transport, s->verdict.idle_ms);
	a.transport = s->transport;
	m.body_case = BELAY__NODE_MESSAGE__BODY_ANSWER;
	m.answer = &a;
	if (remote_send(g, s->node, &m) < 0)
		serving_fail(s, -ECONNREFUSED, "the answer could not be sent");
	else
		serving_free(s);
}

static int served_start(struct serving *s, const struct addr *dialed, int fd)
{
	struct guard *g = s->guard;
	struct channel t = {.via = CHANNEL_REMOTE,
		.transport = s->transport,
		.protection = BELAY__PROTECTION__PROTECTION_ENCRYPT,
		.a = *dialed,
		.b = s->destination,
		.from = s->from,
		.to = s->to,
		.idle_limit_ms = datagram_idle(s->transport, s->verdict.idle_ms)};
	struct channel *c;
	struct channel_secrets keys;
	snprintf(t.rule, sizeof(t.rule), "%s", s->verdict.rule);
	snprintf(t.limit_rule, sizeof(t.limit_rule), "%s", s->verdict.limit_rule);
	random_secret(&s->key);
	random_bytes(s->ours, sizeof(s->ours));
	int r = channel_new_id(s->id);
	/* Picks the data connection: what comes for one listener travels, and is read, together. */
	s->id[0] = (uint8_t)((s->id[0] & ~1u) | (s->destination.port & 1u));
	memcpy(t.id, s->id, sizeof(t.id));
	if (r == 0)
		r = channel_secrets_derive(
			&s->key, s->nonce, s->ours, &s->node->exporter, s->id, &keys);
	seat_leave(g, &s->seat);
	if (r == 0)
		r = channel_start(g, &t, &c);
	if (r < 0)
		return r;
	s->started = true;
	/* Its answers to the stand-in need no grant of their own. */
	if (s->transport == BELAY__TRANSPORT__TRANSPORT_UDP)
		grant_datagram_note(g, dialed, s->to->principal);
	r = remote_give_conn(g, c, s->node->name, &keys, fd, served_carried, s, &s->pending);
	channel_secrets_clear(&keys);
	return r;
}

static void served_dialed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g;
	struct serving *s = ctx;
	const Belay__FromFabric *m = reply;
	struct addr dialed;
	s->pending = NULL;
	if (!error)
		error = m->error;
	if (error || n_fds < 1) {
		serving_fail(s, error == -EPIPE ? -EAGAIN : -ECONNREFUSED,
			"its listener does not take it");
		return;
	}
	int r = pb_addr_read(m->local, &dialed) < 0 || !dialed.ip_len
			? -EPROTO
			: served_start(s, &dialed, fds[0]);
	if (r < 0)
		serving_fail(
			s, r == -EPIPE ? -EAGAIN : -ECONNREFUSED, "it cannot carry the channel");
}

static void served_listener(struct guard *g, void *ctx, int error, struct subject *to)
{
	struct serving *s = ctx;
	s->wait = NULL;
	if (error || !bind_is_still(g, s->transport, &s->destination, &s->seen)) {
		serving_fail(s, -ECONNREFUSED, "its listener cannot be identified any more");
		return;
	}
	s->to = subject_ref(to);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = s->transport,
		.from = s->from,
		.to = to,
		.address = &s->destination};
	decide_ask(g, &q, &s->verdict);
	seat_take(g, &s->verdict, &s->seat, share_node(g, s->node->name));
	if (decide_record(g, &q, &s->verdict, 0) < 0 || !s->verdict.allow) {
		serving_fail(s, -EACCES, s->verdict.why[0] ? s->verdict.why : "refused by policy");
		return;
	}
	Belay__FabricDial o = BELAY__FABRIC_DIAL__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr from = pb_addr(&s->source), dest = pb_addr(&s->destination);
	o.source = &from;
	o.destination = &dest;
	m.body_case = BELAY__TO_FABRIC__BODY_DIAL;
	m.dial = &o;
	o.transport = s->transport;
	const struct grant want = {.transport = s->transport,
		.destination = s->destination,
		.from = s->from,
		.to = s->to};
	if (s->transport == BELAY__TRANSPORT__TRANSPORT_UDP && grant_mark(g, &want, &o.mark) < 0)
		serving_fail(s, -ECONNREFUSED, "out of memory");
	else if (arrow_call(g, ROLE_FABRIC, &m.base, NULL, 0, CALL_NOWAIT, served_dialed, s,
			 &s->pending) < 0)
		serving_fail(s, -EAGAIN, "its fabric is away");
}

/* The asking program alone; then whether anybody listens: a stranger does not learn that. */
static void serving_start(struct serving *s)
{
	struct guard *g = s->guard;
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = s->transport,
		.from = s->from,
		.address = &s->destination,
		.caller_only = true};
	decide_ask(g, &q, &s->verdict);
	if (!s->verdict.allow) {
		if (decide_record(g, &q, &s->verdict, 0) < 0)
			log_error("cannot log a refusal");
		serving_fail(s, -EACCES, s->verdict.why[0] ? s->verdict.why : "refused by policy");
		return;
	}
	struct bind *b = bind_find(g, s->transport, &s->destination);
	if (!b) {
		serving_fail(s, -ECONNREFUSED, "nobody listens there");
		return;
	}
	struct process_wait *w;
	s->seen = bind_see(b);
	bind_subject(g, b, served_listener, s, &w);
	if (w) /* NULL: it was called already, and s may be gone */
		s->wait = w;
}

static bool owns(const struct remote_node *n, const struct addr *a)
{
	for (size_t i = 0; i < n->n_addresses; i++)
		if (addr_same_ip(&n->addresses[i], a))
			return true;
	return false;
}

void remote_take_open(struct guard *g, struct remote_node *n, Belay__ChannelOpen *m)
{
	struct addr source, destination;
	if (m->transport != BELAY__TRANSPORT__TRANSPORT_TCP &&
		m->transport != BELAY__TRANSPORT__TRANSPORT_UDP) {
		answer_error(g, n, m->request, -EPROTONOSUPPORT, "it carries no such transport");
		return;
	}
	if (!m->from || m->nonce.len != REMOTE_NONCE_LEN || pb_addr_read(m->source, &source) < 0 ||
		pb_addr_read(m->destination, &destination) < 0 || !destination.port) {
		remote_surprise(g, n, "its request is not one");
		return;
	}
	if (!owns(n, &source)) {
		remote_surprise(g, n, "it speaks for an address its certificate does not have");
		return;
	}
	if (!guard_owns(g, &destination) || addr_is_any(&destination) ||
		addr_is_loopback(&destination)) {
		answer_error(g, n, m->request, -EHOSTUNREACH, "that address is not this node's");
		return;
	}
	struct serving *s = n->n_serving < REMOTE_OPENS_MAX ? calloc(1, sizeof(*s)) : NULL;
	if (!s) {
		answer_error(g, n, m->request, -EAGAIN, "too many requests are under way");
		return;
	}
	s->guard = g;
	s->node = n;
	s->request = m->request;
	s->transport = m->transport;
	s->source = source;
	s->source.port = 0;
	s->destination = destination;
	memcpy(s->nonce, m->nonce.data, sizeof(s->nonce));
	TAILQ_INSERT_TAIL(&n->serving, s, link);
	n->n_serving++;
	s->from = subject_remote(g, take_ptr(m->from), n->name, m->from_programs,
		m->n_from_programs, m->from_groups, m->n_from_groups, m->from_user);
	if (s->from)
		serving_start(s);
	else
		serving_fail(s, -EACCES, "what it says about its program cannot be used");
}

void remote_serves_drop(struct guard *g, struct remote_node *n)
{
	while (!TAILQ_EMPTY(&n->serving)) {
		struct serving *s = TAILQ_FIRST(&n->serving);
		struct channel *c = s->started ? channel_find(g, s->id) : NULL;
		if (c)
			channel_end(g, c, "the link went down");
		serving_free(s);
	}
}
