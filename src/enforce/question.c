/*
 * The arrow to the guard: questions out; answers, trees and sockets in. Input: the guard, which is
 * trusted to decide but whose messages are checked like any other's: one that does not fit ends the
 * arrow. While there is no arrow questions wait GUARD_WAIT_MS for a successor, then their calls are
 * refused. An id is index and kind below a counter, so that a late answer finds nobody.
 */
#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/log.h"
#include "enforce/enforce.h"

#define ID_INDEX 0xffffu
#define ID_EXEC 0x10000u
#define ID_SHIFT 17
#define ID_WANTED ID_INDEX /* instead of an index: nobody waits */
_Static_assert(JOURNAL_SLOTS <= ID_WANTED && EXECS_MAX <= ID_INDEX + 1, "index fits an id");

static void guard_closed(struct ipc_chan *chan, int reason)
{
	struct enforce *e = chan->data;
	log_warn("the guard's arrow closed: %s", strerror(-reason));
	ipc_chan_deinit(chan);
	pool_reset(e);
	leased_guard_gone(e);
	for (uint32_t i = 0; i < JOURNAL_SLOTS; i++) {
		struct request *r = &e->request[i];
		if (r->state != REQUEST_ASKED)
			continue;
		r->question = 0;
		r->state = REQUEST_WAIT_GUARD;
	}
	for (uint32_t i = 0; i < EXECS_MAX; i++)
		e->exec[i].question = 0;
	tick_start(e);
}

/*
 * Nobody refused: what the guard needed died, and is back. What was begun on a socket has been
 * ended there; connect_serve() begins anew. Not for ever: a component may die at each try.
 */
static void ask_again(struct enforce *e, struct request *r)
{
	uint64_t now = clock_mono_ms();
	r->again = true;
	r->again_until_ms = r->again_until_ms ? r->again_until_ms : now + AGAIN_MS;
	if (now >= r->again_until_ms) {
		tree_notice(r->tree, "refused: the instance does not answer (try `belay status`)");
		call_reply(e, r, -EACCES, 0);
		return;
	}
	call_serve(e, r);
}

static void wanted_answer(struct enforce *e, uint64_t id, const char *notice)
{
	for (size_t i = 0; i < WANTED_MAX; i++) {
		struct tree *t =
			e->wanted[i].question == id ? tree_find(e, e->wanted[i].tree) : NULL;
		if (t)
			tree_notice(t, notice);
	}
}

static void take_answer(struct enforce *e, uint64_t id, const Belay__Answer *a)
{
	uint32_t i = (uint32_t)(id & ID_INDEX);
	if (id & ID_EXEC) {
		struct exec *x = i < EXECS_MAX ? &e->exec[i] : NULL;
		if (!x || !x->tid || x->question != id)
			return;
		x->question = 0;
		if (x->tree)
			tree_notice(x->tree, a->notice);
		if (a->again)
			exec_ask(e, x);
		else
			exec_answered(e, x, a->error);
		return;
	}
	if (i == ID_WANTED)
		wanted_answer(e, id, a->notice);
	struct request *r = i < JOURNAL_SLOTS ? &e->request[i] : NULL;
	if (!r || r->state != REQUEST_ASKED || r->question != id)
		return; /* its caller died meanwhile */
	r->question = 0;
	if (a->lease)
		r->lease = *a->lease;
	tree_notice(r->tree, a->notice);
	if (a->again)
		ask_again(e, r);
	else
		call_answered(e, r, a->error);
}

/* Only what outlives us is told of: the guard then closes its own descriptors. */
static int tell_added(struct enforce *e)
{
	struct tree *t;
	int r = 0;
	if (!component_kept_all(e->c))
		tick_start(e);
	LIST_FOREACH (t, &e->trees, link) {
		if (!t->untold || !component_kept_all(e->c))
			continue;
		Belay__TreeAdded added = BELAY__TREE_ADDED__INIT;
		Belay__FromEnforce out = BELAY__FROM_ENFORCE__INIT;
		added.tree = t->id;
		out.body_case = BELAY__FROM_ENFORCE__BODY_TREE_ADDED;
		out.tree_added = &added;
		t->untold = false;
		r = ipc_send(&e->guard, &out.base, NULL, 0);
	}
	/* Not told: the guard is gone, and its successor hears of the tree on the next arrow. */
	return r == -EPIPE || r == -ECONNRESET ? 0 : r;
}

static int take_tree(struct enforce *e, const Belay__TreeAdd *m, int *fds, size_t n_fds)
{
	if (n_fds < 1 || n_fds > 2 || !m->tree)
		return -EBADMSG;
	bool known = tree_find(e, m->tree) != NULL;
	int notify = take_fd(&fds[0]), err = n_fds > 1 ? take_fd(&fds[1]) : -1;
	if (err >= 0 && !offered_writable(err)) {
		(void)fds_discard(err);
		err = -1; /* no notices, then */
	}
	int r = -EINVAL;
	if (offered_notify(notify)) {
		r = tree_add(e, m->tree, notify, err);
	} else {
		(void)fds_discard(notify);
		if (err >= 0)
			close(err);
	}
	struct tree *t = r < 0 ? NULL : tree_find(e, m->tree);
	if (!t) {
		question_tree_gone(e, m->tree);
		return 0;
	}
	if (!known) {
		tree_watch_first(t, (int)syscall(__NR_pidfd_open, (pid_t)m->pid, 0));
		if (tree_keep(t, "", t->notify) < 0 ||
			(t->err >= 0 && tree_keep(t, "-err", t->err) < 0) ||
			(t->first >= 0 && tree_keep(t, "-first", t->first) < 0))
			log_warn("tree %llu would not outlive this process",
				(unsigned long long)t->id);
	}
	t->untold = true;
	return tell_added(e);
}

/* Says which trees there are; what a guard was told before, or missed, counts no more. */
static int tell_trees(struct enforce *e)
{
	static uint64_t all[TREES_MAX];
	Belay__TreesHeld held = BELAY__TREES_HELD__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	struct tree *t;
	held.tree = all;
	LIST_FOREACH (t, &e->trees, link)
		if (!t->untold)
			all[held.n_tree++] = t->id;
	m.body_case = BELAY__FROM_ENFORCE__BODY_TREES_HELD;
	m.trees_held = &held;
	return ipc_send(&e->guard, &m.base, NULL, 0);
}

static int guard_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	struct enforce *e = chan->data;
	Belay__ToEnforce *m = ipc_unpack(&belay__to_enforce__descriptor, buf, len);
	int r = -EBADMSG;
	if (!m)
		return r;
	switch (m->body_case) {
	case BELAY__TO_ENFORCE__BODY_ANSWER:
		if (!n_fds && m->answer->error <= 0) {
			take_answer(e, m->id, m->answer);
			r = 0;
		}
		break;
	case BELAY__TO_ENFORCE__BODY_TREE_ADD:
		r = take_tree(e, m->tree_add, fds, n_fds);
		break;
	case BELAY__TO_ENFORCE__BODY_SOCKETS:
		r = pool_add(e, m->sockets, fds, n_fds);
		break;
	case BELAY__TO_ENFORCE__BODY_LEASE_BOOK:
		r = n_fds == 1 ? leased_book(e, &fds[0]) : -EBADMSG;
		break;
	case BELAY__TO_ENFORCE__BODY_SOCKET_WANTS:
		if (!n_fds && m->socket_wants->destination) {
			sockets_want(e, m->socket_wants->inode, m->socket_wants->destination);
			r = 0;
		}
		break;
	case BELAY__TO_ENFORCE__BODY_TREE_DROP:
		if (!n_fds) {
			struct tree *t = tree_find(e, m->tree_drop->tree);
			if (t)
				tree_remove(t);
			r = 0;
		}
		break;
	default:
		break;
	}
	ipc_free(m);
	return r;
}

int question_arrow(struct enforce *e, int fd)
{
	if (ipc_chan_open(&e->guard))
		guard_closed(&e->guard, -ESTALE);
	int r = ipc_chan_init(&e->guard, &e->c->loop, fd, guard_message, guard_closed, e);
	if (r < 0)
		return r;
	r = tell_trees(e);
	if (r < 0 && r != -EPIPE && r != -ECONNRESET)
		return r;
	pool_refill(e);
	for (uint32_t i = 0; i < JOURNAL_SLOTS; i++) {
		struct request *q = &e->request[i];
		if (q->state == REQUEST_WAIT_GUARD && q->tree) {
			q->again = true;
			call_serve(e, q);
		}
	}
	for (uint32_t i = 0; i < EXECS_MAX; i++)
		if (e->exec[i].tid && e->exec[i].stopped && !e->exec[i].question)
			exec_ask(e, &e->exec[i]);
	return 0;
}

static bool question_send(
	struct enforce *e, uint64_t id, Belay__Question *q, const int *fds, size_t n_fds)
{
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	m.id = id;
	m.body_case = BELAY__FROM_ENFORCE__BODY_QUESTION;
	m.question = q;
	return ipc_chan_open(&e->guard) && ipc_send(&e->guard, &m.base, fds, n_fds) >= 0;
}

bool question_ask(
	struct enforce *e, struct request *r, Belay__Question *q, const int *fds, size_t n_fds)
{
	q->tree = r->tree->id;
	q->pid = r->pid;
	uint64_t id = ++e->questions << ID_SHIFT | (uint64_t)(r - e->request);
	if (!question_send(e, id, q, fds, n_fds)) {
		call_wait(e, r, REQUEST_WAIT_GUARD);
		return false;
	}
	call_wait(e, r, REQUEST_ASKED);
	r->question = id;
	return true;
}

bool question_exec(
	struct enforce *e, struct exec *x, Belay__Question *q, const int *fds, size_t n_fds)
{
	q->tree = x->tree_id;
	q->pid = (uint32_t)x->pid;
	uint64_t id = ++e->questions << ID_SHIFT | ID_EXEC | (uint64_t)(x - e->exec);
	if (!question_send(e, id, q, fds, n_fds)) {
		tick_start(e);
		return false;
	}
	x->question = id;
	return true;
}

void question_wanted(struct enforce *e, Belay__Question *q, const int fds[2])
{
	uint64_t id = ++e->questions << ID_SHIFT | ID_WANTED;
	if (!question_send(e, id, q, fds, 2))
		return; /* the next datagram asks again */
	e->wanted[e->next_wanted] = (struct asked_for){id, q->tree};
	e->next_wanted = (e->next_wanted + 1) % WANTED_MAX;
}

void question_tree_gone(struct enforce *e, uint64_t tree)
{
	Belay__TreeGone gone = BELAY__TREE_GONE__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	gone.tree = tree;
	m.body_case = BELAY__FROM_ENFORCE__BODY_TREE_GONE;
	m.tree_gone = &gone;
	/* A guard that misses it hears on the next arrow which trees are left. */
	if (ipc_chan_open(&e->guard) && ipc_send(&e->guard, &m.base, NULL, 0) < 0)
		log_info("the guard was not told that tree %llu ended", (unsigned long long)tree);
}

void question_addr(Belay__Addr *to, const struct addr *from)
{
	belay__addr__init(to);
	to->ip.data = (uint8_t *)(uintptr_t)from->ip;
	to->ip.len = from->ip_len;
	to->port = from->port;
}

/* ---- what takes time ---- */

static void request_tick(struct enforce *e, struct request *r, uint64_t now)
{
	switch (r->state) {
	case REQUEST_ASKED:
		if (now - r->since_ms > GUARD_WAIT_MS && now - e->looked_ms > GUARD_WAIT_MS) {
			e->looked_ms = now; /* alive it may be, and wait for somebody itself */
			component_look(e->c);
		}
		if (now - r->since_ms > ANSWER_WAIT_MS) {
			tree_notice(r->tree,
				"refused: the instance does not answer (try `belay status`)");
			call_reply(e, r, -EACCES, 0);
		}
		break;
	case REQUEST_WAIT_GUARD:
	case REQUEST_WAIT_SOCKETS:
		if (now - r->since_ms > GUARD_WAIT_MS) {
			tree_notice(r->tree,
				"refused: the instance does not answer (try `belay status`)");
			call_reply(e, r, -EACCES, 0);
		}
		break;
	case REQUEST_WAIT_SOCKET:
	case REQUEST_WAIT_TICK:
		call_serve(e, r); /* checks its deadline and signals itself */
		break;
	default:
		break;
	}
}

void question_tick(struct enforce *e, uint64_t now)
{
	if (tell_added(e) < 0)
		log_warn("the guard does not take messages");
	for (uint32_t i = 0; i < JOURNAL_SLOTS && e->waiting; i++) {
		struct request *r = &e->request[i];
		if (r->state == REQUEST_NONE)
			continue;
		if (!call_valid(r))
			call_drop(e, r);
		else
			request_tick(e, r, now);
	}
}
