/*
 * Jobs: each question of enforce, from its arrival to its one answer. enforce is our own but reads
 * what programs put into registers: a question is checked field by field, a malformed one is a
 * surprise.
 *
 * A question never waits for another; what it waits for (evidence, the fabric) has a time-out, so a
 * program is never held for good. An answer to an enforce that is gone is dropped: its successor
 * asks again.
 */
#include "guard/job.h"

#include "fabric.pb-c.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/log.h"
#include "guard/limit.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "guard/share.h"
#include "guard/tree.h"

#define HELD_WAIT_MS 5000        /* for the fabric to come */
#define HELD_WAIT_MORE_MS 15000u /* for one that is there: as long as asking it may take */

struct held { /* a question that waits for the fabric to be held against the tables */
	STAILQ_ENTRY(held) link;
	struct job *job;
	Belay__FromEnforce *message;
};

struct jobs {
	TAILQ_HEAD(, job) list;
	STAILQ_HEAD(, held) held;
	uv_timer_t *held_timer; /* runs while a question is held */
	bool held_more;
};

static void timer_free(uv_handle_t *h)
{
	free(h);
}

int jobs_init(struct guard *g)
{
	g->jobs = calloc(1, sizeof(*g->jobs));
	uv_timer_t *t = g->jobs ? calloc(1, sizeof(*t)) : NULL;
	if (!t)
		return -ENOMEM;
	TAILQ_INIT(&g->jobs->list);
	STAILQ_INIT(&g->jobs->held);
	g->jobs->held_timer = t;
	t->data = g;
	return uv_timer_init(&g->component.loop, t);
}

static void job_free(struct job *j)
{
	TAILQ_REMOVE(&j->guard->jobs->list, j, link);
	share_drop(j->guard, SHARE_QUESTIONS, j->who);
	arrow_cancel(j->pending);
	process_forget_wait(j->wait);
	if (j->remote)
		remote_job_gone(j);
	later_free(j);
	seat_leave(j->guard, &j->seat);
	exec_free(j->exec);
	subject_unref(j->caller);
	subject_unref(j->listener);
	if (j->pidfd >= 0)
		close(j->pidfd);
	if (j->sock >= 0)
		fds_close_foreign(j->sock);
	if (j->peer >= 0)
		close(j->peer);
	free(j);
}

void jobs_deinit(struct guard *g)
{
	if (!g->jobs)
		return;
	struct held *h;
	while ((h = STAILQ_FIRST(&g->jobs->held))) {
		STAILQ_REMOVE_HEAD(&g->jobs->held, link);
		ipc_free(h->message);
		free(h);
	}
	while (!TAILQ_EMPTY(&g->jobs->list))
		job_free(TAILQ_FIRST(&g->jobs->list));
	if (g->jobs->held_timer)
		uv_close((uv_handle_t *)g->jobs->held_timer, timer_free);
	free(g->jobs);
	g->jobs = NULL;
}

static void job_end(struct job *j, Belay__Answer *a)
{
	struct guard *g = j->guard;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	m.id = j->question;
	m.body_case = BELAY__TO_ENFORCE__BODY_ANSWER;
	m.answer = a;
	if (arrow_up(g, ROLE_ENFORCE) && g->arrows[ROLE_ENFORCE].opened == j->enforce &&
		arrow_send(g, ROLE_ENFORCE, &m.base, NULL, 0) < 0)
		log_warn("cannot answer enforce; its successor will ask again");
	job_free(j);
}

void job_answer(struct job *j, int error, const char *notice)
{
	Belay__Answer a = BELAY__ANSWER__INIT;
	a.error = error;
	a.notice = pb_text(notice ? notice : "");
	a.lease = j->lease.generation ? &j->lease : NULL;
	job_end(j, &a);
}

void job_ask_again(struct job *j)
{
	Belay__Answer a = BELAY__ANSWER__INIT;
	a.again = true;
	job_end(j, &a);
}

void job_fail(struct job *j, int error, const char *what)
{
	char notice[256];
	snprintf(notice, sizeof(notice), "belay: cannot %s for pid %u: %s (try belay status)", what,
		j->pid, strerror(-error));
	if (error == -ETIMEDOUT || error == -EPIPE)
		job_later(j, -EACCES, NULL, notice);
	else
		job_answer(j, error, notice);
}

void job_carried_out(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g, (void)fds, (void)n_fds;
	struct job *j = ctx;
	const Belay__FromFabric *m = reply;
	j->pending = NULL;
	job_answer(j, error ? -EACCES : m->error, NULL);
}

void job_identify(struct job *j, bool at_exec, process_fn fn)
{
	struct process_wait *w;
	process_ask(j->guard, j->pid, j->pidfd, j->tree, at_exec, fn, j, &w);
	if (w) /* NULL: fn was called already, and j may be gone */
		j->wait = w;
}

void job_unidentified(struct job *j, int error)
{
	char notice[256];
	snprintf(notice, sizeof(notice),
		"belay: refused: pid %u cannot be identified: %s (try belay status)", j->pid,
		error == -EDQUOT ? share_refusal(SHARE_PROCESSES) : strerror(-error));
	job_answer(j, -EACCES, notice);
}

void job_refuse(struct job *j, const struct endpoint_question *q, const struct verdict *v)
{
	char what[DECIDE_WHAT_MAX], notice[768];
	struct verdict refused = *v;
	refused.allow = false;
	if (decide_record(j->guard, q, &refused, j->tree) < 0)
		log_error("cannot log a refusal");
	if (j->call == BELAY__QUESTION__CALL__CALL_CONNECT &&
		j->transport == BELAY__TRANSPORT__TRANSPORT_UDP) {
		/* It sends nothing: resolver libraries try one for each address they sort. Whoever
		 * means it has the error, and belay why. */
		job_answer(j, -EACCES, NULL);
		return;
	}
	decide_what(q, what);
	snprintf(notice, sizeof(notice),
		"belay: refused %s by %.64s (pid %u): %s%s%s; belay why %u", what,
		q->from ? subject_name(q->from) : "?", j->pid, v->why, v->rule[0] ? ": " : "",
		v->rule, j->pid);
	job_answer(j, -EACCES, notice);
}

static void settled(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g, (void)error, (void)reply, (void)fds, (void)n_fds;
	struct job *j = ctx;
	j->pending = NULL;
	subject_unref(j->caller);
	subject_unref(j->listener);
	j->caller = j->listener = NULL;
	j->again(j);
}

/* The fabric serves orders in turn: when it has answered one more, it has done those before. */
int job_barrier(struct job *j, call_fn fn)
{
	Belay__FabricStats s = BELAY__FABRIC_STATS__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	m.body_case = BELAY__TO_FABRIC__BODY_STATS;
	m.stats = &s;
	return arrow_call(j->guard, ROLE_FABRIC, &m.base, NULL, 0, CALL_RESEND, fn, j, &j->pending);
}

bool job_settle(struct job *j, void (*start)(struct job *j))
{
	if (j->settled)
		return false;
	j->settled = true;
	j->again = start;
	return job_barrier(j, settled) == 0;
}

/* ---- the question ---- */

struct call_shape {
	bool known, socket, address;
};
/* Which descriptors and fields each call must come with. */
static const struct call_shape shapes[] = {
	[BELAY__QUESTION__CALL__CALL_CONNECT] = {true, true, true},
	[BELAY__QUESTION__CALL__CALL_BIND] = {true, true, true},
	[BELAY__QUESTION__CALL__CALL_LISTEN] = {true, true, false},
	[BELAY__QUESTION__CALL__CALL_DATAGRAM] = {true, true, true},
	[BELAY__QUESTION__CALL__CALL_UNIX_CONNECT] = {true, false, false},
	[BELAY__QUESTION__CALL__CALL_EXEC] = {true, false, false},
	[BELAY__QUESTION__CALL__CALL_FIFO] = {true, false, false},
	[BELAY__QUESTION__CALL__CALL_DISCONNECT] = {true, true, false},
};

int question_check(const Belay__Question *q, size_t n_fds, struct addr *ret)
{
	if ((size_t)q->call >= ARRAY_LEN(shapes) || !shapes[q->call].known)
		return -EBADMSG;
	const struct call_shape *s = &shapes[q->call];
	if (n_fds < (s->socket ? 2u : 1u) || n_fds > 2 || !q->pid || !q->tree)
		return -EBADMSG;
	if ((unsigned)q->transport > BELAY__TRANSPORT__TRANSPORT_UNIX ||
		strlen(q->unix_path) >= sizeof(((struct job *)0)->unix_path))
		return -EBADMSG;
	int r = pb_addr_read(q->address, ret);
	return r == 0 && s->address && !ret->ip_len ? -EBADMSG : r;
}

static void job_start(struct job *j, const Belay__Question *q)
{
	switch (j->call) {
	case BELAY__QUESTION__CALL__CALL_CONNECT:
		connect_start(j);
		return;
	case BELAY__QUESTION__CALL__CALL_BIND:
		bind_start(j);
		return;
	case BELAY__QUESTION__CALL__CALL_LISTEN:
		listen_start(j);
		return;
	case BELAY__QUESTION__CALL__CALL_DATAGRAM:
		datagram_start(j);
		return;
	case BELAY__QUESTION__CALL__CALL_UNIX_CONNECT:
		unix_start(j, q);
		return;
	case BELAY__QUESTION__CALL__CALL_FIFO:
		fifo_start(j, q);
		return;
	case BELAY__QUESTION__CALL__CALL_EXEC:
		exec_start(j, q);
		return;
	case BELAY__QUESTION__CALL__CALL_DISCONNECT:
		disconnect_start(j);
		return;
	case BELAY__QUESTION__CALL__CALL_NONE:
	default:
		job_answer(j, -EPERM, NULL);
		return;
	}
}

static int job_new(struct guard *g, uint64_t id, const Belay__Question *q, const struct addr *a,
	int *fds, size_t n_fds, struct job **ret)
{
	share_who who = share_tree(g, q->tree);
	if (!share_free(g, SHARE_QUESTIONS, who))
		return -ENOBUFS;
	struct job *j = calloc(1, sizeof(*j));
	if (!j)
		return -ENOMEM;
	j->guard = g;
	j->question = id;
	j->enforce = g->arrows[ROLE_ENFORCE].opened;
	j->call = q->call;
	j->transport = q->transport;
	j->tree = q->tree;
	j->pid = q->pid;
	j->family = q->family;
	j->v6only = q->v6only;
	j->lease_wanted = q->lease;
	j->backlog = q->backlog;
	j->address = *a;
	j->pidfd = take_fd(&fds[0]);
	j->sock = n_fds > 1 ? take_fd(&fds[1]) : -1;
	j->peer = -1;
	j->started_ns = clock_ns(CLOCK_MONOTONIC);
	j->who = who;
	share_add(g, SHARE_QUESTIONS, who);
	TAILQ_INSERT_TAIL(&g->jobs->list, j, link);
	*ret = j;
	return 0;
}

/* The fabric does not come back: what waits for it is refused. */
static void held_timeout(uv_timer_t *t)
{
	struct guard *g = t->data;
	struct held *h;
	if (!g->jobs->held_more && arrow_up(g, ROLE_FABRIC)) {
		g->jobs->held_more = true;
		uv_timer_start(t, held_timeout, HELD_WAIT_MORE_MS, 0);
		return;
	}
	while ((h = STAILQ_FIRST(&g->jobs->held))) {
		STAILQ_REMOVE_HEAD(&g->jobs->held, link);
		job_answer(
			h->job, -EACCES, "belay: refused: the fabric is away (try belay status)");
		ipc_free(h->message);
		free(h);
	}
}

/* Keeps the question until jobs_release(). The message is copied by packing: rare, at start only.
 */
static void job_hold(struct job *j, const Belay__FromEnforce *m)
{
	size_t len = protobuf_c_message_get_packed_size(&m->base);
	_cleanup_free_ uint8_t *buf = malloc(len);
	struct held *h = calloc(1, sizeof(*h));
	if (h && buf) {
		protobuf_c_message_pack(&m->base, buf);
		h->message = ipc_unpack(&belay__from_enforce__descriptor, buf, len);
	}
	if (!h || !h->message) {
		free(h);
		job_answer(j, -ENOMEM, NULL);
		return;
	}
	h->job = j;
	struct jobs *jobs = j->guard->jobs;
	if (STAILQ_EMPTY(&jobs->held)) {
		jobs->held_more = false;
		uv_timer_start(jobs->held_timer, held_timeout, HELD_WAIT_MS, 0);
	}
	STAILQ_INSERT_TAIL(&jobs->held, h, link);
}

void jobs_bind_gone(struct guard *g, const struct bind *b)
{
	struct job *j;
	TAILQ_FOREACH (j, &g->jobs->list, link)
		if (j->bind == b)
			j->bind = NULL;
}

void jobs_release(struct guard *g)
{
	struct held *h;
	uv_timer_stop(g->jobs->held_timer);
	while ((h = STAILQ_FIRST(&g->jobs->held))) {
		STAILQ_REMOVE_HEAD(&g->jobs->held, link);
		job_start(h->job, h->message->question);
		ipc_free(h->message);
		free(h);
	}
}

static int question_message(
	struct guard *g, uint64_t id, const Belay__FromEnforce *m, int *fds, size_t n_fds)
{
	const Belay__Question *q = m->question;
	struct addr a;
	struct job *j;
	int r = question_check(q, n_fds, &a);
	if (r < 0 || !id)
		return -EBADMSG;
	r = job_new(g, id, q, &a, fds, n_fds, &j);
	if (r < 0) {
		Belay__Answer answer = BELAY__ANSWER__INIT;
		Belay__ToEnforce out = BELAY__TO_ENFORCE__INIT;
		char notice[160];
		snprintf(notice, sizeof(notice), "belay: cannot serve pid %u: %s", q->pid,
			r == -ENOBUFS ? share_refusal(SHARE_QUESTIONS) : strerror(-r));
		answer.notice = notice;
		answer.error = -ENOBUFS;
		out.id = id;
		out.body_case = BELAY__TO_ENFORCE__BODY_ANSWER;
		out.answer = &answer;
		return arrow_send(g, ROLE_ENFORCE, &out.base, NULL, 0);
	}
	if (!tree_known(g, j->tree))
		job_answer(j, -EPERM, "belay: this run tree is not known to the instance");
	else if (!g->restored)
		job_hold(j, m);
	else
		job_start(j, q);
	return 0;
}

int jobs_message(struct guard *g, const Belay__FromEnforce *m, int *fds, size_t n_fds)
{
	switch (m->body_case) {
	case BELAY__FROM_ENFORCE__BODY_QUESTION:
		return question_message(g, m->id, m, fds, n_fds);
	case BELAY__FROM_ENFORCE__BODY_SOCKETS_WANTED:
		return n_fds ? -EBADMSG : jobs_sockets(g, m->sockets_wanted);
	case BELAY__FROM_ENFORCE__BODY_LEASES_USED:
		return n_fds ? -EBADMSG : 0; /* read before any message */
	case BELAY__FROM_ENFORCE__BODY_TREE_GONE:
		if (n_fds)
			return -EBADMSG;
		tree_gone(g, m->tree_gone->tree);
		return 0;
	case BELAY__FROM_ENFORCE__BODY_TREES_HELD:
		if (n_fds)
			return -EBADMSG;
		trees_held(g, m->trees_held->tree, m->trees_held->n_tree);
		return 0;
	case BELAY__FROM_ENFORCE__BODY_TREE_ADDED:
		if (n_fds)
			return -EBADMSG;
		tree_added(g, m->tree_added->tree);
		return 0;
	case BELAY__FROM_ENFORCE__BODY__NOT_SET:
	case _BELAY__FROM_ENFORCE__BODY__CASE_IS_INT_SIZE:
	default:
		return -EBADMSG;
	}
}
