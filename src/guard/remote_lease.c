/*
 * The connecting side of a lease (docs/protocol.md, 4a): a program that has been let through to a
 * listener of another node connects to it again without asking that node, for as long as what
 * decided holds. What the other node gives in advance are channels, each with a key of its own.
 *
 *   second connect of one program to one listener ─▶ ChannelReserve ─▶ keys to conn ─▶ reserve
 *   next connects: our policy ─▶ one of the reserve ─▶ pair ─▶ recorded ─▶ conn takes it ─▶ answer
 *
 * A lease is of one process as attest saw it once: its key is the very subject, so exec, a change
 * of policy or registry, and the evidence's own second all end it. Keys pass through here, once.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "crypto/random.h"
#include "guard/channel.h"
#include "guard/job.h"
#include "guard/limit.h"
#include "guard/pb.h"
#include "guard/remote.h"
#include "guard/reserve.h"

#define LEASE_AFTER 2 /* connects within a lease's time before channels are made in advance */
#define LEASE_FIRST 8 /* channels asked for at first; then twice as many each time */

struct remote_lease {
	TAILQ_ENTRY(remote_lease) link;
	struct remote_node *node;
	uint64_t id, group; /* the other guard's number, 0: none yet; ours, for conn */
	struct subject *caller, *listener;
	struct addr destination;
	uint64_t until_ms;
	unsigned opened;
	uint64_t request; /* under way, 0: none */
	uint32_t batch;
	bool refused;
	uint8_t nonce[REMOTE_NONCE_LEN];
	struct reserve reserve;
};

/* ---- life ---- */

static void lease_free(struct guard *g, struct remote_lease *l)
{
	TAILQ_REMOVE(&g->remote->leases, l, link);
	g->remote->n_leases--;
	subject_unref(l->caller);
	subject_unref(l->listener);
	free(l);
}

void remote_reserve_end_at(
	struct guard *g, const struct remote_node *n, uint64_t id, const char *reason, bool maker)
{
	Belay__ReserveEnd e = BELAY__RESERVE_END__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	e.lease = id;
	e.reason = pb_text(reason);
	e.maker = maker;
	m.body_case = BELAY__NODE_MESSAGE__BODY_RESERVE_END;
	m.reserve_end = &e;
	/* Without a link each side ends it by itself. */
	if (n->linked && remote_send(g, n, &m) < 0)
		log_warn("cannot tell node %s that a lease ended", n->name);
}

static void lease_end(struct guard *g, struct remote_lease *l, const char *tell)
{
	Belay__ConnReserveEnd e = BELAY__CONN_RESERVE_END__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	e.lease = l->group;
	m.body_case = BELAY__TO_CONN__BODY_RESERVE_END;
	m.reserve_end = &e;
	if (l->id && arrow_up(g, ROLE_CONN) && arrow_send(g, ROLE_CONN, &m.base, NULL, 0) < 0)
		log_error("cannot have conn forget a reserve");
	if (l->id && tell)
		remote_reserve_end_at(g, l->node, l->id, tell, false);
	lease_free(g, l);
}

void remote_leases_end(struct guard *g, const struct remote_node *n, const char *tell)
{
	struct remote_lease *l, *next;
	for (l = TAILQ_FIRST(&g->remote->leases); l; l = next) {
		next = TAILQ_NEXT(l, link);
		if (!n || l->node == n)
			lease_end(g, l, tell);
	}
}

/* What has just been spent is on its way to conn, and its OPEN to the other node: the rest is
 * erased a little later. */
void remote_leases_close(struct guard *g)
{
	uint64_t now = clock_mono_ms();
	struct remote_lease *l;
	TAILQ_FOREACH (l, &g->remote->leases, link)
		if (l->until_ms > now)
			l->until_ms = now;
}

bool remote_leases_tick(struct guard *g)
{
	uint64_t now = clock_mono_ms();
	struct remote_lease *l, *next;
	for (l = TAILQ_FIRST(&g->remote->leases); l; l = next) {
		next = TAILQ_NEXT(l, link);
		if (l->until_ms + REMOTE_LEASE_TICK_MS <= now)
			lease_end(g, l, "its time is over");
	}
	return !TAILQ_EMPTY(&g->remote->leases);
}

void remote_lease_ended(struct guard *g, const struct remote_node *n, uint64_t id)
{
	struct remote_lease *l;
	TAILQ_FOREACH (l, &g->remote->leases, link)
		if (l->node == n && l->id == id)
			l->until_ms = 0; /* erased at the next tick */
}

static struct remote_lease *lease_find(struct guard *g, const struct remote_node *n,
	const struct subject *caller, const struct addr *to)
{
	struct remote_lease *l;
	TAILQ_FOREACH (l, &g->remote->leases, link)
		if (l->node == n && l->caller == caller && addr_equal(&l->destination, to) &&
			l->until_ms > clock_mono_ms())
			return l;
	return NULL;
}

static struct remote_lease *lease_new(struct job *j, struct remote_node *n)
{
	struct guard *g = j->guard;
	if (g->remote->n_leases >= REMOTE_LEASES_MAX)
		lease_end(g, TAILQ_FIRST(&g->remote->leases), "another takes its place");
	struct remote_lease *l = calloc(1, sizeof(*l));
	if (!l)
		return NULL;
	l->node = n;
	l->group = ++g->remote->last_lease;
	l->caller = subject_ref(j->caller);
	l->listener = subject_ref(j->listener);
	l->destination = j->address;
	l->until_ms = clock_mono_ms() + REMOTE_LEASE_MS;
	l->batch = LEASE_FIRST;
	TAILQ_INSERT_TAIL(&g->remote->leases, l, link);
	g->remote->n_leases++;
	remote_lease_timer(g);
	return l;
}

/* ---- asking for more ---- */

static void lease_ask(struct guard *g, struct remote_lease *l, const uint8_t *channel)
{
	Belay__ChannelReserve r = BELAY__CHANNEL_RESERVE__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	if (l->request || l->refused)
		return;
	random_bytes(l->nonce, sizeof(l->nonce));
	r.request = ++g->remote->last_request;
	r.lease = l->id;
	r.channel = pb_bytes(channel, l->id ? 0 : CHANNEL_ID_LEN);
	r.nonce = pb_bytes(l->nonce, sizeof(l->nonce));
	r.count = l->batch;
	m.body_case = BELAY__NODE_MESSAGE__BODY_RESERVE;
	m.reserve = &r;
	if (remote_send(g, l->node, &m) == 0)
		l->request = r.request;
}

void remote_lease_note(struct job *j, struct remote_node *n, const uint8_t *channel)
{
	struct guard *g = j->guard;
	if (!remote_leasable(&j->verdict) || j->caller->facts != g->facts ||
		j->transport != BELAY__TRANSPORT__TRANSPORT_TCP)
		return;
	struct remote_lease *l = lease_find(g, n, j->caller, &j->address);
	if (!l)
		l = lease_new(j, n);
	if (l && ++l->opened >= LEASE_AFTER)
		lease_ask(g, l, channel);
}

static void lease_entered(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	uint64_t group = (uint64_t)(uintptr_t)ctx;
	struct remote_lease *l;
	if (remote_conn_result(error, reply) == 0)
		return;
	TAILQ_FOREACH (l, &g->remote->leases, link) {
		if (l->group != group)
			continue;
		lease_end(g, l, "its data connections are down");
		return;
	}
}

static int lease_keys(struct guard *g, struct remote_lease *l, const Belay__ChannelReserved *m)
{
	Belay__ConnReserve o = BELAY__CONN_RESERVE__INIT;
	Belay__ToConn out = BELAY__TO_CONN__INIT;
	Belay__ConnReserved one[RESERVE_BATCH], *list[RESERVE_BATCH];
	struct channel_secrets keys[RESERVE_BATCH];
	int r = 0;
	for (size_t i = 0; i < m->n_channel && r == 0; i++) {
		struct secret key;
		memcpy(key.bytes, m->channel[i]->key.data, SECRET_LEN);
		r = channel_secrets_derive(&key, l->nonce, m->nonce.data, &l->node->exporter,
			m->channel[i]->channel.data, &keys[i]);
		secret_clear(&key);
		belay__conn_reserved__init(&one[i]);
		one[i].channel = m->channel[i]->channel;
		one[i].send_key = pb_bytes(keys[i].initiator.bytes, SECRET_LEN);
		one[i].receive_key = pb_bytes(keys[i].responder.bytes, SECRET_LEN);
		list[i] = &one[i];
	}
	o.lease = l->group;
	o.node = l->node->name;
	o.initiator = true;
	o.n_channel = m->n_channel;
	o.channel = list;
	out.body_case = BELAY__TO_CONN__BODY_RESERVE;
	out.reserve = &o;
	if (r == 0)
		r = arrow_call(g, ROLE_CONN, &out.base, NULL, 0, CALL_NOWAIT, lease_entered,
			(void *)(uintptr_t)l->group, NULL);
	secret_zero(keys, sizeof(keys));
	return r;
}

static bool reserved_is_sound(
	struct guard *g, const struct remote_lease *l, const Belay__ChannelReserved *m)
{
	bool ok = m->lease && (!l->id || l->id == m->lease) && m->nonce.len == REMOTE_NONCE_LEN &&
		  m->n_channel && m->n_channel <= l->batch;
	for (size_t i = 0; ok && i < m->n_channel; i++)
		ok = m->channel[i]->channel.len == CHANNEL_ID_LEN &&
		     m->channel[i]->key.len == SECRET_LEN &&
		     !channel_find(g, m->channel[i]->channel.data);
	return ok;
}

void remote_take_reserved(struct guard *g, struct remote_node *n, Belay__ChannelReserved *m)
{
	struct remote_lease *l;
	TAILQ_FOREACH (l, &g->remote->leases, link)
		if (l->node == n && l->request && l->request == m->request)
			break;
	if (!l) {
		/* Ours has ended meanwhile; or nobody asked, which enters nothing. */
		if (!m->error)
			remote_reserve_end_at(
				g, n, m->lease, "nobody waits for it any more", false);
		return;
	}
	l->request = 0;
	if (m->error) {
		l->refused = m->error != -EAGAIN;
		return;
	}
	if (!reserved_is_sound(g, l, m)) {
		remote_surprise(g, n, "what it gives in advance are no channels");
		return;
	}
	l->id = m->lease;
	bool ok = lease_keys(g, l, m) == 0;
	for (size_t i = 0; i < m->n_channel; i++) {
		ok = ok && reserve_add(&l->reserve, m->channel[i]->channel.data);
		secret_zero(m->channel[i]->key.data, m->channel[i]->key.len);
	}
	l->batch = l->batch < RESERVE_BATCH / 2 ? 2 * l->batch : RESERVE_BATCH;
	if (!ok)
		lease_end(g, l, "it cannot be entered");
}

/* ---- a connect under it ---- */

static void spent_paired(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	struct job *j = ctx;
	struct channel t, *c;
	if (!connect_paired(j, error, reply, n_fds))
		return;
	remote_channel_of(j, j->channel, &t);
	seat_leave(g, &j->seat);
	if (channel_start(g, &t, &c) < 0) {
		job_fail(j, -EACCES, "record a channel");
		return;
	}
	Belay__ConnTake o = BELAY__CONN_TAKE__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	o.channel = pb_bytes(c->id, sizeof(c->id));
	m.body_case = BELAY__TO_CONN__BODY_TAKE;
	m.take = &o;
	if (arrow_send(g, ROLE_CONN, &m.base, fds, 1) < 0) {
		channel_end(g, c, "conn is away");
		job_answer(j, -ECONNREFUSED, "belay: cannot connect: this node's conn is away");
		return;
	}
	c->held = true;
	if (j->caller->facts != g->facts)
		channel_judge_one(g, c, "policy");
	job_answer(j, 0, NULL);
}

bool remote_lease_spend(struct job *j, struct remote_node *n)
{
	struct guard *g = j->guard;
	struct remote_lease *l = lease_find(g, n, j->caller, &j->address);
	if (!l || !arrow_up(g, ROLE_CONN) || !reserve_pop(&l->reserve, j->channel))
		return false;
	if (l->reserve.n < l->batch / 2)
		lease_ask(g, l, NULL);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = j->transport,
		.from = j->caller,
		.to = l->listener,
		.address = &j->address,
		.to_node = n->name};
	decide_ask(g, &q, &j->verdict);
	if (!remote_leasable(&j->verdict))
		return false;
	seat_take(g, &j->verdict, &j->seat, j->who);
	if (!j->verdict.allow)
		return false; /* which is said on the long way */
	j->listener = subject_ref(l->listener);
	int r = connect_pair(j, spent_paired);
	if (r < 0)
		job_fail(j, r, "connect");
	return true;
}

/* ---- time, and life, of both sides' ---- */

static void lease_tick(uv_timer_t *t)
{
	struct guard *g = t->data;
	bool leases = remote_leases_tick(g), stocks = remote_stocks_tick(g);
	if (!leases && !stocks)
		uv_timer_stop(t);
}

void remote_lease_timer(struct guard *g)
{
	uv_timer_t *t = g->remote->lease_timer;
	if (uv_is_active((uv_handle_t *)t))
		return;
	uv_update_time(&g->component.loop);
	uv_timer_start(t, lease_tick, REMOTE_LEASE_TICK_MS, REMOTE_LEASE_TICK_MS);
}

/* A subject of ours is matched anew, so what we asked for is asked again; what we gave goes on
 * while it holds. */
void remote_judge(struct guard *g)
{
	remote_leases_close(g);
	remote_stocks_judge(g);
}

int remote_leases_init(struct guard *g)
{
	TAILQ_INIT(&g->remote->leases);
	TAILQ_INIT(&g->remote->stocks);
	uv_timer_t *t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->data = g;
	g->remote->lease_timer = t;
	return uv_timer_init(&g->component.loop, t);
}

static void timer_closed(uv_handle_t *h)
{
	free(h);
}

void remote_leases_deinit(struct guard *g)
{
	remote_leases_end(g, NULL, NULL);
	remote_stocks_drop(g);
	uv_close((uv_handle_t *)g->remote->lease_timer, timer_closed);
}
