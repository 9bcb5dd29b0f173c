/*
 * The dispatcher (dispatcher.h). Input here: belayd's start records and the guard's orders about
 * listening sockets. A component other than the guard that says anything at all is ended.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/discard.h"
#include "base/log.h"
#include "component.pb-c.h"
#include "dispatcher/dispatcher.h"
#include "sandbox/sandbox.h"

/* ---- what components say ---- */

static int guard_order(struct dispatcher *d, const Belay__FromComponent *m)
{
	switch (m->body_case) {
	case BELAY__FROM_COMPONENT__BODY_PUBLISH:
		return listeners_publish(d, m->publish);
	case BELAY__FROM_COMPONENT__BODY_UNPUBLISH:
		listeners_unpublish(d, m->unpublish->id);
		return 0;
	case BELAY__FROM_COMPONENT__BODY_LISTEN:
		return listeners_listen(d, m->listen);
	default:
		return -EBADMSG;
	}
}

static int on_peer(struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	struct peer *p = chan->data;
	(void)fds;
	if (p->role != ROLE_GUARD || n_fds)
		return -EBADMSG;
	Belay__FromComponent *m = ipc_unpack(&belay__from_component__descriptor, buf, len);
	int r = m ? guard_order(p->dispatcher, m) : -EBADMSG;
	ipc_free(m);
	return r;
}

static void on_peer_closed(struct ipc_chan *chan, int reason)
{
	struct peer *p = chan->data;
	if (reason != -EPIPE && reason != -ECONNRESET)
		peer_reject(p->dispatcher, p->role, p->generation, "said what it must not say");
	listeners_update(p->dispatcher);
}

/* ---- what belayd says ---- */

/* The guard writes births and deaths into the audit log. */
static void tell_guard(struct dispatcher *d, Belay__PeerEnded *body)
{
	Belay__ToComponent m = BELAY__TO_COMPONENT__INIT;
	struct peer *guard = &d->peer[ROLE_GUARD];
	m.body_case = BELAY__TO_COMPONENT__BODY_PEER_ENDED;
	m.peer_ended = body;
	int r = ipc_chan_open(&guard->chan) ? ipc_send(&guard->chan, &m.base, NULL, 0) : 0;
	if (r < 0 && r != -EPIPE &&
		r != -ECONNRESET) /* a guard that ended has a successor, who hears of all */
		log_error("the guard does not take messages: %s", strerror(-r));
}

static void tell_guard_started(struct dispatcher *d, const struct peer *p)
{
	Belay__PeerEnded body = BELAY__PEER_ENDED__INIT;
	body.role = p->role;
	body.pid = p->pid;
	body.generation = p->generation;
	body.started = true;
	tell_guard(d, &body);
}

/* A new guard learns who lives; an old one, who is new. */
static void tell_births(struct dispatcher *d, const struct peer *p)
{
	struct peer self = {.role = ROLE_DISPATCHER,
		.pid = (uint32_t)getpid(),
		.generation = d->component.heritage.generation};
	if (p->role != ROLE_GUARD) {
		tell_guard_started(d, p);
		return;
	}
	tell_guard_started(d, &self);
	for (int i = 1; i < _ROLE_N; i++)
		if (ipc_chan_open(&d->peer[i].chan))
			tell_guard_started(d, &d->peer[i]);
}

static int take_started(struct dispatcher *d, const Belay__Started *m, int *fds, size_t n_fds)
{
	enum role role = role_from_number(m->role);
	struct error e = ERROR_INIT;
	if (role == ROLE_NONE || role == ROLE_DISPATCHER || n_fds != 2)
		return -EBADMSG;
	struct peer *p = &d->peer[role];
	ipc_chan_deinit(&p->chan);
	int r = verify_component(role, m->pid, m->start_time, m->uid, fds[1], &e);
	if (r == -ESRCH || r == -ENOENT)
		return 0; /* dead already: belayd tells of its end, and of the next */
	if (r < 0) {
		peer_reject(d, role, m->generation, e.text);
		return 0;
	}
	r = ipc_chan_init(
		&p->chan, &d->component.loop, take_fd(&fds[0]), on_peer, on_peer_closed, p);
	if (r < 0)
		return r;
	p->role = role;
	p->pid = m->pid;
	p->generation = m->generation;
	p->dispatcher = d;
	if (role == ROLE_GUARD)
		listeners_guard_started(d);
	arrows_make(d, role);
	tell_births(d, p);
	listeners_update(d);
	return 0;
}

static int take_ended(struct dispatcher *d, const Belay__Ended *m, size_t n_fds)
{
	enum role role = role_from_number(m->role);
	Belay__PeerEnded body = BELAY__PEER_ENDED__INIT;
	if (role == ROLE_NONE || role == ROLE_DISPATCHER || n_fds)
		return -EBADMSG;
	if (d->peer[role].generation == m->generation)
		ipc_chan_deinit(&d->peer[role].chan);
	body.role = role;
	body.pid = m->pid;
	body.generation = m->generation;
	body.how = m->how;
	tell_guard(d, &body);
	listeners_update(d);
	return 0;
}

static int on_raw(struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	struct component *c = chan->data;
	Belay__ToDispatcher *m = ipc_unpack(&belay__to_dispatcher__descriptor, buf, len);
	int r = -EBADMSG;
	if (m && m->body_case == BELAY__TO_DISPATCHER__BODY_STARTED)
		r = take_started(c->data, m->started, fds, n_fds);
	else if (m && m->body_case == BELAY__TO_DISPATCHER__BODY_ENDED)
		r = take_ended(c->data, m->ended, n_fds);
	ipc_free(m);
	return r;
}

static const struct component_ops ops = {.on_raw = on_raw};

static int dispatcher_open(struct dispatcher *d, int argc, char **argv, struct error *e)
{
	int r = component_open(&d->component, argc, argv, &ops, d, e);
	if (r < 0)
		return r;
	if (d->component.heritage.role != ROLE_DISPATCHER)
		return error_set(
			e, -EINVAL, "started as %s", role_name(d->component.heritage.role));
	uv_timer_init(&d->component.loop, &d->pause);
	uv_timer_init(&d->component.loop, &d->confirm);
	d->pause.data = d->confirm.data = d;
	r = arrows_open(d, e);
	if (!r)
		r = listeners_open(d, e);
	/* All it opens later is /proc, to check components. */
	const struct sandbox_path proc = {.path = "/proc"};
	const struct sandbox_args walls = {.paths = &proc, .n_paths = 1};
	r = r < 0 ? r : sandbox_enter(SANDBOX_DISPATCHER, &walls, e);
	if (!r && (r = discard_start()) < 0)
		error_errno(e, r, "cannot start a thread");
	return r;
}

int main(int argc, char **argv)
{
	static struct dispatcher d;
	struct error e = ERROR_INIT;
	int r = dispatcher_open(&d, argc, argv, &e);
	if (r < 0) {
		fprintf(stderr, "belay-dispatcher: %s\n", e.text);
		return 1;
	}
	return component_run(&d.component);
}
