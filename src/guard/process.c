/*
 * Known processes: what attest found, and how long that is good for.
 *
 * An entry is keyed by (pid, start time) and holds a pidfd of its own: while that is alive the pid
 * cannot have been given to another process, so finding an entry by pid and checking its pidfd is
 * enough. Evidence is good for EVIDENCE_LEASE_MS, for the facts (registry, policy) it was matched
 * against and until the next exec, which enforce reports before the new image's first instruction.
 * What is taken at that stop has no lease: the loader has not run, so it says nothing of the
 * libraries (LD_PRELOAD) the image will have mapped by the time it asks for something. Concurrent
 * questions about one process share one attest request.
 *
 * Cost of a question within the lease: one hash probe, one poll(2). Beyond: one message to attest.
 */
#include "guard/process.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attest.pb-c.h"
#include "base/clock.h"
#include "guard/lease.h"
#include "guard/share.h"

#define BUCKETS 1024u /* pids are dense numbers: nothing to flood */

struct process_wait {
	TAILQ_ENTRY(process_wait) link;
	process_fn fn;
	void *ctx;
	struct process *process;
};

struct process {
	LIST_ENTRY(process) link;
	struct guard *guard;
	uint32_t pid;
	uint64_t start_time, tree;
	share_who who;    /* of the tree; of no importance without one: it does not stay */
	int pidfd;        /* -1: restored, not met since */
	uv_poll_t *watch; /* its exit */
	struct subject *subject;
	uint64_t taken_ms, facts;
	struct call *attesting;
	bool attesting_exec; /* `attesting` is of a process stopped at its exec */
	TAILQ_HEAD(, process_wait) waits;
};

struct processes {
	LIST_HEAD(, process) buckets[BUCKETS];
	size_t n;
};

int processes_init(struct guard *g)
{
	g->processes = calloc(1, sizeof(*g->processes));
	return g->processes ? 0 : -ENOMEM;
}

static void watch_free(uv_handle_t *h)
{
	free(h);
}

/* Everybody who waits learns `error`, or the subject. The list is taken first: fn may ask again. */
static void process_tell(struct process *p, int error)
{
	TAILQ_HEAD(, process_wait) waits;
	TAILQ_INIT(&waits);
	TAILQ_CONCAT(&waits, &p->waits, link);
	struct guard *g = p->guard;
	struct subject *s = error ? NULL : subject_ref(p->subject);
	struct process_wait *w;
	TAILQ_FOREACH (w, &waits, link)
		w->process = NULL;
	while ((w = TAILQ_FIRST(&waits))) {
		TAILQ_REMOVE(&waits, w, link);
		process_fn fn = w->fn;
		void *ctx = w->ctx;
		free(w);
		if (fn)
			fn(g, ctx, error, s);
	}
	subject_unref(s);
}

static void process_unlink(struct process *p)
{
	LIST_REMOVE(p, link);
	p->guard->processes->n--;
	if (p->tree)
		share_drop(p->guard, SHARE_PROCESSES, p->who);
	lease_cut_process(p->guard, p->pid);
	arrow_cancel(p->attesting);
	if (p->watch) {
		uv_poll_stop(p->watch);
		uv_close((uv_handle_t *)p->watch, watch_free);
	}
	if (p->pidfd >= 0)
		close(p->pidfd);
}

static void process_free(struct process *p, int error)
{
	process_unlink(p);
	process_tell(p, error);
	subject_unref(p->subject);
	free(p);
}

void processes_deinit(struct guard *g)
{
	for (size_t i = 0; g->processes && i < BUCKETS; i++)
		while (!LIST_EMPTY(&g->processes->buckets[i])) {
			process_free(LIST_FIRST(&g->processes->buckets[i]), -ECANCELED);
		}
	free(g->processes);
	g->processes = NULL;
}

size_t processes_count(const struct guard *g)
{
	return g->processes->n;
}

static void process_exited(uv_poll_t *w, int status, int events)
{
	(void)status, (void)events;
	struct process *p = w->data;
	process_free(p, -ESRCH);
}

static int process_watch(struct process *p, int pidfd)
{
	p->pidfd = fcntl(pidfd, F_DUPFD_CLOEXEC, 3);
	if (p->pidfd < 0)
		return -errno;
	p->watch = calloc(1, sizeof(*p->watch));
	if (!p->watch)
		return -ENOMEM;
	int r = uv_poll_init(&p->guard->component.loop, p->watch, p->pidfd);
	if (r < 0) {
		free(p->watch);
		p->watch = NULL;
		return r;
	}
	p->watch->data = p;
	return uv_poll_start(p->watch, UV_READABLE, process_exited);
}

static struct process *process_new(struct guard *g, uint32_t pid)
{
	if (g->processes->n >= PROCESSES_MAX)
		return NULL;
	struct process *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->guard = g;
	p->pid = pid;
	p->pidfd = -1;
	TAILQ_INIT(&p->waits);
	LIST_INSERT_HEAD(&g->processes->buckets[pid % BUCKETS], p, link);
	g->processes->n++;
	return p;
}

/* The living process of that pid. Dead ones met on the way go. */
static struct process *process_by_pid(struct guard *g, uint32_t pid)
{
	struct process *p, *next;
	for (p = LIST_FIRST(&g->processes->buckets[pid % BUCKETS]); p; p = next) {
		next = LIST_NEXT(p, link);
		if (p->pid != pid)
			continue;
		if (p->pidfd < 0 || fds_pidfd_alive(p->pidfd) == 1)
			return p;
		process_free(p, -ESRCH);
		return process_by_pid(g, pid);
	}
	return NULL;
}

static struct process *process_by_start(struct guard *g, uint32_t pid, uint64_t start_time)
{
	struct process *p;
	LIST_FOREACH (p, &g->processes->buckets[pid % BUCKETS], link)
		if (p->pid == pid && p->start_time == start_time)
			return p;
	return NULL;
}

uint64_t process_tree(struct guard *g, uint32_t pid, uint64_t start_time)
{
	struct process *p = process_by_start(g, pid, start_time);
	return p ? p->tree : 0;
}

bool process_inside_tree(struct guard *g, const Belay__Evidence *e)
{
	if (process_tree(g, e->pid, e->start_time))
		return true;
	for (size_t i = 0; i < e->n_ancestors; i++)
		if (process_tree(g, e->ancestors[i]->pid, e->ancestors[i]->start_time))
			return true;
	return false;
}

struct subject *process_subject(struct guard *g, uint32_t pid, uint64_t start_time)
{
	struct process *p = process_by_start(g, pid, start_time);
	return p ? p->subject : NULL;
}

uint64_t process_holds_until(struct guard *g, const struct subject *s)
{
	const struct process *p = process_by_start(g, s->evidence->pid, s->evidence->start_time);
	if (!p || p->pidfd < 0)
		return UINT64_MAX;
	bool known = p->subject && p->taken_ms && p->facts == g->facts && !p->attesting_exec;
	return known ? p->taken_ms + EVIDENCE_LEASE_MS : 0;
}

void process_tree_gone(struct guard *g, uint64_t tree)
{
	for (size_t i = 0; i < BUCKETS; i++) {
		struct process *p = LIST_FIRST(&g->processes->buckets[i]);
		while (p) {
			struct process *next = LIST_NEXT(p, link);
			/* One that waits is asked for by others still (a listener's qualification).
			 */
			if (p->tree == tree && TAILQ_EMPTY(&p->waits))
				process_free(p, -ESRCH);
			p = next;
		}
	}
}

/* ---- evidence ---- */

static void process_attested(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct process *p = ctx;
	p->attesting = NULL;
	const Belay__FromAttest *m = reply;
	if (!error && (m->error || !m->evidence))
		error = m->error < 0 ? m->error : -EPROTO;
	if (!error && m->evidence->pid != p->pid) {
		process_tell(p, -EPROTO);
		arrow_surprise(g, ROLE_ATTEST, "evidence of another process");
		return;
	}
	if (!error && p->start_time && p->start_time != m->evidence->start_time)
		error = -ESRCH; /* the pid of a restored entry has been given to another process */
	Belay__Evidence *e = NULL;
	if (!error) {
		/* The evidence is ours to keep; the rest of the message is freed by the caller. */
		Belay__FromAttest *owner = (Belay__FromAttest *)(uintptr_t)m;
		e = take_ptr(owner->evidence);
	}
	if (error == -EBUSY) {
		/* Attest has too much to do: that says nothing about the process. */
		p->taken_ms = 0;
		process_tell(p, error);
		return;
	}
	if (error) {
		ipc_free(e);
		process_free(p, error);
		return;
	}
	p->start_time = e->start_time;
	uint64_t was = p->subject ? p->subject->principal : 0;
	subject_unref(p->subject);
	p->subject = subject_local(g, e);
	if (!p->subject || p->subject->principal != was)
		lease_cut_process(g, p->pid);
	p->taken_ms = p->attesting_exec ? 0 : clock_mono_ms();
	p->facts = g->facts;
	/* Of a program outside of all trees nothing is kept: it asks seldom, and is in nobody's
	 * share. */
	int r = p->subject ? 0 : -ENOMEM;
	if (p->tree)
		process_tell(p, r);
	else
		process_free(p, r);
}

static int process_attest(struct process *p, bool at_exec)
{
	Belay__AttestProcess body = BELAY__ATTEST_PROCESS__INIT;
	Belay__ToAttest m = BELAY__TO_ATTEST__INIT;
	body.pid = p->pid;
	body.at_exec = p->attesting_exec = at_exec;
	m.body_case = BELAY__TO_ATTEST__BODY_PROCESS;
	m.process = &body;
	return arrow_call(p->guard, ROLE_ATTEST, &m.base, &p->pidfd, 1, CALL_RESEND,
		process_attested, p, &p->attesting);
}

static bool leased(const struct process *p)
{
	return !p->attesting && p->subject && p->taken_ms && p->facts == p->guard->facts &&
	       clock_mono_ms() - p->taken_ms < EVIDENCE_LEASE_MS;
}

bool process_fresh(struct guard *g, uint32_t pid, uint64_t start_time)
{
	const struct process *p = process_by_start(g, pid, start_time);
	return p && leased(p);
}

/* In whose share it is; -EDQUOT: that is used up. */
static int process_charge(struct process *p, uint64_t tree)
{
	struct guard *g = p->guard;
	share_who who = share_tree(g, tree);
	if (!tree || (p->tree && p->who == who)) {
		p->tree = tree ? tree : p->tree;
		return 0;
	}
	if (!share_free(g, SHARE_PROCESSES, who))
		return -EDQUOT;
	if (p->tree)
		share_drop(g, SHARE_PROCESSES, p->who);
	share_add(g, SHARE_PROCESSES, who);
	p->tree = tree;
	p->who = who;
	return 0;
}

static int process_get(
	struct guard *g, uint32_t pid, int pidfd, uint64_t tree, struct process **ret)
{
	struct process *p = process_by_pid(g, pid);
	if (!p)
		p = process_new(g, pid);
	if (!p)
		return -ENOMEM;
	int r = process_charge(p, tree);
	if (r == 0 && p->pidfd < 0)
		r = process_watch(p, pidfd);
	if (r < 0) {
		process_free(p, r);
		return r;
	}
	*ret = p;
	return 0;
}

void process_ask(struct guard *g, uint32_t pid, int pidfd, uint64_t tree, bool at_exec,
	process_fn fn, void *ctx, struct process_wait **ret)
{
	if (ret)
		*ret = NULL;
	struct process *p;
	int r = process_get(g, pid, pidfd, tree, &p);
	struct process_wait *w = r == 0 ? calloc(1, sizeof(*w)) : NULL;
	if (!w) {
		fn(g, ctx, r < 0 ? r : -ENOMEM, NULL);
		return;
	}
	if (!at_exec && leased(p)) {
		free(w);
		struct subject *s = subject_ref(p->subject);
		fn(g, ctx, 0, s);
		subject_unref(s);
		return;
	}
	w->fn = fn;
	w->ctx = ctx;
	w->process = p;
	TAILQ_INSERT_TAIL(&p->waits, w, link);
	if (ret)
		*ret = w;
	if (at_exec) {
		lease_cut_process(g, pid);
		/* What is on its way tells of the image before. */
		arrow_cancel(p->attesting);
		p->attesting = NULL;
	}
	r = p->attesting ? 0 : process_attest(p, at_exec);
	if (r < 0) {
		if (ret)
			*ret = NULL;
		if (p->tree)
			process_tell(p, r);
		else
			process_free(p, r);
	}
}

bool process_ask_again(struct guard *g, uint32_t pid, uint64_t start_time, process_fn fn, void *ctx,
	struct process_wait **ret)
{
	struct process *p = process_by_pid(g, pid);
	if (!p || p->pidfd < 0 || p->start_time != start_time)
		return false;
	process_ask(g, pid, p->pidfd, 0, false, fn, ctx, ret);
	return true;
}

bool process_known(struct guard *g, uint32_t pid, uint64_t *ret_tree, struct subject **ret)
{
	struct process *p = process_by_pid(g, pid);
	if (!p || p->pidfd < 0)
		return false;
	*ret_tree = p->tree;
	*ret = p->subject;
	return true;
}

void process_forget_wait(struct process_wait *w)
{
	if (!w)
		return;
	if (!w->process) {
		w->fn = NULL; /* being told: the list has been taken */
		return;
	}
	TAILQ_REMOVE(&w->process->waits, w, link);
	free(w);
}
