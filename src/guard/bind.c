/*
 * bind and listen: decisions, orders to the fabric, and the table's entries (bind_table.c).
 *
 * The entry is made, pending, before the order, so that two questions in flight cannot both get a
 * port; it counts from the fabric's answer on. The socket's inode, which the guard reads from the
 * descriptor it was given, ties listen to its bind.
 */
#include "guard/bind.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/log.h"
#include "fabric.pb-c.h"
#include "guard/auditing.h"
#include "guard/channel.h"
#include "guard/grant.h"
#include "guard/job.h"
#include "guard/judge.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "guard/publish.h"
#include "guard/share.h"
#include "guard/state.h"

int bind_record(struct guard *g, struct bind *b)
{
	int slot = state_put_bind(g, b);
	if (slot < 0)
		return slot;
	state_drop(g, b->slot);
	b->slot = slot;
	return 0;
}

void bind_drop(struct guard *g, struct bind *b)
{
	jobs_bind_gone(g, b);
	publish_end(g, b);
	grant_destination_gone(g, b->transport, &b->addr);
	remote_stock_listener_gone(g, b->transport, &b->addr);
	state_drop(g, b->slot);
	bind_remove(g, b);
}

void bind_socket_gone(struct guard *g, Belay__Transport transport, const struct addr *a,
	uint64_t inode, bool listener)
{
	struct bind *b = bind_by_inode(g, inode);
	/*
	 * The kernel seldom tells the inode at the end. A socket that only was bound and one that
	 * listened have the same name; if a name has both, they are one principal's, and the
	 * listener goes last.
	 */
	if (!b)
		b = bind_at(g, transport, a, false);
	if (!b && listener)
		b = bind_at(g, transport, a, true);
	if (b && !b->pending)
		bind_drop(g, b);
}

void bind_end(struct guard *g, struct bind *b, const char *reason)
{
	Belay__FabricDestroy d = BELAY__FABRIC_DESTROY__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr a = pb_addr(&b->addr);
	d.a = &a;
	d.transport = b->transport;
	m.body_case = BELAY__TO_FABRIC__BODY_DESTROY;
	m.destroy = &d;
	channel_end_listener(g, b, reason);
	if (arrow_order(g, &m, "end a listener") < 0)
		log_error("cannot order the end of a listener");
	bind_drop(g, b);
}

struct addr bind_asked(const struct bind *b)
{
	struct addr a = b->addr;
	if (b->chosen)
		a.port = 0;
	return a;
}

static void judge_one(struct guard *g, struct bind *b, const void *reason)
{
	struct verdict v;
	judge_subject(g, &b->subject);
	struct addr asked = bind_asked(b);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_BIND,
		.transport = b->transport,
		.from = b->subject,
		.address = &asked};
	decide_ask(g, &q, &v);
	struct bind *other =
		bind_conflict(g, b->transport, &b->addr, b->v6only, b->subject->principal);
	if (!v.allow || (other && other->subject->facts == g->facts)) {
		v.allow = false;
		if (decide_record(g, &q, &v, b->tree) < 0)
			log_error("cannot log the end of a bind");
		if (!b->pending)
			bind_end(g, b, reason);
		return;
	}
	publish_judge(g, b);
}

void bind_judge(struct guard *g, const char *reason)
{
	bind_each(g, judge_one, reason);
}

/* ---- the listener's program, for a connection to it ---- */

struct bind_seen bind_see(const struct bind *b)
{
	return (struct bind_seen){b->inode, b->subject->principal};
}

bool bind_is_still(struct guard *g, Belay__Transport transport, const struct addr *to,
	const struct bind_seen *seen)
{
	const struct bind *b = bind_find(g, transport, to);
	return b && b->inode == seen->inode && b->subject->principal == seen->principal;
}

void bind_subject(
	struct guard *g, struct bind *b, process_fn fn, void *ctx, struct process_wait **ret)
{
	if (ret)
		*ret = NULL;
	/*
	 * While the process that bound it lives it is attested again when its lease is over. When
	 * it is gone the socket is its children's: they run the image that bound, or their exec was
	 * judged with the listener in hand.
	 */
	const Belay__Evidence *e = b->subject->evidence;
	if (process_ask_again(g, e->pid, e->start_time, fn, ctx, ret))
		return;
	judge_subject(g, &b->subject);
	fn(g, ctx, 0, b->subject);
}

/* ---- bind ---- */

/* Its entry was ended while the order was out; so was, by an order behind that one, the socket. */
static void bind_lost_answer(struct job *j)
{
	job_answer(j, -EACCES, "belay: refused: the address may not be held any more");
}

/* It is done. What was decided when it began is judged by what holds now. */
static void bind_answer(struct job *j, struct bind *b)
{
	j->bind = b;
	if (j->caller->facts != j->guard->facts)
		judge_one(j->guard, b, "policy");
	if (j->bind)
		job_answer(j, 0, NULL);
	else
		bind_lost_answer(j);
}

static void bind_done(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct job *j = ctx;
	struct bind *b = j->bind;
	const Belay__FromFabric *m = reply;
	struct addr local = {0};
	j->pending = NULL;
	j->bind = NULL;
	if (!b) {
		bind_lost_answer(j);
		return;
	}
	if (!error)
		error = m->error ? m->error : pb_addr_read(m->local, &local);
	if (!error && !local.ip_len)
		error = -EPROTO;
	if (error) {
		bind_drop(g, b);
		if (error == -EPIPE || error == -ETIMEDOUT)
			job_fail(j, error, "bind");
		else
			job_answer(j, error, NULL);
		return;
	}
	bind_rename(g, b, &local);
	b->inode = m->inode ? m->inode : b->inode;
	b->pending = false;
	if (bind_record(g, b) < 0 ||
		bind_conflict(g, b->transport, &local, b->v6only, b->subject->principal)) {
		bind_end(g, b, "bind");
		job_fail(j, -EADDRINUSE, "keep a bound address");
		return;
	}
	bind_answer(j, b);
}

static uint64_t socket_inode(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

/* The entry of a decided bind, before its order. NULL: the job has been answered. */
static struct bind *bind_enter(
	struct job *j, const struct verdict *v, const struct addr *a, bool chosen)
{
	struct guard *g = j->guard;
	if (!share_free(g, SHARE_BINDS, share_tree(g, j->tree))) {
		struct endpoint_question q = {.operation = BELAY__OPERATION__OP_BIND,
			.transport = j->transport,
			.from = j->caller,
			.address = a};
		struct verdict full;
		verdict_deny(&full, "%s", share_refusal(SHARE_BINDS));
		job_refuse(j, &q, &full);
		return NULL;
	}
	struct bind b = {.addr = *a,
		.transport = j->transport,
		.v6only = j->v6only,
		.pending = true,
		.chosen = chosen,
		.inode = socket_inode(j->sock),
		.tree = j->tree,
		.pid = j->pid,
		.subject = j->caller,
		.slot = -1};
	snprintf(b.rule, sizeof(b.rule), "%s", v->rule);
	struct bind *r = bind_insert(g, &b);
	/* A record first: a listener without one is ended by our successor. */
	if (r && bind_record(g, r) < 0) {
		bind_remove(g, r);
		r = NULL;
	}
	if (!r)
		job_fail(j, -ENOBUFS, "keep a bound address");
	return r;
}

static void bind_order(struct job *j, const struct verdict *v)
{
	struct guard *g = j->guard;
	struct bind *b = bind_enter(j, v, &j->address, !j->address.port);
	if (!b)
		return;
	Belay__FabricBind o = BELAY__FABRIC_BIND__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr a = pb_addr(&j->address);
	o.address = &a;
	o.transport = j->transport;
	m.body_case = BELAY__TO_FABRIC__BODY_BIND;
	m.bind = &o;
	j->bind = b;
	int r = arrow_call(g, ROLE_FABRIC, &m.base, &j->sock, 1, 0, bind_done, j, &j->pending);
	if (r < 0) {
		j->bind = NULL;
		bind_drop(g, b);
		job_fail(j, r, "bind");
	}
}

/*
 * Decides a bind of j->caller to `asked`, whose port is 0 where the kernel chooses it; `a` is the
 * address it has or will have. False: the job has been answered.
 */
static bool bind_decide(
	struct job *j, const struct addr *asked, const struct addr *a, struct verdict *v)
{
	struct guard *g = j->guard;
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_BIND,
		.transport = j->transport,
		.from = j->caller,
		.address = asked};
	decide_ask(g, &q, v);
	struct bind *other =
		v->allow ? bind_conflict(g, j->transport, a, j->v6only, j->caller->principal)
			 : NULL;
	if (other && job_settle(j, j->call == BELAY__QUESTION__CALL__CALL_BIND ? bind_start
									       : listen_start))
		return false;
	if (other) {
		verdict_deny(v, "the port is %.64s's", subject_name(other->subject));
		if (decide_record(g, &q, v, j->tree) < 0)
			log_error("cannot log a refusal");
		job_answer(j, -EADDRINUSE, NULL);
		return false;
	}
	if (!v->allow) {
		job_refuse(j, &q, v);
		return false;
	}
	int r = decide_record(g, &q, v, j->tree);
	if (r < 0)
		job_fail(j, -EACCES, "log the decision, so nothing is allowed");
	return r == 0;
}

/*
 * Bound to no port in particular, a socket gets what it would get as it connects or sends: that is
 * not a right, and needs none. Nobody is sent to it, as it has no entry; should it listen, that is
 * judged as the bind. A datagram socket listens by being bound, so only one of no address either.
 */
static bool bind_is_nothing(const struct job *j)
{
	return !j->address.port &&
	       (j->transport == BELAY__TRANSPORT__TRANSPORT_TCP || addr_is_any(&j->address));
}

static void nothing_order(struct job *j)
{
	Belay__FabricBind o = BELAY__FABRIC_BIND__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr a = pb_addr(&j->address);
	o.address = &a;
	o.transport = j->transport;
	m.body_case = BELAY__TO_FABRIC__BODY_BIND;
	m.bind = &o;
	int r = arrow_call(
		j->guard, ROLE_FABRIC, &m.base, &j->sock, 1, 0, job_carried_out, j, &j->pending);
	if (r < 0)
		job_fail(j, r, "bind");
}

static void bind_caller_known(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	struct verdict v;
	j->wait = NULL;
	if (error) {
		job_unidentified(j, error);
		return;
	}
	j->caller = subject_ref(s);
	if (!guard_owns(g, &j->address))
		job_answer(j, -EADDRNOTAVAIL, NULL);
	else if (bind_is_nothing(j))
		nothing_order(j);
	else if (bind_decide(j, &j->address, &j->address, &v))
		bind_order(j, &v);
}

void bind_start(struct job *j)
{
	job_identify(j, false, bind_caller_known);
}

/* ---- listen ---- */

static void listen_done(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct job *j = ctx;
	struct bind *b = j->bind;
	const Belay__FromFabric *m = reply;
	struct addr local = {0};
	j->pending = NULL;
	j->bind = NULL;
	if (!b) {
		bind_lost_answer(j);
		return;
	}
	if (!error)
		error = m->error ? m->error : pb_addr_read(m->local, &local);
	if (error) {
		if (b->pending)
			bind_drop(g, b);
		if (error == -EPIPE || error == -ETIMEDOUT)
			job_fail(j, error, "listen");
		else
			job_answer(j, error, NULL);
		return;
	}
	if (local.ip_len)
		bind_rename(g, b, &local);
	if (m->inode)
		b->inode = m->inode;
	b->pending = false;
	b->listening = true;
	if (bind_record(g, b) < 0) {
		bind_end(g, b, "listen");
		job_fail(j, -ENOBUFS, "keep a listener");
		return;
	}
	publish_judge(g, b);
	bind_answer(j, b);
}

static void listen_order(struct job *j, struct bind *b)
{
	Belay__FabricListen o = BELAY__FABRIC_LISTEN__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	o.backlog = j->backlog;
	m.body_case = BELAY__TO_FABRIC__BODY_LISTEN;
	m.listen = &o;
	j->bind = b;
	int r = arrow_call(
		j->guard, ROLE_FABRIC, &m.base, &j->sock, 1, 0, listen_done, j, &j->pending);
	if (r < 0) {
		j->bind = NULL;
		if (b->pending)
			bind_drop(j->guard, b);
		job_fail(j, r, "listen");
	}
}

static void listen_caller_known(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	struct verdict v;
	j->wait = NULL;
	if (error) {
		job_unidentified(j, error);
		return;
	}
	j->caller = subject_ref(s);
	struct bind *b = bind_by_inode(g, socket_inode(j->sock));
	if (b && b->subject->principal == s->principal) {
		listen_order(j, b);
		return;
	}
	if (b) {
		/* Somebody else's socket: as if it bound the address itself, beside its owner. */
		struct endpoint_question q = {.operation = BELAY__OPERATION__OP_BIND,
			.transport = j->transport,
			.from = s,
			.address = &b->addr};
		verdict_deny(&v, "the port is %.64s's", subject_name(b->subject));
		job_refuse(j, &q, &v);
		return;
	}
	/*
	 * Never bound: listen lets the kernel choose a port, on every address. A name without an
	 * entry has a port the kernel chose, too: it was bound to none in particular.
	 */
	struct addr any = {.ip_len = j->family == AF_INET6 ? 16 : 4}, asked;
	if (j->address.port)
		any = j->address;
	asked = any;
	asked.port = 0;
	if (!bind_decide(j, &asked, &any, &v))
		return;
	b = bind_enter(j, &v, &any, true);
	if (b)
		listen_order(j, b);
}

void listen_start(struct job *j)
{
	job_identify(j, false, listen_caller_known);
}
