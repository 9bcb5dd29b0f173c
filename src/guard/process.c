/*
 * Known processes: what attest found, and how long that is good for.
 *
 * An entry is keyed by (pid, start time) and holds a pidfd of its own: while that is alive the pid
 * cannot have been given to another process, so finding an entry by pid and checking its pidfd is
 * enough. Evidence is good for EVIDENCE_LEASE_MS, for the facts (registry, policy) it was matched
 * against and until the next exec, which enforce reports before the new image's first instruction.
 * Concurrent questions about one process share one attest request.
 *
 * By which script an image was started can be read at exec only. It is remembered here (and in the
 * state table) for as long as the process runs that image, and a child that has not executed
 * anything since has its parent's: only if it was born after the parent's last exec, else a parent
 * could fork first and put on a better script afterwards.
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
#include "base/log.h"
#include "guard/state.h"

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
	int pidfd;        /* -1: restored, not met since */
	uv_poll_t *watch; /* its exit */
	struct subject *subject;
	uint64_t taken_ms, facts;
	uint64_t exec_ticks; /* boot clock at the last exec we saw, 0: none seen */
	struct call *attesting;
	bool at_exec; /* what is being attested is a new image */
	char *script_path;
	uint8_t script_sha256[32], script_exe[32]; /* the script, and the interpreter it ran in */
	bool scripted;
	int slot; /* state table, -1: none */
	TAILQ_HEAD(, process_wait) waits;
};

struct processes {
	LIST_HEAD(, process) buckets[BUCKETS];
	size_t n;
};

static uint64_t boot_ticks(void)
{
	return clock_ns(CLOCK_BOOTTIME) / (1000000000u / (uint64_t)sysconf(_SC_CLK_TCK));
}

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
	arrow_cancel(p->attesting);
	if (p->watch) {
		uv_poll_stop(p->watch);
		uv_close((uv_handle_t *)p->watch, watch_free);
	}
	if (p->pidfd >= 0)
		close(p->pidfd);
	if (p->slot >= 0)
		state_drop(p->guard, p->slot);
}

static void process_free(struct process *p, int error)
{
	process_unlink(p);
	process_tell(p, error);
	subject_unref(p->subject);
	free(p->script_path);
	free(p);
}

void processes_deinit(struct guard *g)
{
	for (size_t i = 0; g->processes && i < BUCKETS; i++)
		while (!LIST_EMPTY(&g->processes->buckets[i])) {
			struct process *p = LIST_FIRST(&g->processes->buckets[i]);
			p->slot = -1; /* the record is for our successor */
			process_free(p, -ECANCELED);
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

static struct process *process_new(struct guard *g, uint32_t pid, uint64_t tree)
{
	if (g->processes->n >= PROCESSES_MAX)
		return NULL;
	struct process *p = calloc(1, sizeof(*p));
	if (!p)
		return NULL;
	p->guard = g;
	p->pid = pid;
	p->tree = tree;
	p->pidfd = -1;
	p->slot = -1;
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

/* ---- scripts ---- */

static bool digest_is(const ProtobufCBinaryData *d, const uint8_t sha[32])
{
	return d->len == 32 && !memcmp(d->data, sha, 32);
}

static int script_remember(
	struct process *p, const char *path, const uint8_t script[32], const uint8_t exe[32])
{
	char *copy = strdup(path);
	if (!copy)
		return -ENOMEM;
	free(p->script_path);
	p->script_path = copy;
	memcpy(p->script_sha256, script, 32);
	memcpy(p->script_exe, exe, 32);
	p->scripted = true;
	return 0;
}

static void script_forget(struct process *p)
{
	p->scripted = false;
	if (p->slot >= 0)
		state_drop(p->guard, p->slot);
	p->slot = -1;
}

/* A child without an exec of its own still runs its parent's image, if it was born from that image.
 */
static void script_inherit(struct process *p, const Belay__Evidence *e)
{
	if (p->exec_ticks || e->n_ancestors == 0)
		return;
	struct process *parent =
		process_by_start(p->guard, e->ancestors[0]->pid, e->ancestors[0]->start_time);
	if (!parent || !parent->scripted || !digest_is(&e->exe_sha256, parent->script_exe))
		return;
	if (e->start_time <= parent->exec_ticks)
		return;
	if (script_remember(p, parent->script_path, parent->script_sha256, parent->script_exe) < 0)
		log_error("out of memory remembering a script");
}

/* Completes evidence with the script only the exec could show; or learns it from that exec. */
static int script_settle(struct process *p, Belay__Evidence *e, bool at_exec)
{
	if (at_exec) {
		script_forget(p);
		if (e->script_sha256.len != 32 || e->exe_sha256.len != 32)
			return 0;
		int r = script_remember(
			p, e->script_path, e->script_sha256.data, e->exe_sha256.data);
		if (r == 0)
			p->slot = state_put_process(p->guard, p->tree, e);
		return r;
	}
	if (!p->scripted)
		script_inherit(p, e);
	/* What attest says outside of an exec about a script is the program's own word. */
	free(e->script_sha256.data);
	e->script_sha256 = (ProtobufCBinaryData){0};
	if (!p->scripted || !digest_is(&e->exe_sha256, p->script_exe))
		return 0;
	e->script_sha256.data = malloc(32);
	char *path = strdup(p->script_path);
	if (!e->script_sha256.data || !path) {
		free(path);
		return -ENOMEM;
	}
	memcpy(e->script_sha256.data, p->script_sha256, 32);
	e->script_sha256.len = 32;
	if (e->script_path != protobuf_c_empty_string)
		free(e->script_path);
	e->script_path = path;
	return 0;
}

int process_restore(struct guard *g, uint64_t tree, uint32_t pid, uint64_t start_time,
	const Belay__Evidence *e, int slot)
{
	if (e->script_sha256.len != 32 || e->exe_sha256.len != 32)
		return -EBADMSG;
	struct process *p = process_new(g, pid, tree);
	if (!p)
		return -ENOMEM;
	p->start_time = start_time;
	p->slot = slot;
	p->exec_ticks =
		boot_ticks(); /* when it was is not known: nobody born before now inherits */
	return script_remember(p, e->script_path, e->script_sha256.data, e->exe_sha256.data);
}

/* ---- evidence ---- */

static void process_attested(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct process *p = ctx;
	bool at_exec = p->at_exec;
	p->attesting = NULL;
	p->at_exec = false;
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
	if (!error && script_settle(p, e, at_exec) < 0)
		error = -ENOMEM;
	if (error) {
		ipc_free(e);
		process_free(p, error);
		return;
	}
	p->start_time = e->start_time;
	subject_unref(p->subject);
	p->subject = subject_local(g, e);
	p->taken_ms = clock_mono_ms();
	p->facts = g->facts;
	process_tell(p, p->subject ? 0 : -ENOMEM);
}

static int process_attest(struct process *p, bool at_exec)
{
	Belay__AttestProcess body = BELAY__ATTEST_PROCESS__INIT;
	Belay__ToAttest m = BELAY__TO_ATTEST__INIT;
	body.pid = p->pid;
	body.at_exec = at_exec;
	m.body_case = BELAY__TO_ATTEST__BODY_PROCESS;
	m.process = &body;
	p->at_exec = at_exec;
	return arrow_call(p->guard, ROLE_ATTEST, &m.base, &p->pidfd, 1, CALL_RESEND,
		process_attested, p, &p->attesting);
}

static struct process *process_get(struct guard *g, uint32_t pid, int pidfd, uint64_t tree)
{
	struct process *p = process_by_pid(g, pid);
	if (!p)
		p = process_new(g, pid, tree);
	if (!p)
		return NULL;
	if (tree)
		p->tree = tree;
	if (p->pidfd < 0 && process_watch(p, pidfd) < 0) {
		process_free(p, -ENOMEM);
		return NULL;
	}
	return p;
}

void process_ask(struct guard *g, uint32_t pid, int pidfd, uint64_t tree, bool at_exec,
	process_fn fn, void *ctx, struct process_wait **ret)
{
	if (ret)
		*ret = NULL;
	struct process *p = process_get(g, pid, pidfd, tree);
	struct process_wait *w = p ? calloc(1, sizeof(*w)) : NULL;
	if (!w) {
		fn(g, ctx, -ENOMEM, NULL);
		return;
	}
	if (!at_exec && !p->attesting && p->subject && p->facts == g->facts &&
		clock_mono_ms() - p->taken_ms < EVIDENCE_LEASE_MS) {
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
		/* What is on its way tells of the image before. */
		arrow_cancel(p->attesting);
		p->attesting = NULL;
		p->exec_ticks = boot_ticks();
	}
	int r = p->attesting ? 0 : process_attest(p, at_exec);
	if (r < 0) {
		if (ret)
			*ret = NULL;
		process_tell(p, r);
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
