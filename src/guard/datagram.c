/*
 * Datagrams within this node, Unix-domain sockets and named pipes: one question each, no channel.
 * What goes further has one (datagram_beyond.c).
 *
 * A datagram's destination is judged like a connection's; enforce sends it when the kernel's grant
 * holds. A program may always answer who was allowed to write to it. A Unix socket's file is the
 * address; within one run tree it is free, since a run tree is one domain.
 */
#include <errno.h>
#include <stdio.h>

#include "base/log.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/datagram.h"
#include "guard/grant.h"
#include "guard/job.h"
#include "guard/judge.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "guard/tree.h"

static bool caller(struct job *j, int error, struct subject *s)
{
	j->wait = NULL;
	if (error)
		job_unidentified(j, error);
	else
		j->caller = subject_ref(s);
	return !error;
}

/* ---- datagrams ---- */

static void granted(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct job *j = ctx;
	const Belay__FromFabric *m = reply;
	j->pending = NULL;
	if (!error)
		error = m->error;
	if (!error && j->listener && !j->listener->node[0] &&
		pb_addr_read(m->local, &j->local) == 0)
		grant_datagram_note(g, &j->local, j->listener->principal);
	if (error == -EPIPE || error == -ETIMEDOUT)
		job_fail(j, error, "send");
	else
		job_answer(j, error, NULL);
}

void datagram_order(struct job *j, bool dns, const struct channel *c)
{
	struct guard *g = j->guard;
	Belay__FabricUdpGrant o = BELAY__FABRIC_UDP_GRANT__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr to = pb_addr(&j->address);
	const struct grant want = {.transport = BELAY__TRANSPORT__TRANSPORT_UDP,
		.destination = j->address,
		.from = j->caller,
		.to = j->listener,
		.dns = dns,
		.outside = c && c->via == CHANNEL_PLAIN};
	int r = grant_mark(g, &want, &j->mark);
	o.mark = j->mark;
	o.destination = &to;
	o.channel = c != NULL;
	m.body_case = BELAY__TO_FABRIC__BODY_UDP_GRANT;
	m.udp_grant = &o;
	if (r == 0)
		r = arrow_call(g, ROLE_FABRIC, &m.base, &j->sock, 1, 0, granted, j, &j->pending);
	if (r < 0)
		job_fail(j, r, "send");
}

static void datagram_decide(struct job *j, struct endpoint_question *q)
{
	decide_ask(j->guard, q, &j->verdict);
	if (!j->verdict.allow)
		job_refuse(j, q, &j->verdict);
	else if (decide_record(j->guard, q, &j->verdict, j->tree) < 0)
		job_fail(j, -EACCES, "log the decision, so nothing is allowed");
	else
		datagram_order(j, q->dns, NULL);
}

static void datagram_listener(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	j->wait = NULL;
	if (error || !bind_is_still(g, j->transport, &j->address, &j->seen)) {
		job_answer(j, -ECONNREFUSED, NULL);
		return;
	}
	j->listener = subject_ref(s);
	judge_subject(g, &j->caller);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = BELAY__TRANSPORT__TRANSPORT_UDP,
		.from = j->caller,
		.to = s,
		.address = &j->address};
	datagram_decide(j, &q);
}

static void datagram_caller(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	if (!caller(j, error, s))
		return;
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = BELAY__TRANSPORT__TRANSPORT_UDP,
		.from = s,
		.address = &j->address};
	for (size_t i = 0; j->address.port == 53 && i < g->n_resolvers; i++)
		q.dns = q.dns || addr_same_ip(&j->address, &g->resolvers[i]);
	if (q.dns) {
		datagram_decide(j, &q);
		return;
	}
	if (grant_datagram_answer(g, &j->address, s->principal)) {
		/* The kernel knows the conversation: an answer needs no grant of its own. */
		job_answer(j, 0, NULL);
		return;
	}
	if (!guard_owns(g, &j->address)) {
		datagram_beyond(j);
		return;
	}
	struct bind *b = bind_find(g, BELAY__TRANSPORT__TRANSPORT_UDP, &j->address);
	if (b) {
		struct process_wait *w;
		j->seen = bind_see(b);
		bind_subject(g, b, datagram_listener, j, &w);
		if (w)
			j->wait = w;
		return;
	}
	q.caller_only = true;
	decide_ask(g, &q, &j->verdict);
	if (j->verdict.allow)
		job_answer(j, -ECONNREFUSED, NULL);
	else
		job_refuse(j, &q, &j->verdict);
}

void datagram_start(struct job *j)
{
	j->transport = BELAY__TRANSPORT__TRANSPORT_UDP;
	job_identify(j, false, datagram_caller);
}

/* ---- Unix-domain sockets ---- */

static void unix_decide(struct job *j)
{
	struct guard *g = j->guard;
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = BELAY__TRANSPORT__TRANSPORT_UNIX,
		.from = j->caller,
		.to = j->listener,
		.unix_path = j->unix_path};
	decide_ask(g, &q, &j->verdict);
	if (!j->verdict.allow)
		job_refuse(j, &q, &j->verdict);
	else if (decide_record(g, &q, &j->verdict, j->tree) < 0)
		job_fail(j, -EACCES, "log the decision, so nothing is allowed");
	else
		job_answer(j, 0, NULL);
}

static void unix_listener(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	j->wait = NULL;
	if (!error)
		j->listener = subject_ref(s);
	judge_subject(g, &j->caller);
	unix_decide(j);
}

static void unix_caller(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	if (!caller(j, error, s))
		return;
	if (j->peer < 0 || !tree_known(g, j->peer_tree)) {
		unix_decide(j);
		return;
	}
	struct process_wait *w;
	process_ask(g, j->peer_pid, j->peer, j->peer_tree, false, unix_listener, j, &w);
	if (w)
		j->wait = w;
}

void unix_start(struct job *j, const Belay__Question *q)
{
	snprintf(j->unix_path, sizeof(j->unix_path), "%s", q->unix_path);
	if (q->unix_peer_pid && q->unix_peer_tree) {
		j->peer_pid = q->unix_peer_pid;
		j->peer_tree = q->unix_peer_tree;
		j->peer = take_fd(&j->sock);
	}
	job_identify(j, false, unix_caller);
}

/* ---- named pipes ---- */

/* What no rule shares is no refusal: the program gets a pipe that its own tree sees. */
static void fifo_caller(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	if (!caller(j, error, s))
		return;
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_BIND,
		.transport = BELAY__TRANSPORT__TRANSPORT_UNIX,
		.from = j->caller,
		.unix_path = j->unix_path};
	decide_ask(g, &q, &j->verdict);
	if (!j->verdict.allow)
		job_answer(j, -EXDEV, NULL);
	else if (decide_record(g, &q, &j->verdict, j->tree) < 0)
		job_fail(j, -EACCES, "log the decision, so nothing is allowed");
	else
		job_answer(j, 0, NULL);
}

void fifo_start(struct job *j, const Belay__Question *q)
{
	struct process_wait *w;
	snprintf(j->unix_path, sizeof(j->unix_path), "%s", q->unix_path);
	process_ask(j->guard, j->pid, j->pidfd, j->tree, false, fifo_caller, j, &w);
	if (w)
		j->wait = w;
}
