/*
 * Flows of the fabric: counting, listing, ending (fabric.h). All facts are the kernel's. Byte
 * counts are taken from what each end *sent*, which is exact, where both ends are here.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "fabric/fabric.h"

#define STATS_SINGLE 16 /* up to this many flows are asked for one by one, more by one dump */
#define DESTROY_MAX 256 /* sockets one order may end: listeners sharing a port */

static void flow_write(struct flow *w, const struct addr *a, const struct addr *b, bool udp)
{
	belay__fabric_flow__init(&w->m);
	w->a = *a;
	w->b = *b;
	fabric_addr_write(&w->a, &w->ma);
	w->m.a = &w->ma;
	if (b->ip_len) {
		fabric_addr_write(&w->b, &w->mb);
		w->m.b = &w->mb;
	}
	w->m.transport = udp ? BELAY__TRANSPORT__TRANSPORT_UDP : BELAY__TRANSPORT__TRANSPORT_TCP;
}

void flow_from_sock(struct flow *w, const struct diag_sock *s)
{
	flow_write(w, &s->local, &s->peer, s->udp);
	w->m.bytes_a_to_b = s->sent;
	w->m.bytes_b_to_a = s->received;
	w->m.idle_ms = s->idle_ms;
	w->m.inode = s->inode;
}

/* ---- an answer of many flows, in as many messages as it takes ---- */

struct list {
	struct fabric *f;
	uint64_t id;
	size_t n;
	Belay__FabricFlow *ptr[FABRIC_FLOWS_MAX];
	struct flow flows[FABRIC_FLOWS_MAX];
};

static void list_send(struct list *l, bool more)
{
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.id = l->id;
	m.flows = l->ptr;
	m.n_flows = l->n;
	m.more = more;
	l->f->send(l->f->data, &m, NULL, 0);
	l->n = 0;
}

static struct flow *list_next(struct list *l)
{
	if (l->n == FABRIC_FLOWS_MAX)
		list_send(l, true);
	l->ptr[l->n] = &l->flows[l->n].m;
	return &l->flows[l->n++];
}

/* ---- dump ---- */

static int dump_sock(const struct diag_sock *s, void *data)
{
	struct list *l = data;
	if (s->local.port && !dns_is_own(&l->f->dns, s->inode))
		flow_from_sock(list_next(l), s);
	return 0;
}

int fabric_dump(struct fabric *f, uint64_t id)
{
	_cleanup_free_ struct list *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	l->f = f;
	l->id = id;
	int r = diag_dump(&f->diag, false, 0, 0, dump_sock, l);
	if (r >= 0)
		r = diag_dump(&f->diag, true, 0, 0, dump_sock, l);
	if (r >= 0)
		list_send(l, false);
	return r;
}

/* ---- stats ---- */

struct want {
	struct addr a, b;
	struct diag_sock *end[2]; /* a's socket, b's socket; NULL: not found */
};

struct wants {
	size_t n;
	struct want *v;      /* in the order of the request */
	struct want **by[2]; /* sorted by (a, b), by (b, a) */
};

static int addr_order(const struct addr *x, const struct addr *y)
{
	if (x->port != y->port)
		return x->port < y->port ? -1 : 1;
	if (x->ip_len != y->ip_len)
		return x->ip_len < y->ip_len ? -1 : 1;
	return memcmp(x->ip, y->ip, x->ip_len);
}

static int want_order(const void *x, const void *y, int end)
{
	const struct want *p = *(struct want *const *)x, *q = *(struct want *const *)y;
	int r = end ? addr_order(&p->b, &q->b) : addr_order(&p->a, &q->a);
	if (r)
		return r;
	return end ? addr_order(&p->a, &q->a) : addr_order(&p->b, &q->b);
}

static int want_by_a(const void *x, const void *y)
{
	return want_order(x, y, 0);
}

static int want_by_b(const void *x, const void *y)
{
	return want_order(x, y, 1);
}

static int want_found(struct want *w, int end, const struct diag_sock *s)
{
	if (w->end[end])
		return 0;
	w->end[end] = malloc(sizeof(*s));
	if (!w->end[end])
		return -ENOMEM;
	*w->end[end] = *s;
	return 0;
}

static int want_sock(const struct diag_sock *s, void *data)
{
	struct wants *w = data;
	struct want keys[2] = {{.a = s->local, .b = s->peer}, {.a = s->peer, .b = s->local}};
	for (int end = 0; end < 2; end++) {
		struct want *key = &keys[end];
		struct want **hit = bsearch(
			&key, w->by[end], w->n, sizeof(*w->by[end]), end ? want_by_b : want_by_a);
		int r = hit ? want_found(*hit, end, s) : 0;
		if (r < 0)
			return r;
	}
	return 0;
}

static int wants_by_dump(struct fabric *f, struct wants *w)
{
	for (int end = 0; end < 2; end++) {
		w->by[end] = calloc(w->n, sizeof(*w->by[end]));
		if (!w->by[end])
			return -ENOMEM;
		for (size_t i = 0; i < w->n; i++)
			w->by[end][i] = &w->v[i];
		qsort(w->by[end], w->n, sizeof(*w->by[end]), end ? want_by_b : want_by_a);
	}
	return diag_dump(&f->diag, false, 0, 0, want_sock, w);
}

static int wants_singly(struct fabric *f, struct wants *w)
{
	for (size_t i = 0; i < w->n; i++) {
		struct want *x = &w->v[i];
		struct diag_sock s;
		int r = diag_get(&f->diag, &x->a, &x->b, &s);
		if (r >= 0)
			r = want_found(x, 0, &s);
		if (r < 0 && r != -ENOENT)
			return r;
		r = diag_get(&f->diag, &x->b, &x->a, &s);
		if (r >= 0)
			r = want_found(x, 1, &s);
		if (r < 0 && r != -ENOENT)
			return r;
	}
	return 0;
}

static void want_write(struct list *l, const struct want *w)
{
	const struct diag_sock *a = w->end[0], *b = w->end[1];
	if (!a && !b)
		return;
	struct flow *o = list_next(l);
	flow_write(o, &w->a, &w->b, false);
	o->m.bytes_a_to_b = a ? a->sent : b->received;
	o->m.bytes_b_to_a = b ? b->sent : a->received;
	o->m.idle_ms = a ? a->idle_ms : b->idle_ms;
	if (a && b && b->idle_ms < o->m.idle_ms)
		o->m.idle_ms = b->idle_ms;
	o->m.inode = a ? a->inode : b->inode;
}

static void wants_free(struct wants *w)
{
	for (size_t i = 0; w->v && i < w->n; i++) {
		free(w->v[i].end[0]);
		free(w->v[i].end[1]);
	}
	free(w->v);
	free(w->by[0]);
	free(w->by[1]);
}

/* Flows that are gone are left out of the answer. Of none: what ended is told before it. */
int fabric_stats(struct fabric *f, uint64_t id, const Belay__FabricStats *m)
{
	_cleanup_free_ struct list *l = calloc(1, sizeof(*l));
	_cleanup_(wants_free) struct wants w = {.n = m->n_flows};
	w.v = calloc(w.n ? w.n : 1, sizeof(*w.v));
	if (!l || !w.v)
		return -ENOMEM;
	l->f = f;
	l->id = id;
	for (size_t i = 0; i < w.n; i++)
		if (fabric_addr_read(m->flows[i]->a, &w.v[i].a) < 0 ||
			fabric_addr_read(m->flows[i]->b, &w.v[i].b) < 0)
			return -EBADMSG;
	if (!w.n)
		(void)fabric_ends(f);
	int r = w.n <= STATS_SINGLE ? wants_singly(f, &w) : wants_by_dump(f, &w);
	if (r < 0)
		return r;
	for (size_t i = 0; i < w.n; i++)
		want_write(l, &w.v[i]);
	list_send(l, false);
	return 0;
}

/* ---- destroy ---- */

struct doomed {
	struct addr a, b;
	size_t n;
	struct diag_sock v[DESTROY_MAX];
};

/* Exactly a socket of these names, whichever end; without b a listener, or a UDP socket without a
 * peer. */
static int doomed_sock(const struct diag_sock *s, void *data)
{
	struct doomed *d = data;
	bool hit;
	if (d->b.ip_len)
		hit = (addr_equal(&s->local, &d->a) && addr_equal(&s->peer, &d->b)) ||
		      (addr_equal(&s->local, &d->b) && addr_equal(&s->peer, &d->a));
	else
		hit = addr_equal(&s->local, &d->a) && !s->peer.ip_len &&
		      (s->udp || s->state == DIAG_LISTEN);
	if (!hit)
		return 0;
	if (d->n == DESTROY_MAX)
		return -E2BIG;
	d->v[d->n++] = *s;
	return 0;
}

static int doomed_find(struct fabric *f, bool udp, struct doomed *d)
{
	if (d->b.ip_len && !udp) {
		/* By name: no walk over all sockets for one connection. */
		int r = diag_get(&f->diag, &d->a, &d->b, &d->v[d->n]);
		d->n += r >= 0;
		if (r < 0 && r != -ENOENT)
			return r;
		r = diag_get(&f->diag, &d->b, &d->a, &d->v[d->n]);
		d->n += r >= 0;
		return r == -ENOENT ? 0 : r;
	}
	int r = diag_dump(&f->diag, udp, d->a.port, 0, doomed_sock, d);
	if (r >= 0 && d->b.ip_len)
		r = diag_dump(&f->diag, udp, d->b.port, 0, doomed_sock, d);
	return r;
}

/* A listener takes the connections nobody has accepted with it: the kernel resets them. */
int fabric_destroy(struct fabric *f, const Belay__FabricDestroy *m)
{
	_cleanup_free_ struct doomed *d = calloc(1, sizeof(*d));
	bool udp = m->transport == BELAY__TRANSPORT__TRANSPORT_UDP;
	if (!d)
		return -ENOMEM;
	if (fabric_addr_read(m->a, &d->a) < 0 || (m->b && fabric_addr_read(m->b, &d->b) < 0) ||
		(!udp && m->transport != BELAY__TRANSPORT__TRANSPORT_TCP))
		return -EBADMSG;
	int r = doomed_find(f, udp, d);
	if (r < 0)
		return r;
	for (size_t i = 0; i < d->n; i++) {
		int x = diag_destroy(&f->diag, &d->v[i]);
		/* The reset of the first end may have finished the second. */
		if (x < 0 && x != -ENOENT && r >= 0)
			r = x;
	}
	return d->n ? r : -ENOENT;
}
