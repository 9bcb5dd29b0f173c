/*
 * Leased verdicts (lease.h). A lease ends when its time is over, which enforce watches; it is cut
 * short here by a change of policy or registry, by exec and end of the process, the listener's end,
 * and when enforce or fabric ends. Cutting is a store into the book, which enforce reads before
 * each use; behind it stands the kernel, where a change of policy and a listener's end delete the
 * grant of the lease's mark. A use that crosses the cut is judged again when it is read.
 *
 * A number is not given out again for LEASE_GRACE_MS, so that a use read late finds its lease. The
 * state table has each lease, so a successor can read what was connected while there was no guard.
 *
 * Input: the book, which enforce writes. Cost of a use: a channel's record and one entry of the
 * log; no message and no wake-up. Cost of a lease: one record of the state table a second.
 */
#include "guard/lease.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "guard/channel.h"
#include "guard/process.h"
#include "guard/state.h"
#include "ipc/lease.h"

#define LEASE_GRACE_MS 10000

struct lease {
	uint32_t generation; /* 0: free */
	bool holds;
	uint32_t pid;
	uint64_t until_ms;      /* of its validity, or when it was cut short */
	struct channel channel; /* but for a's port and the id; owns its subjects */
};

struct leases {
	int fd;
	struct lease_book *book;
	uint32_t generation, n; /* the last one; how many are not free */
	bool reading;
	struct lease lease[LEASE_BOOK_MAX];
};

int leases_init(struct guard *g)
{
	g->leases = calloc(1, sizeof(*g->leases));
	if (!g->leases)
		return -ENOMEM;
	int fd = component_kept(&g->component, "leases");
	if (fd < 0) {
		fd = lease_book_make();
		if (fd >= 0 && component_keep(&g->component, "leases", fd) < 0)
			log_warn("the book of leases would not outlive this process");
	}
	g->leases->fd = fd;
	int r = fd < 0 ? fd : lease_book_map(fd, &g->leases->book);
	/* Whatever held was a predecessor's. */
	for (uint32_t i = 0; r == 0 && i < LEASE_BOOK_MAX; i++)
		atomic_store(&g->leases->book->holds[i], 0);
	return r;
}

static void lease_cut(struct guard *g, uint32_t i)
{
	struct lease *l = &g->leases->lease[i];
	if (!l->holds)
		return;
	atomic_store(&g->leases->book->holds[i], 0);
	l->holds = false;
	l->until_ms = clock_mono_ms();
}

static void lease_free(struct guard *g, uint32_t i)
{
	struct lease *l = &g->leases->lease[i];
	lease_cut(g, i);
	state_drop(g, l->channel.slot);
	subject_unref(l->channel.from);
	subject_unref(l->channel.to);
	*l = (struct lease){0};
	g->leases->n--;
}

void leases_deinit(struct guard *g)
{
	if (!g->leases)
		return;
	/* The state table keeps its records: a successor reads what is unread. */
	for (uint32_t i = 0; i < LEASE_BOOK_MAX; i++) {
		subject_unref(g->leases->lease[i].channel.from);
		subject_unref(g->leases->lease[i].channel.to);
	}
	lease_book_unmap(g->leases->book);
	if (g->leases->fd >= 0)
		close(g->leases->fd);
	free(g->leases);
	g->leases = NULL;
}

static void lease_fill(struct lease *l, const struct channel *t, int slot)
{
	subject_ref(t->from);
	subject_ref(t->to);
	subject_unref(l->channel.from);
	subject_unref(l->channel.to);
	l->channel = *t;
	l->channel.slot = slot;
	memset(&l->channel.a, 0, sizeof(l->channel.a));
}

int lease_restore(
	struct guard *g, uint32_t number, uint32_t generation, const struct channel *t, int slot)
{
	struct leases *s = g->leases;
	if (number >= LEASE_BOOK_MAX || !generation || s->lease[number].generation)
		return -EBADMSG;
	struct lease *l = &s->lease[number];
	l->generation = generation;
	l->until_ms = clock_mono_ms();
	lease_fill(l, t, slot);
	s->n++;
	/* No number and generation are ever given twice. */
	if (generation > s->generation)
		s->generation = generation;
	return 0;
}

void lease_enforce_up(struct guard *g)
{
	Belay__LeaseBook b = BELAY__LEASE_BOOK__INIT;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	m.body_case = BELAY__TO_ENFORCE__BODY_LEASE_BOOK;
	m.lease_book = &b;
	if (arrow_send(g, ROLE_ENFORCE, &m.base, &g->leases->fd, 1) < 0)
		log_warn("enforce has no book of leases: each connection is asked about");
}

/* ---- giving ---- */

/* The process's own for that address, else one to be filled, else NULL. */
static struct lease *lease_place(struct guard *g, uint32_t pid, const struct addr *to)
{
	struct leases *s = g->leases;
	struct lease *place = NULL;
	uint64_t now = clock_mono_ms();
	for (uint32_t i = 0; i < LEASE_BOOK_MAX; i++) {
		struct lease *l = &s->lease[i];
		if (l->holds && l->pid == pid && addr_equal(&l->channel.b, to))
			return l;
		if (l->generation && l->until_ms + LEASE_GRACE_MS < now)
			lease_free(g, i);
		if (!place && !l->generation)
			place = l;
	}
	return place;
}

/* Until when all that the decision stands on holds; 0: not at all. */
static uint64_t lease_end(struct guard *g, const struct channel *t)
{
	uint64_t from = process_holds_until(g, t->from), to = process_holds_until(g, t->to);
	return from < to ? from : to;
}

/* What a rule counts, and what is allowed only to be seen, is decided each time. */
static bool leasable(const struct guard *g, const struct verdict *v, const struct channel *t)
{
	return !v->connections && !v->rate && !v->permissive && t->to && !t->dns &&
	       t->transport == BELAY__TRANSPORT__TRANSPORT_TCP && t->from->facts == g->facts;
}

bool lease_grant(struct guard *g, const struct job *j, const struct channel *t, Belay__Lease *ret)
{
	struct leases *s = g->leases;
	if (!j->lease_wanted || !leasable(g, &j->verdict, t) || s->generation == UINT32_MAX)
		return false;
	uint64_t until = lease_end(g, t);
	struct lease *l = until > clock_mono_ms() ? lease_place(g, j->pid, &t->b) : NULL;
	if (!l)
		return false;
	uint32_t i = (uint32_t)(l - s->lease);
	uint32_t generation = l->holds ? l->generation : s->generation + 1;
	int slot = state_put_lease(g, i, generation, t);
	if (slot < 0)
		return false;
	if (l->generation)
		state_drop(g, l->channel.slot);
	else
		s->n++;
	lease_fill(l, t, slot);
	s->generation = generation > s->generation ? generation : s->generation;
	l->generation = generation;
	l->pid = j->pid;
	l->until_ms = until;
	l->holds = true;
	atomic_store(&s->book->holds[i], generation);
	belay__lease__init(ret);
	ret->lease = i;
	ret->generation = generation;
	ret->mark = t->mark;
	ret->until_ms = until;
	return true;
}

uint32_t lease_mark(struct guard *g, uint32_t number, uint32_t generation)
{
	const struct lease *l = number < LEASE_BOOK_MAX ? &g->leases->lease[number] : NULL;
	return l && l->holds && l->generation == generation ? l->channel.mark : 0;
}

/* ---- cutting ---- */

void lease_cut_all(struct guard *g)
{
	for (uint32_t i = 0; i < LEASE_BOOK_MAX && g->leases->n; i++)
		lease_cut(g, i);
}

void lease_cut_process(struct guard *g, uint32_t pid)
{
	for (uint32_t i = 0; i < LEASE_BOOK_MAX && g->leases->n; i++) {
		const struct lease *l = &g->leases->lease[i];
		if (l->holds && (l->pid == pid || l->channel.to->evidence->pid == pid))
			lease_cut(g, i);
	}
}

void lease_cut_destination(struct guard *g, const struct addr *a)
{
	for (uint32_t i = 0; i < LEASE_BOOK_MAX && g->leases->n; i++) {
		const struct addr *b = &g->leases->lease[i].channel.b;
		if (b->port == a->port && (addr_is_any(a) || addr_same_ip(a, b)))
			lease_cut(g, i);
	}
}

/* ---- reading ---- */

static void use_record(struct guard *g, const struct lease *l, const struct lease_use *u)
{
	struct channel t = l->channel, *c = channel_find_names(g, t.transport, &u->a, &t.b);
	if (c && c->unseen && !g->restored)
		return; /* our predecessor got as far as this */
	t.a = u->a;
	t.slot = -1;
	t.leased = true;
	if (c) {
		t.late = c->late + 1; /* as in connect.c */
		channel_ended(g, c, "closed");
	}
	if (channel_new_id(t.id) < 0 || channel_start(g, &t, &c) < 0) {
		log_error("cannot record a leased connection: it ends");
		lease_cut_all(g);
		guard_end_connection(g, &u->a, &u->b);
		return;
	}
	/* The list being taken may be without it, and its end may have been told to nobody. */
	if (g->dumping)
		restore_again(g);
	if (!l->holds || t.from->facts != g->facts)
		channel_judge_one(g, c, "policy");
}

static bool addr_sound(const struct addr *a)
{
	return (a->ip_len == 4 || a->ip_len == 16) && a->port;
}

void lease_read(struct guard *g)
{
	struct leases *s = g->leases;
	uint32_t n = lease_uses(s->book);
	if (!n || s->reading)
		return;
	if (n > LEASE_USES_MAX) {
		lease_use_done(s->book, n);
		arrow_surprise(g, ROLE_ENFORCE, "it wrote nonsense into the book of leases");
		return;
	}
	s->reading = true;
	for (; n; n--) {
		struct lease_use u;
		lease_use_get(s->book, &u);
		const struct lease *l = u.lease < LEASE_BOOK_MAX ? &s->lease[u.lease] : NULL;
		if (!addr_sound(&u.a) || !addr_sound(&u.b))
			log_error("a leased connection without a name");
		else if (!l || l->generation != u.generation || !addr_equal(&l->channel.b, &u.b))
			guard_end_connection(g, &u.a, &u.b);
		else
			use_record(g, l, &u);
		/* One by one: what is recorded is not read again by a successor. */
		lease_use_done(s->book, 1);
	}
	s->reading = false;
}
