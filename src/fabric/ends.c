/*
 * The news of sockets that are gone (fabric.h). The kernel tells of each by multicast; who opens
 * connections by the thousand would have us, and the guard, woken for each. So what comes after the
 * first is left lying for ENDS_REST_MS and told together; when nothing has come in that time, the
 * next is told at once again. Input: the kernel's.
 *
 * Cost: one recv(2) a socket, one message for ENDS_MAX of them; idle, nothing.
 */
#include <errno.h>
#include <string.h>

#include "base/log.h"
#include "fabric/fabric.h"

#define ENDS_MAX 128   /* in one message: far below IPC_MSG_MAX */
#define ENDS_TURN 1024 /* read in one turn of the loop */
#define ENDS_REST_MS 5

struct ends {
	struct fabric *f;
	size_t n;
	Belay__FabricClosed *list[ENDS_MAX], closed[ENDS_MAX];
	struct flow flow[ENDS_MAX];
};

static void ends_send(struct ends *e)
{
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.closed = e->list;
	m.n_closed = e->n;
	if (e->n)
		e->f->send(e->f->data, &m, NULL, 0);
	e->n = 0;
}

static int ends_add(const struct diag_sock *s, void *data)
{
	struct ends *e = data;
	if (!s->local.port || !e->f->configured)
		return 0; /* never had a name, or nobody to tell: a new guard takes a dump */
	if (e->n == ENDS_MAX)
		ends_send(e);
	Belay__FabricClosed *c = e->list[e->n] = &e->closed[e->n];
	struct flow *flow = &e->flow[e->n++];
	flow_from_sock(flow, s);
	belay__fabric_closed__init(c);
	c->flow = &flow->m;
	c->listener = !s->peer.ip_len;
	c->transport = flow->m.transport;
	return 0;
}

static void ends_lost(struct fabric *f)
{
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.overrun = true;
	log_peer("more sockets closed at once than could be followed");
	if (f->configured)
		f->send(f->data, &m, NULL, 0);
}

bool fabric_ends(struct fabric *f)
{
	static struct ends e;
	bool lost = false, any = false;
	int r = 0;
	e.f = f;
	for (int i = 0; i < ENDS_TURN && r >= 0; i++) {
		r = diag_events(&f->diag, ends_add, &e);
		lost = lost || r == -ENOBUFS;
		any = any || r >= 0;
		r = r == -ENOBUFS ? 0 : r;
	}
	ends_send(&e);
	if (lost)
		ends_lost(f);
	if (r < 0 && r != -EAGAIN) {
		/* Channels would never end: better a successor that looks anew. */
		log_error("cannot follow the ends of sockets: %s", strerror(-r));
		uv_stop(f->loop);
		return false;
	}
	return any;
}

static void ends_ready(uv_poll_t *p, int status, int events);

static void ends_rested(uv_timer_t *t)
{
	struct fabric *f = t->data;
	if (fabric_ends(f))
		uv_timer_start(t, ends_rested, ENDS_REST_MS, 0);
	else
		uv_poll_start(&f->events, UV_READABLE, ends_ready);
}

static void ends_ready(uv_poll_t *p, int status, int events)
{
	struct fabric *f = p->data;
	(void)status, (void)events; /* an overrun is an error of the socket: reading tells */
	uv_poll_stop(p);
	(void)fabric_ends(f);
	uv_update_time(f->loop);
	uv_timer_start(&f->rest, ends_rested, ENDS_REST_MS, 0);
}

int fabric_watch(struct fabric *f)
{
	int r = uv_poll_init(f->loop, &f->events, netlink_fd(&f->diag.events));
	f->events.data = f->rest.data = f;
	if (r >= 0)
		r = uv_timer_init(f->loop, &f->rest);
	return r < 0 ? r : uv_poll_start(&f->events, UV_READABLE, ends_ready);
}
