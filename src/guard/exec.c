/*
 * exec: the process stands before its new image's first instruction. Evidence is taken now; the
 * policy says whether the image may run; then every socket it inherited is judged as if the new
 * image had asked for it itself, and what it would not get is taken from it before it runs.
 *
 * A listener is judged as a bind, a connection as the pair it is with the new program in its place.
 * A socket the fabric knows but no table of ours is destroyed: nobody allowed it.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/grant.h"
#include "guard/job.h"
#include "guard/judge.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "guard/state.h"
#include "guard/tree.h"

#define INHERITED_MAX 256

struct inherited {
	struct addr local, remote;
	uint64_t inode;
	Belay__Transport transport;
	uint32_t mark;
	bool listening;
};

struct exec_question {
	size_t n;
	bool more;
	struct inherited socket[];
};

void exec_free(struct exec_question *x)
{
	free(x);
}

static void socket_destroy(struct guard *g, const struct inherited *i)
{
	Belay__FabricDestroy d = BELAY__FABRIC_DESTROY__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr a = pb_addr(&i->local), b = pb_addr(&i->remote);
	d.a = &a;
	d.b = i->remote.ip_len ? &b : NULL;
	d.transport = i->transport;
	m.body_case = BELAY__TO_FABRIC__BODY_DESTROY;
	m.destroy = &d;
	if (arrow_order(g, &m, "end an inherited socket") < 0)
		log_error("cannot order the end of an inherited socket");
}

/* The new image's own right to a bound address. Another principal's entry becomes its own, if
 * allowed. */
static void judge_bound(struct job *j, const struct inherited *i)
{
	struct guard *g = j->guard;
	struct bind *b = bind_by_inode(g, i->inode);
	if (!b)
		b = bind_at(g, i->transport, &i->local, i->listening);
	if (!b || b->subject->principal == j->caller->principal) {
		if (!b && i->listening)
			socket_destroy(g, i);
		return;
	}
	/* The parent's image may still hold the socket; the listener answers to who runs last. */
	judge_binder(g, b, j->caller, j->pid, j->tree, "exec of another image");
}

static void judge_connected(struct job *j, const struct inherited *i)
{
	struct guard *g = j->guard;
	bool accepting = false;
	struct channel *c = channel_find_names(g, i->transport, &i->local, &i->remote);
	if (!c) {
		c = channel_find_names(g, i->transport, &i->remote, &i->local);
		accepting = true;
	}
	if (!c) /* still the accepting side, of a channel through conn */
		c = channel_find_dialed(g, &i->remote, &i->local);
	if (!c) {
		if (i->transport == BELAY__TRANSPORT__TRANSPORT_TCP)
			socket_destroy(g, i);
		return; /* datagrams: grant_inherited() */
	}
	struct subject *old = accepting ? c->to : c->from;
	if (old && old->principal != j->caller->principal)
		judge_holder(g, c, accepting, j->caller, j->tree, "exec of another image");
}

static void settled(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g, (void)reply, (void)fds, (void)n_fds;
	struct job *j = ctx;
	j->pending = NULL;
	job_answer(j, error ? -EACCES : 0, NULL);
}

/* Orders to end sockets are on their way; the image must not run before they are carried out. */
static void answer_when_ended(struct job *j)
{
	if (job_barrier(j, settled) < 0)
		job_answer(j, -EACCES, "belay: refused: the sockets it inherits cannot be judged");
}

static bool is_program(const struct subject *s, const char *name)
{
	for (size_t i = 0; i < s->n_programs; i++)
		if (!strcmp(s->programs[i], name))
			return true;
	return false;
}

static void image_known(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct job *j = ctx;
	struct verdict v;
	char notice[200];
	j->wait = NULL;
	if (error) {
		snprintf(notice, sizeof(notice),
			"belay: refused to run pid %u: it cannot be identified: %s", j->pid,
			strerror(-error));
		job_answer(j, -EACCES, notice);
		return;
	}
	j->caller = subject_ref(s);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_RUN, .from = s};
	decide_ask(g, &q, &v);
	const char *as = tree_first_program(g, j->tree);
	/* `env` between a script and its interpreter: the interpreter is the first program. */
	bool first = !s->evidence->starting || (as && is_program(s, as));
	if (v.allow && first && as && !is_program(s, as))
		verdict_deny(&v, "it is not the enrolled program %.63s", as);
	if (v.allow && j->exec->more)
		verdict_deny(&v, "it inherits more sockets than can be judged");
	if (!v.allow) {
		job_refuse(j, &q, &v);
		return;
	}
	if (decide_record(g, &q, &v, j->tree) < 0 || (first && tree_ran(g, j->tree) < 0)) {
		job_fail(j, -EACCES, "log the decision, so nothing is allowed");
		return;
	}
	for (size_t i = 0; i < j->exec->n; i++) {
		const struct inherited *h = &j->exec->socket[i];
		if (h->remote.ip_len && !h->listening)
			judge_connected(j, h);
		else
			judge_bound(j, h);
		if (h->transport == BELAY__TRANSPORT__TRANSPORT_UDP)
			grant_inherited(g, h->mark, s->principal);
	}
	if (j->exec->n)
		answer_when_ended(j);
	else
		job_answer(j, 0, NULL);
}

void exec_start(struct job *j, const Belay__Question *q)
{
	size_t n = q->n_inherited;
	struct exec_question *x =
		n <= INHERITED_MAX ? calloc(1, sizeof(*x) + n * sizeof(x->socket[0])) : NULL;
	for (size_t i = 0; x && i < n; i++) {
		const Belay__Inherited *m = q->inherited[i];
		struct inherited *h = &x->socket[x->n++];
		h->inode = m->inode;
		h->transport = m->transport;
		h->listening = m->listening;
		h->mark = m->mark;
		if (pb_addr_read(m->local, &h->local) < 0 ||
			pb_addr_read(m->remote, &h->remote) < 0)
			x->more = true; /* what cannot be read cannot be judged */
	}
	if (!x) {
		job_answer(j, -EACCES, "belay: refused: it inherits too many sockets");
		return;
	}
	x->more = x->more || q->inherited_more;
	j->exec = x;
	job_identify(j, true, image_known);
}
