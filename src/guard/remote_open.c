/*
 * A channel between nodes, from the question to both key tables (docs/protocol.md, 4).
 *
 *   connecting side                              receiving side
 *   caller alone was qualified (connect.c)
 *   asking: ChannelOpen ───────────────────────▶ source in the certificate? listener entry of our
 * own? caller alone, listener, pair: our policy id, key, nonce minted; fabric dials; conn takes it
 *   is it what we asked for? ◀──── ChannelAnswer
 *   pair by our policy; pair of sockets; conn takes it; the program goes on
 *
 * Either side ends what it has begun when a later step fails, and tells the other (ChannelEnd).
 * What is under way when the link goes down fails: its keys would be bound to an exporter that is
 * gone. This file is the connecting side and the ends; remote_serve.c is the receiving side.
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
#include "guard/job.h"
#include "guard/judge.h"
#include "guard/limit.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "guard/remote.h"

void remote_end_at(
	struct guard *g, const struct remote_node *n, const uint8_t *id, const char *reason)
{
	Belay__ChannelEnd e = BELAY__CHANNEL_END__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	e.channel = pb_bytes(id, CHANNEL_ID_LEN);
	e.reason = pb_text(reason);
	m.body_case = BELAY__NODE_MESSAGE__BODY_END;
	m.end = &e;
	/* Without a link the other side learns it from the data connection's RESET. */
	if (n->linked && remote_send(g, n, &m) < 0)
		log_warn("cannot tell node %s that a channel ended", n->name);
}

int remote_give_conn(struct guard *g, const struct channel *c, const char *node,
	const struct channel_secrets *keys, int fd, call_fn fn, void *ctx, struct call **ret)
{
	const struct secret *send = c->initiator ? &keys->initiator : &keys->responder;
	const struct secret *receive = c->initiator ? &keys->responder : &keys->initiator;
	Belay__ConnChannel o = BELAY__CONN_CHANNEL__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	o.channel = pb_bytes(c->id, CHANNEL_ID_LEN);
	o.node = pb_text(node);
	o.send_key = pb_bytes(send->bytes, SECRET_LEN);
	o.receive_key = pb_bytes(receive->bytes, SECRET_LEN);
	o.initiator = c->initiator;
	o.idle_ms = c->idle_limit_ms;
	o.transport = c->transport;
	m.body_case = BELAY__TO_CONN__BODY_CHANNEL;
	m.channel = &o;
	return arrow_call(g, ROLE_CONN, &m.base, &fd, 1, CALL_NOWAIT, fn, ctx, ret);
}

int remote_conn_result(int error, const Belay__FromConn *m)
{
	if (error)
		return error;
	return m->body_case == BELAY__FROM_CONN__BODY_OPENED ? m->opened->error : -EPROTO;
}

/* ---- connecting side ---- */

struct asking {
	TAILQ_ENTRY(asking) link;
	struct guard *guard;
	struct remote_node *node;
	struct job *job; /* NULL: it has gone; the answer, if it comes, is to be ended */
	uint64_t request, deadline_ms;
	bool answered;
	struct addr source;
	uint8_t nonce[REMOTE_NONCE_LEN], id[CHANNEL_ID_LEN];
	struct channel_secrets keys;
};

static void timer_arm(struct guard *g)
{
	uint64_t next = UINT64_MAX, now = clock_mono_ms();
	for (size_t i = 0; i < g->remote->n_nodes; i++) {
		const struct asking *a;
		TAILQ_FOREACH (a, &g->remote->nodes[i]->asking, link)
			if (!a->answered && a->deadline_ms < next)
				next = a->deadline_ms;
	}
	uv_update_time(&g->component.loop);
	if (next == UINT64_MAX)
		uv_timer_stop(&g->remote->timer);
	else
		uv_timer_start(
			&g->remote->timer, remote_open_timer, next > now ? next - now : 0, 0);
}

static void asking_free(struct asking *a)
{
	TAILQ_REMOVE(&a->node->asking, a, link);
	if (--a->node->n_asking == 0 && a->node->gone)
		free(a->node);
	if (a->job)
		a->job->remote = NULL;
	secret_zero(a, sizeof(*a));
	free(a);
}

/* The job's end; a is gone afterwards. */
static void asking_fail(struct asking *a, int error, const char *why)
{
	struct job *j = a->job;
	char notice[REASON_MAX + NAME_MAX_LEN + 64], node[NAME_MAX_LEN];
	snprintf(notice, sizeof(notice), "belay: cannot reach node %s: %s (try belay node list)",
		a->node->name, why);
	snprintf(node, sizeof(node), "%s", a->node->name);
	/* Worth another try if its link or conn has just gone; not when it was silent for long. */
	uint64_t asked_ms = a->deadline_ms - REMOTE_OPEN_MS;
	bool soon = clock_mono_ms() - asked_ms < REMOTE_OPEN_MS / 3;
	bool later = error == -EAGAIN || (error == -EHOSTUNREACH && !a->node->gone && soon);
	asking_free(a);
	if (j && later)
		job_later(j, -EHOSTUNREACH, node, notice);
	else if (j)
		job_answer(j, error, notice);
}

void remote_open_timer(uv_timer_t *t)
{
	struct guard *g = t->data;
	uint64_t now = clock_mono_ms();
	for (size_t i = 0; i < g->remote->n_nodes; i++) {
		struct asking *a, *next;
		for (a = TAILQ_FIRST(&g->remote->nodes[i]->asking); a; a = next) {
			next = TAILQ_NEXT(a, link);
			if (!a->answered && a->deadline_ms <= now)
				asking_fail(a, -ETIMEDOUT, "it does not answer");
		}
	}
	timer_arm(g);
}

void remote_job_gone(struct job *j)
{
	struct asking *a = j->remote;
	j->remote = NULL;
	a->job = NULL;
	if (a->answered) {
		remote_end_at(j->guard, a->node, a->id, "the program has gone");
		asking_free(a);
	}
}

static const struct addr *own_address(const struct guard *g, uint8_t ip_len)
{
	for (size_t i = 0; i < g->n_addresses; i++)
		if (g->addresses[i].ip_len == ip_len)
			return &g->addresses[i];
	return NULL;
}

static int asking_send(struct asking *a)
{
	const struct subject *s = a->job->caller;
	char *programs[SUBJECT_PROGRAMS_MAX], *groups[SUBJECT_PROGRAMS_MAX];
	Belay__ChannelOpen o = BELAY__CHANNEL_OPEN__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	Belay__Addr source = pb_addr(&a->source), destination = pb_addr(&a->job->address);
	for (size_t i = 0; i < s->n_programs; i++)
		programs[i] = pb_text(s->programs[i]);
	for (size_t i = 0; i < s->n_groups; i++)
		groups[i] = pb_text(s->groups[i]);
	o.request = a->request;
	o.from = (Belay__Evidence *)(uintptr_t)s->evidence;
	o.n_from_programs = s->n_programs;
	o.from_programs = programs;
	o.n_from_groups = s->n_groups;
	o.from_groups = groups;
	o.from_user = pb_text(s->user);
	o.source = &source;
	o.destination = &destination;
	o.nonce = pb_bytes(a->nonce, sizeof(a->nonce));
	o.rule = a->job->verdict.rule;
	o.protection = BELAY__PROTECTION__PROTECTION_ENCRYPT;
	o.transport = a->job->transport;
	m.body_case = BELAY__NODE_MESSAGE__BODY_OPEN;
	m.open = &o;
	return remote_send(a->guard, a->node, &m);
}

int remote_connect(struct job *j, const char *node)
{
	struct guard *g = j->guard;
	struct remote_node *n = remote_node_find(g, node);
	const struct addr *own = own_address(g, j->address.ip_len);
	char notice[REASON_MAX + NAME_MAX_LEN + 64];
	if (!n || !n->ready) {
		snprintf(notice, sizeof(notice), "belay: node %s is down: %s (try belay node list)",
			node, n && n->why[0] ? n->why : "its link is coming up");
		/* One that is restarting, or we, will be back in a moment. */
		if (n && clock_mono_ms() - n->down_ms < REMOTE_BACK_MS)
			job_later(j, -EHOSTUNREACH, node, notice);
		else
			job_answer(j, -EHOSTUNREACH, notice);
		return 0;
	}
	if (!own)
		return -ENETUNREACH;
	if (j->transport == BELAY__TRANSPORT__TRANSPORT_TCP && remote_lease_spend(j, n))
		return 0;
	if (n->n_asking >= REMOTE_OPENS_MAX)
		return -EAGAIN;
	struct asking *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	a->guard = g;
	a->node = n;
	a->job = j;
	a->request = ++g->remote->last_request;
	a->deadline_ms = clock_mono_ms() + REMOTE_OPEN_MS;
	a->source = *own;
	random_bytes(a->nonce, sizeof(a->nonce));
	TAILQ_INSERT_TAIL(&n->asking, a, link);
	n->n_asking++;
	j->remote = a;
	if (asking_send(a) < 0) {
		asking_fail(a, -EHOSTUNREACH, "its link has just ended");
		return 0;
	}
	timer_arm(g);
	return 0;
}

static void asked_carried(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct asking *a = ctx;
	struct job *j = a->job;
	struct channel *c = channel_find(g, a->id);
	j->pending = NULL;
	error = remote_conn_result(error, reply);
	if (!error && !c)
		error = -ECONNABORTED; /* judged again, revoked, or ended by the other node
					  meanwhile */
	if (error && c)
		channel_end(g, c, "it could not be opened"); /* tells the other node */
	if (error) {
		asking_fail(a,
			error == -EPIPE          ? -EAGAIN
			: error == -EHOSTUNREACH ? error
						 : -ECONNREFUSED,
			"its data connections are down");
		return;
	}
	c->held = true;
	remote_lease_note(j, a->node, a->id);
	asking_free(a);
	job_answer(j, 0, NULL);
}

void remote_channel_of(const struct job *j, const uint8_t *id, struct channel *ret)
{
	memset(ret, 0, sizeof(*ret));
	memcpy(ret->id, id, sizeof(ret->id));
	ret->via = CHANNEL_REMOTE;
	ret->transport = j->transport;
	ret->protection = BELAY__PROTECTION__PROTECTION_ENCRYPT;
	ret->a = j->local;
	ret->b = j->address;
	ret->from = j->caller;
	ret->to = j->listener;
	ret->initiator = true;
	ret->mark = j->mark;
	ret->tree = j->tree;
	ret->idle_limit_ms = datagram_idle(j->transport, j->verdict.idle_ms);
	snprintf(ret->rule, sizeof(ret->rule), "%s", j->verdict.rule);
	snprintf(ret->limit_rule, sizeof(ret->limit_rule), "%s", j->verdict.limit_rule);
}

static void asked_paired(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	struct asking *a = ctx;
	struct job *j = a->job;
	const Belay__FromFabric *m = reply;
	struct channel t, *c = NULL;
	j->pending = NULL;
	if (error || m->error || n_fds < 1) {
		remote_end_at(g, a->node, a->id, "the program's socket could not be connected");
		/* A second connect on a socket that has one: the kernel's answer, and no peer. */
		int answer = error ? error : m->error;
		asking_free(a);
		if (error)
			job_fail(j, error, "connect");
		else
			job_answer(j, answer, NULL);
		return;
	}
	if (pb_addr_read(m->local, &j->local) == 0 && j->local.ip_len) {
		remote_channel_of(j, a->id, &t);
		seat_leave(g, &j->seat);
		error = channel_start(g, &t, &c);
	} else {
		error = -EBADMSG;
	}
	if (error < 0) {
		remote_end_at(g, a->node, a->id, "the channel could not be recorded");
		asking_fail(a, -EACCES, "the channel could not be recorded");
		return;
	}
	error = remote_give_conn(
		g, c, a->node->name, &a->keys, fds[0], asked_carried, a, &j->pending);
	if (error < 0) {
		channel_end(g, c, "conn is away");
		asking_fail(a, -EAGAIN, "this node's conn is away");
	}
}

/* The other side has agreed and is ready: now the pair by our own policy, and the program's socket.
 */
static void asked_agreed(struct asking *a)
{
	struct guard *g = a->guard;
	struct job *j = a->job;
	judge_subject(g, &j->caller);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = j->transport,
		.from = j->caller,
		.to = j->listener,
		.address = &j->address,
		.to_node = j->listener->node};
	decide_ask(g, &q, &j->verdict);
	if (j->verdict.allow)
		seat_take(g, &j->verdict, &j->seat, j->who);
	if (j->verdict.allow && decide_record(g, &q, &j->verdict, j->tree) == 0) {
		Belay__FabricPair o = BELAY__FABRIC_PAIR__INIT;
		Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
		Belay__Addr local = pb_addr(&a->source), remote = pb_addr(&j->address);
		o.local = &local;
		o.remote = &remote;
		m.body_case = BELAY__TO_FABRIC__BODY_PAIR;
		m.pair = &o;
		int r = datagram_pair(j, &o, false);
		if (r == 0)
			r = arrow_call(g, ROLE_FABRIC, &m.base, &j->sock, 1, 0, asked_paired, a,
				&j->pending);
		if (r == 0)
			return;
		remote_end_at(g, a->node, a->id, "the fabric is away");
		asking_free(a);
		job_fail(j, r, "connect");
		return;
	}
	remote_end_at(g, a->node, a->id, "refused by the connecting node");
	asking_free(a);
	job_refuse(j, &q, &j->verdict);
}

static void asked_refused(struct asking *a, const Belay__ChannelAnswer *m)
{
	struct job *j = a->job;
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = j->transport,
		.from = j->caller,
		.address = &j->address,
		.to_node = a->node->name};
	struct verdict v = {0};
	verdict_deny(&v, "node %s: %.100s", a->node->name, m->why);
	if (m->error == -EAGAIN) {
		asking_fail(a, -EAGAIN, v.why);
		return;
	}
	asking_free(a);
	if (m->error == -EACCES)
		job_refuse(j, &q, &v);
	else
		job_answer(j, m->error < -4095 || m->error > 0 ? -ECONNREFUSED : m->error, NULL);
}

void remote_take_answer(struct guard *g, struct remote_node *n, Belay__ChannelAnswer *m)
{
	struct asking *a;
	TAILQ_FOREACH (a, &n->asking, link)
		if (a->request == m->request && !a->answered)
			break;
	if (!a) {
		/* Ours timed out; or nobody asked, which enters nothing. */
		if (!m->error && m->channel.len == CHANNEL_ID_LEN)
			remote_end_at(g, n, m->channel.data, "nobody waits for it any more");
		return;
	}
	if (!m->error && (m->channel.len != CHANNEL_ID_LEN || m->key.len != SECRET_LEN ||
				 m->nonce.len != REMOTE_NONCE_LEN || !m->to ||
				 channel_find(g, m->channel.data))) {
		remote_surprise(g, n, "its answer is not one"); /* fails a, too */
		return;
	}
	if (!a->job) {
		if (!m->error)
			remote_end_at(g, n, m->channel.data, "the program has gone");
		asking_free(a);
		return;
	}
	if (m->error) {
		asked_refused(a, m);
		return;
	}
	if (m->transport != a->job->transport) {
		remote_end_at(g, n, m->channel.data, "datagrams were asked for");
		asking_fail(a, -EPROTONOSUPPORT, "it is older and carries no datagrams");
		return;
	}
	struct secret key;
	memcpy(key.bytes, m->key.data, SECRET_LEN);
	memcpy(a->id, m->channel.data, CHANNEL_ID_LEN);
	int r = channel_secrets_derive(
		&key, a->nonce, m->nonce.data, &n->exporter, a->id, &a->keys);
	secret_clear(&key);
	secret_zero(m->key.data, m->key.len);
	a->answered = true;
	timer_arm(g);
	a->job->listener = subject_remote(
		g, take_ptr(m->to), n->name, m->to_programs, m->n_to_programs, NULL, 0, "");
	if (r < 0 || !a->job->listener) {
		remote_end_at(g, n, a->id, "out of memory");
		asking_fail(a, -ENOMEM, "out of memory");
		return;
	}
	asked_agreed(a);
}

/* ---- ends ---- */

static const char *far_node(const struct channel *c)
{
	const struct subject *far = c->initiator ? c->to : c->from;
	return far ? far->node : "";
}

void remote_take_end(struct guard *g, struct remote_node *n, const Belay__ChannelEnd *m)
{
	struct channel *c =
		m->channel.len == CHANNEL_ID_LEN ? channel_find(g, m->channel.data) : NULL;
	if (!c)
		return; /* both ended it at once */
	if (c->via != CHANNEL_REMOTE || strcmp(far_node(c), n->name) != 0) {
		remote_surprise(g, n, "it would end a channel that is not its own");
		return;
	}
	g->remote->ending = c->id;
	channel_end(g, c, "ended by the other node");
	g->remote->ending = NULL;
}

void remote_channel_ended(struct guard *g, const struct channel *c, const char *reason)
{
	const struct remote_node *n = remote_node_find(g, far_node(c));
	if (n && g->remote->ending != c->id)
		remote_end_at(g, n, c->id, reason);
}

void remote_opens_drop(struct guard *g, struct remote_node *n)
{
	struct asking *a, *next;
	for (a = TAILQ_FIRST(&n->asking); a; a = next) {
		next = TAILQ_NEXT(a, link);
		if (!a->answered)
			asking_fail(a, -EHOSTUNREACH, n->why[0] ? n->why : "its link is down");
	}
	remote_serves_drop(g, n);
}
