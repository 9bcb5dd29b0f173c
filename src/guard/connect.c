/*
 * connect: who asks, to what, and who is there; then the order (architecture.md, How a program is
 * bound).
 *
 *   caller alone ─▶ whose address is it?
 *     this node's   ─▶ listener entry ─▶ listener's program ─▶ both together
 *                        isolate ─▶ fabric connects          encrypt ─▶ pair, dial, both to conn
 *     another's     ─▶ remote.c
 *     nobody's      ─▶ plain rule ─▶ pair, conn dials outside
 *     the relay of name queries ─▶ policy's dns ─▶ fabric connects
 *
 * Each step continues in the next function below; every path ends in one job_answer(). Refused is
 * EACCES; an address the caller may reach but where nobody listens is ECONNREFUSED.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "conn.pb-c.h"
#include "crypto/random.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/datagram.h"
#include "guard/grant.h"
#include "guard/job.h"
#include "guard/judge.h"
#include "guard/lease.h"
#include "guard/limit.h"
#include "guard/pb.h"
#include "guard/process.h"

#define OUTSIDE_WAIT_MS \
	2500 /* for the answer of a destination outside; later a failure is a reset */
#define OUTSIDE_NONBLOCK_MS 200

static struct endpoint_question question(const struct job *j)
{
	return (struct endpoint_question){.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = j->transport,
		.from = j->caller,
		.address = &j->address};
}

static bool is_name_query(const struct job *j)
{
	const struct guard *g = j->guard;
	for (size_t i = 0; j->address.port == 53 && i < g->n_resolvers; i++)
		if (addr_same_ip(&j->address, &g->resolvers[i]))
			return true;
	return false;
}

/* The template of this job's channel; the names are known when the fabric has answered. */
static void channel_of(const struct job *j, enum channel_via via, struct channel *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->via = via;
	ret->transport = j->transport;
	ret->protection = j->verdict.protection;
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

/* Records the allowed decision and holds it against its rule's limit. False: answered. */
static bool admit(struct job *j, const struct endpoint_question *q)
{
	struct guard *g = j->guard;
	struct verdict *v = &j->verdict;
	bool allowed = v->allow;
	seat_take(g, v, &j->seat, j->who);
	if (allowed && !v->allow && job_settle(j, connect_start))
		return false;
	if (!v->allow) {
		job_refuse(j, q, v);
		return false;
	}
	int r = decide_record(g, q, v, j->tree);
	if (r < 0)
		job_fail(j, -EACCES, "log the decision, so nothing is allowed");
	return r == 0;
}

/* ---- the fabric connects ---- */

/* Enters the channel of a connection that the fabric made. False: answered. */
static bool connection_record(struct job *j)
{
	struct guard *g = j->guard;
	struct channel t, *c = channel_find_names(g, j->transport, &j->local, &j->address);
	channel_of(j, CHANNEL_DIRECT, &t);
	t.dns = is_name_query(j);
	if (c) {
		/* The kernel has given its names to this socket: its own is gone, unreported yet.
		 */
		t.late = c->late + 1;
		channel_ended(g, c, "closed");
	}
	seat_leave(g, &j->seat);
	int r = channel_new_id(t.id) < 0 ? -EIO : channel_start(g, &t, &c);
	if (r < 0) {
		guard_end_connection(g, &j->local, &j->address);
		job_fail(j, -EACCES, "record a channel");
		return false;
	}
	if (j->caller->facts != g->facts)
		channel_judge_one(g, c, "policy");
	else
		(void)lease_grant(g, j, &t, &j->lease);
	return true;
}

static void connected(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct job *j = ctx;
	const Belay__FromFabric *m = reply;
	j->pending = NULL;
	if (error) {
		job_fail(j, error, "connect");
		return;
	}
	if (m->error && m->error != -EINPROGRESS) {
		job_answer(j, m->error, NULL);
		return;
	}
	if (pb_addr_read(m->local, &j->local) < 0 || !j->local.ip_len) {
		job_fail(j, -EACCES, "learn the name of a connection");
		return;
	}
	if (j->transport == BELAY__TRANSPORT__TRANSPORT_UDP) {
		if (j->listener && !j->listener->node[0])
			grant_datagram_note(g, &j->local, j->listener->principal);
		job_answer(j, m->error, NULL);
		return;
	}
	if (connection_record(j))
		job_answer(j, m->error, NULL);
}

void connect_order(struct job *j, const struct channel *c)
{
	struct guard *g = j->guard;
	Belay__FabricConnect o = BELAY__FABRIC_CONNECT__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr to = pb_addr(&j->address);
	const struct grant want = {.transport = j->transport,
		.destination = j->address,
		.from = j->caller,
		.to = j->listener,
		.outside = c && c->via == CHANNEL_PLAIN,
		.dns = is_name_query(j)};
	int r = grant_mark(g, &want, &j->mark);
	o.mark = j->mark;
	o.channel = c != NULL;
	o.transport = j->transport;
	o.destination = &to;
	m.body_case = BELAY__TO_FABRIC__BODY_CONNECT;
	m.connect = &o;
	if (r == 0)
		r = arrow_call(g, ROLE_FABRIC, &m.base, &j->sock, 1, 0, connected, j, &j->pending);
	if (r < 0)
		job_fail(j, r, "connect");
}

/* ---- through conn: the program's socket is paired, its other end is conn's ---- */

int connect_pair(struct job *j, call_fn fn)
{
	Belay__FabricPair o = BELAY__FABRIC_PAIR__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr to = pb_addr(&j->address);
	o.remote = &to;
	m.body_case = BELAY__TO_FABRIC__BODY_PAIR;
	m.pair = &o;
	int r = datagram_pair(j, &o, true);
	if (r < 0)
		return r;
	return arrow_call(j->guard, ROLE_FABRIC, &m.base, &j->sock, 1, 0, fn, j, &j->pending);
}

bool connect_paired(struct job *j, int error, const void *from_fabric, size_t n_fds)
{
	const Belay__FromFabric *m = from_fabric;
	j->pending = NULL;
	if (error) {
		job_fail(j, error, "connect");
		return false;
	}
	/* A second connect on a socket that has one: the kernel's answer, and no peer. */
	if (m->error || n_fds == 0) {
		job_answer(j, m->error, NULL);
		return false;
	}
	if (pb_addr_read(m->local, &j->local) < 0 || !j->local.ip_len) {
		job_fail(j, -EACCES, "learn the name of a connection");
		return false;
	}
	return true;
}

static void carried(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct job *j = ctx;
	const Belay__FromConn *m = reply;
	struct channel *c = channel_find(g, j->channel);
	j->pending = NULL;
	if (!error)
		error = m->body_case == BELAY__FROM_CONN__BODY_OPENED ? m->opened->error : -EPROTO;
	if (!error && !c)
		error = -ECONNABORTED; /* judged again or revoked meanwhile */
	if (error && c)
		channel_end(g, c, "it could not be opened");
	if (!error)
		c->held = true;
	if (error == -EPIPE || error == -ETIMEDOUT)
		job_fail(j, error, "reach the relay");
	else
		job_answer(j, error, NULL);
}

/* Enters the channel and hands it to conn. Secrets in m are the caller's to clear. */
static void carry(
	struct job *j, const struct channel *t, Belay__ToConn *m, const int *fds, size_t n)
{
	struct guard *g = j->guard;
	struct channel *c;
	seat_leave(g, &j->seat); /* the channel counts from here on */
	int r = channel_start(g, t, &c);
	if (r < 0) {
		guard_end_connection(g, &t->a, &t->b);
		job_fail(j, -EACCES, "record a channel");
		return;
	}
	memcpy(j->channel, t->id, sizeof(j->channel));
	r = arrow_call(g, ROLE_CONN, &m->base, fds, n, CALL_NOWAIT, carried, j, &j->pending);
	if (r < 0) {
		channel_end(g, c, "conn is away");
		job_fail(j, -EPIPE, "reach the relay");
		return;
	}
	if (j->caller->facts != g->facts)
		channel_judge_one(g, c, "policy");
}

/* ---- encrypt on one node: both ends are conn's ---- */

static void local_dialed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	struct job *j = ctx;
	const Belay__FromFabric *m = reply;
	j->pending = NULL;
	_cleanup_close_ int program = take_fd(&j->peer);
	if (!error)
		error = m->error;
	if (error || n_fds < 1) {
		guard_end_connection(g, &j->local, &j->address);
		if (error == -EPIPE || error == -ETIMEDOUT)
			job_fail(j, error, "connect");
		else
			job_answer(j, error ? error : -ECONNREFUSED, NULL);
		return;
	}
	struct channel t;
	channel_of(j, CHANNEL_LOCAL, &t);
	if (pb_addr_read(m->local, &t.dialed) < 0 || channel_new_id(t.id) < 0) {
		guard_end_connection(g, &j->local, &j->address);
		job_fail(j, -EACCES, "learn the name of a connection");
		return;
	}
	struct secret keys[2];
	random_secret(&keys[0]);
	random_secret(&keys[1]);
	Belay__ConnChannel o = BELAY__CONN_CHANNEL__INIT;
	Belay__ToConn out = BELAY__TO_CONN__INIT;
	int both[] = {program, fds[0]};
	o.channel = pb_bytes(t.id, sizeof(t.id));
	o.send_key = pb_bytes(keys[0].bytes, SECRET_LEN);
	o.receive_key = pb_bytes(keys[1].bytes, SECRET_LEN);
	o.initiator = true;
	o.idle_ms = t.idle_limit_ms;
	out.body_case = BELAY__TO_CONN__BODY_CHANNEL;
	out.channel = &o;
	carry(j, &t, &out, both, 2);
	secret_clear(&keys[0]);
	secret_clear(&keys[1]);
}

static void local_paired(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	struct job *j = ctx;
	if (!connect_paired(j, error, reply, n_fds))
		return;
	j->peer = take_fd(&fds[0]);
	/* The program's own name is its socket's: our dial has its address and another port. */
	struct addr source = j->local;
	source.port = 0;
	Belay__FabricDial o = BELAY__FABRIC_DIAL__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr from = pb_addr(&source), to = pb_addr(&j->address);
	o.source = &from;
	o.destination = &to;
	m.body_case = BELAY__TO_FABRIC__BODY_DIAL;
	m.dial = &o;
	int r = arrow_call(g, ROLE_FABRIC, &m.base, NULL, 0, 0, local_dialed, j, &j->pending);
	if (r < 0) {
		guard_end_connection(g, &j->local, &j->address);
		job_fail(j, r, "connect");
	}
}

/* ---- outside of Belay ---- */

static void outside_paired(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	struct job *j = ctx;
	if (!connect_paired(j, error, reply, n_fds))
		return;
	struct channel t;
	channel_of(j, CHANNEL_PLAIN, &t);
	t.protection = BELAY__PROTECTION__PROTECTION_PLAIN;
	if (channel_new_id(t.id) < 0) {
		guard_end_connection(g, &j->local, &j->address);
		job_fail(j, -EACCES, "name a channel");
		return;
	}
	Belay__ConnRelay o = BELAY__CONN_RELAY__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	Belay__Addr to = pb_addr(&j->address);
	o.channel = pb_bytes(t.id, sizeof(t.id));
	o.destination = &to;
	o.idle_ms = t.idle_limit_ms;
	o.transport = j->transport;
	/* A program that asked not to wait still tells one address from another by who refuses. */
	int flags = fcntl(j->sock, F_GETFL);
	o.wait_ms = flags >= 0 && flags & O_NONBLOCK ? OUTSIDE_NONBLOCK_MS : OUTSIDE_WAIT_MS;
	m.body_case = BELAY__TO_CONN__BODY_RELAY;
	m.relay = &o;
	carry(j, &t, &m, fds, 1);
}

void connect_outside(struct job *j)
{
	struct endpoint_question q = question(j);
	q.outside = true;
	decide_ask(j->guard, &q, &j->verdict);
	if (!admit(j, &q))
		return;
	int r = connect_pair(j, outside_paired);
	if (r < 0)
		job_fail(j, r, "connect");
}

/* ---- deciding ---- */

static void listener_known(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	j->wait = NULL;
	if (error) {
		job_answer(j, -ECONNREFUSED, "belay: the listener cannot be identified any more");
		return;
	}
	if (!bind_is_still(g, j->transport, &j->address, &j->seen)) {
		job_answer(j, -ECONNREFUSED, NULL);
		return;
	}
	j->listener = subject_ref(s);
	judge_subject(g, &j->caller);
	struct endpoint_question q = question(j);
	q.to = s;
	decide_ask(g, &q, &j->verdict);
	if (!admit(j, &q))
		return;
	if (j->verdict.protection != BELAY__PROTECTION__PROTECTION_ENCRYPT) {
		connect_order(j, NULL);
		return;
	}
	int r = connect_pair(j, local_paired);
	if (r < 0)
		job_fail(j, r, "connect");
}

static void connect_here(struct job *j)
{
	struct guard *g = j->guard;
	struct bind *b = bind_find(g, j->transport, &j->address);
	if (!b) {
		job_answer(j, -ECONNREFUSED, NULL);
		return;
	}
	struct process_wait *w;
	j->seen = bind_see(b);
	bind_subject(g, b, listener_known, j, &w);
	if (w)
		j->wait = w;
}

static void connect_names(struct job *j)
{
	struct endpoint_question q = question(j);
	q.dns = true;
	decide_ask(j->guard, &q, &j->verdict);
	if (admit(j, &q))
		connect_order(j, NULL);
}

static void caller_known(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	j->wait = NULL;
	if (error) {
		job_unidentified(j, error);
		return;
	}
	j->caller = subject_ref(s);
	if (is_name_query(j)) {
		connect_names(j);
		return;
	}
	bool here = guard_owns(g, &j->address);
	if (!here && j->transport == BELAY__TRANSPORT__TRANSPORT_UDP) {
		datagram_beyond(j);
		return;
	}
	const char *node = here ? NULL : remote_node_of(g, &j->address);
	if (!here && !node) {
		connect_outside(j);
		return;
	}
	struct endpoint_question q = question(j);
	q.to_node = node;
	q.caller_only = true;
	decide_ask(g, &q, &j->verdict);
	if (!j->verdict.allow) {
		job_refuse(j, &q, &j->verdict);
		return;
	}
	if (here) {
		connect_here(j);
		return;
	}
	int r = remote_connect(j, node);
	if (r < 0)
		job_answer(j, r, NULL);
}

void connect_start(struct job *j)
{
	if (addr_is_any(&j->address)) {
		/* As the kernel reads it: this host. */
		j->address.ip[j->address.ip_len - 1] = 1;
		if (j->address.ip_len == 4)
			j->address.ip[0] = 127;
	}
	job_identify(j, false, caller_known);
}

void disconnect_start(struct job *j)
{
	Belay__FabricConnect o = BELAY__FABRIC_CONNECT__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	o.transport = j->transport;
	o.disconnect = true;
	m.body_case = BELAY__TO_FABRIC__BODY_CONNECT;
	m.connect = &o;
	int r = arrow_call(
		j->guard, ROLE_FABRIC, &m.base, &j->sock, 1, 0, job_carried_out, j, &j->pending);
	if (r < 0)
		job_fail(j, r, "disconnect");
}
