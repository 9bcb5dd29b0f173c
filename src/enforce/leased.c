/*
 * Leases of this process's side (ipc/lease.h): which process may connect where without the guard
 * being asked again. The guard gives one with its answer to a connect, to a process that has asked
 * for the same address before; it is good for that very process (its pidfd lives, it has executed
 * nothing since), that address, sockets that carry its mark, until its time is over or the book of
 * leases says that it holds no more. So nothing here is decided: a verdict is remembered.
 *
 * Cost of a lease: one pidfd. Of a use: one poll(2).
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fds.h"
#include "base/log.h"
#include "enforce/enforce.h"
#include "enforce/target.h"

#define BELL_MS 10    /* the guard hears of connections within this time */
#define ASKED_MS 1000 /* who asks the same twice in this time may ask a third time */

static struct leased *leased_set(struct enforce *e, uint32_t pid)
{
	return e->leased[pid % LEASE_SETS];
}

static void leased_drop(struct enforce *e, struct leased *l)
{
	if (!l->generation)
		return;
	close(l->pidfd);
	*l = (struct leased){0};
	e->n_leased--;
}

static void leased_drop_all(struct enforce *e, uint32_t pid, uint64_t tree)
{
	for (size_t i = 0; i < LEASE_SETS && e->n_leased; i++)
		for (size_t k = 0; k < LEASE_WAYS; k++) {
			struct leased *l = &e->leased[i][k];
			if ((!pid || l->pid == pid) && (!tree || l->tree == tree))
				leased_drop(e, l);
		}
}

void leased_process_changed(struct enforce *e, uint32_t pid)
{
	leased_drop_all(e, pid, 0);
}

void leased_tree_gone(struct enforce *e, uint64_t tree)
{
	leased_drop_all(e, 0, tree);
}

int leased_book(struct enforce *e, int *fd)
{
	if (e->book)
		return -EBADMSG;
	int r = lease_book_map(*fd, &e->book);
	return r < 0 ? -EBADMSG : 0;
}

void leased_guard_gone(struct enforce *e)
{
	leased_drop_all(e, 0, 0);
	lease_book_unmap(e->book);
	e->book = NULL;
}

bool leased_asked(struct enforce *e, const struct request *r)
{
	uint64_t now = clock_mono_ms();
	struct asked *a = &e->asked[(r->pid ^ r->address.port) % ASKED_MAX];
	bool again =
		a->pid == r->pid && addr_equal(&a->to, &r->address) && now - a->when_ms < ASKED_MS;
	*a = (struct asked){.pid = r->pid, .to = r->address, .when_ms = now};
	return again && e->book;
}

void leased_keep(struct enforce *e, const struct request *r, int pidfd)
{
	struct leased *set = leased_set(e, r->pid), *l = &set[0];
	_cleanup_close_ int fd = pidfd;
	if (!e->book || pidfd < 0)
		return;
	for (size_t k = 0; k < LEASE_WAYS; k++) {
		struct leased *x = &set[k];
		if (x->pid == r->pid && x->family == r->family && addr_equal(&x->to, &r->address)) {
			l = x;
			break;
		}
		if (x->until_ms < l->until_ms)
			l = x; /* a free one, or the one that ends first */
	}
	leased_drop(e, l);
	*l = (struct leased){.number = r->lease.lease,
		.generation = r->lease.generation,
		.mark = r->lease.mark,
		.until_ms = r->lease.until_ms,
		.pid = r->pid,
		.pidfd = take_fd(&fd),
		.family = r->family,
		.tree = r->tree->id,
		.to = r->address};
	e->n_leased++;
}

static bool leased_good(const struct enforce *e, const struct leased *l, const struct request *r)
{
	return l->generation && l->pid == r->pid && l->tree == r->tree->id && e->book &&
	       clock_mono_ms() < l->until_ms && fds_pidfd_alive(l->pidfd) == 1 &&
	       lease_holds(e->book, l->number, l->generation);
}

const struct leased *leased_likely(struct enforce *e, const struct request *r, int family)
{
	const struct leased *set = leased_set(e, r->pid), *best = NULL;
	for (size_t k = 0; k < LEASE_WAYS; k++)
		if (set[k].family == family && (!best || set[k].used > best->used) &&
			leased_good(e, &set[k], r))
			best = &set[k];
	return best;
}

const struct leased *leased_find(struct enforce *e, const struct request *r)
{
	struct leased *set = leased_set(e, r->pid);
	int mark = e->n_leased ? sock_int(r->sock, SOL_SOCKET, SO_MARK) : 0;
	for (size_t k = 0; k < LEASE_WAYS && mark; k++) {
		struct leased *l = &set[k];
		if (l->mark != (uint32_t)mark || l->family != r->family ||
			!addr_equal(&l->to, &r->address) || !leased_good(e, l, r))
			continue;
		l->used = ++e->lease_uses;
		return lease_use_room(e->book) ? l : NULL;
	}
	return NULL;
}

static void bell(uv_timer_t *t)
{
	struct enforce *e = t->data;
	Belay__LeasesUsed u = BELAY__LEASES_USED__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	m.body_case = BELAY__FROM_ENFORCE__BODY_LEASES_USED;
	m.leases_used = &u;
	/* Without a guard its successor reads the book. */
	if (e->book && lease_uses(e->book) && ipc_send(&e->guard, &m.base, NULL, 0) < 0)
		log_info("the guard was not told of leased connections");
}

int leased_init(struct enforce *e)
{
	e->bell.data = e;
	return uv_timer_init(&e->c->loop, &e->bell);
}

void leased_used(struct enforce *e, const struct leased *l, const struct addr *a)
{
	struct lease_use u = {.lease = l->number, .generation = l->generation, .a = *a, .b = l->to};
	lease_use_put(e->book, &u);
	if (!uv_is_active((uv_handle_t *)&e->bell))
		uv_timer_start(&e->bell, bell, BELL_MS, 0);
}
