/*
 * Calls over arrows (arrow.h). What comes in is the word of another Belay process: it is unpacked
 * exactly, and must answer an open call or be an event of that arrow. A component that does not
 * answer in time is hung: its arrow is closed as after a surprise, because what it did in the
 * meantime is unknown.
 *
 * Cost of a call: one allocation, one packed copy (only where it may have to be sent again), one
 * sendmsg(2); its answer: one look at the list, nearly always at its head.
 */
#include "guard/arrow.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "attest.pb-c.h"
#include "base/discard.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/auditing.h"
#include "guard/guard.h"
#include "guard/lease.h"
#include "link.pb-c.h"
#include "signer.pb-c.h"

/* Every envelope begins like this, which is what lets one file serve them all. */
struct envelope {
	ProtobufCMessage base;
	uint64_t id;
};
#define CHECK_ENVELOPE(t) \
	static_assert(offsetof(t, id) == offsetof(struct envelope, id), "id is the first field")
CHECK_ENVELOPE(Belay__ToAttest);
CHECK_ENVELOPE(Belay__FromAttest);
CHECK_ENVELOPE(Belay__ToFabric);
CHECK_ENVELOPE(Belay__FromFabric);
CHECK_ENVELOPE(Belay__ToConn);
CHECK_ENVELOPE(Belay__FromConn);
CHECK_ENVELOPE(Belay__ToLink);
CHECK_ENVELOPE(Belay__FromLink);
CHECK_ENVELOPE(Belay__ToSigner);
CHECK_ENVELOPE(Belay__FromSigner);
CHECK_ENVELOPE(Belay__ToEnforce);
CHECK_ENVELOPE(Belay__FromEnforce);

struct call {
	TAILQ_ENTRY(call) link;
	struct arrow *arrow;
	uint64_t id, deadline;
	unsigned flags;
	bool sent, done;
	call_fn fn; /* NULL: cancelled, its answer is dropped */
	void *ctx;
	int fds[CALL_FDS_MAX];
	size_t n_fds, len;
	uint8_t packed[];
};

static void call_free(struct call *c)
{
	TAILQ_REMOVE(&c->arrow->calls, c, link);
	c->arrow->n_calls--;
	if (c->arrow->current == c)
		c->arrow->current = NULL;
	for (size_t i = 0; i < c->n_fds; i++)
		fds_close_foreign(c->fds[i]);
	secret_zero(c->packed, c->len);
	free(c);
}

static void call_fail(struct call *c, int error)
{
	call_fn fn = c->fn;
	void *ctx = c->ctx;
	struct guard *g = c->arrow->guard;
	call_free(c);
	if (fn)
		fn(g, ctx, error, NULL, NULL, 0);
}

/* ---- time-outs: one timer for all arrows, running only while a call is open ---- */

static void timer_arm(struct guard *g);

static void timer_fired(uv_timer_t *t)
{
	struct guard *g = t->data;
	uint64_t now = uv_now(t->loop);
	for (int i = 0; i < _ROLE_N; i++) {
		struct arrow *a = &g->arrows[i];
		for (struct call *c; (c = TAILQ_FIRST(&a->calls)) && c->deadline <= now;) {
			bool hung = c->sent && ipc_chan_open(&a->chan);
			call_fail(c, -ETIMEDOUT);
			if (hung)
				arrow_surprise(g, a->role, "it does not answer");
		}
	}
	timer_arm(g);
}

static void timer_arm(struct guard *g)
{
	uint64_t next = UINT64_MAX, now = uv_now(&g->component.loop);
	for (int i = 0; i < _ROLE_N; i++) {
		struct call *c = TAILQ_FIRST(&g->arrows[i].calls);
		if (c && c->deadline < next)
			next = c->deadline;
	}
	if (next == UINT64_MAX)
		uv_timer_stop(&g->calls_timer);
	else
		uv_timer_start(&g->calls_timer, timer_fired, next > now ? next - now : 0, 0);
}

int arrows_init(struct guard *g, const struct arrow_ops *ops)
{
	for (int i = 0; i < _ROLE_N; i++) {
		struct arrow *a = &g->arrows[i];
		memset(a, 0, sizeof(*a));
		a->chan.fd = -1;
		a->role = (enum role)i;
		a->guard = g;
		a->ops = &ops[i];
		TAILQ_INIT(&a->calls);
	}
	g->calls_timer.data = g;
	return uv_timer_init(&g->component.loop, &g->calls_timer);
}

void arrows_deinit(struct guard *g)
{
	for (int i = 0; i < _ROLE_N; i++) {
		struct arrow *a = &g->arrows[i];
		ipc_chan_deinit(&a->chan);
		for (struct call *c; (c = TAILQ_FIRST(&a->calls));)
			call_fail(c, -EPIPE);
	}
	uv_close((uv_handle_t *)&g->calls_timer, NULL);
}

/* ---- an arrow's life ---- */

bool arrow_up(const struct guard *g, enum role role)
{
	return ipc_chan_open(&g->arrows[role].chan);
}

/* After the channel closed: what may be asked again waits for the successor, all else has failed.
 */
static void arrow_lost(struct arrow *a)
{
	a->ready = false;
	struct call *c, *next;
	for (c = TAILQ_FIRST(&a->calls); c; c = next) {
		next = TAILQ_NEXT(c, link);
		if (c->sent && c->fn && (c->flags & CALL_RESEND))
			c->sent = false;
		else if (c->sent)
			c->deadline = 0;
	}
	/* A callback may open calls or end others: look from the start after each. */
	for (bool again = true; again;) {
		again = false;
		TAILQ_FOREACH (c, &a->calls, link) {
			if (c->deadline == 0) {
				call_fail(c, -EPIPE);
				again = true;
				break;
			}
		}
	}
	if (a->ops->down)
		a->ops->down(a->guard);
}

static void arrow_closed(struct ipc_chan *chan, int reason)
{
	struct arrow *a = chan->data;
	if (reason != -EPIPE && reason != -ECONNRESET)
		arrow_surprise(a->guard, a->role, "a message that does not belong there");
	else
		arrow_lost(a);
}

void arrow_surprise(struct guard *g, enum role role, const char *what)
{
	struct arrow *a = &g->arrows[role];
	log_error("%s surprised the guard: %s; its arrow is closed", role_name(role), what);
	auditing_component(g, role, 0, "surprise", what);
	ipc_chan_deinit(&a->chan);
	arrow_lost(a);
	guard_distrust(g, role, what);
}

static struct call *call_by_id(struct arrow *a, uint64_t id)
{
	struct call *c;
	TAILQ_FOREACH (c, &a->calls, link)
		if (c->id == id && c->sent)
			return c;
	return NULL;
}

static int arrow_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	struct arrow *a = chan->data;
	struct guard *g = a->guard;
	struct envelope *m = ipc_unpack(a->ops->from, buf, len);
	if (!m)
		return -EBADMSG;
	int r = 0;
	lease_read(g);
	struct call *c = m->id ? call_by_id(a, m->id) : NULL;
	if (!c) {
		r = a->ops->event(g, m, fds, n_fds);
	} else if (c->flags & CALL_STREAM) {
		a->current = c;
		c->done = !c->fn; /* a cancelled stream ends with its next message */
		if (c->fn)
			c->fn(g, c->ctx, 0, m, fds, n_fds);
		if (a->current == c && c->done)
			call_free(c);
		a->current = NULL;
	} else {
		call_fn fn = c->fn;
		void *ctx = c->ctx;
		call_free(c);
		if (fn)
			fn(g, ctx, 0, m, fds, n_fds);
	}
	timer_arm(g);
	ipc_free(m);
	return r;
}

int arrow_open(struct guard *g, enum role role, int fd)
{
	struct arrow *a = &g->arrows[role];
	if (!a->ops->from) {
		close(fd);
		return -EINVAL;
	}
	if (ipc_chan_open(&a->chan)) {
		ipc_chan_deinit(&a->chan);
		arrow_lost(a);
	}
	int r = ipc_chan_init(&a->chan, &g->component.loop, fd, arrow_message, arrow_closed, a);
	if (r < 0)
		return r;
	a->opened++;
	if (a->ops->up)
		a->ops->up(g);
	else
		arrow_set_ready(g, role);
	return 0;
}

void arrow_set_ready(struct guard *g, enum role role)
{
	struct arrow *a = &g->arrows[role];
	a->ready = ipc_chan_open(&a->chan);
	struct call *c, *next;
	for (c = TAILQ_FIRST(&a->calls); c && a->ready; c = next) {
		next = TAILQ_NEXT(c, link);
		if (c->sent)
			continue;
		if (ipc_send_packed(&a->chan, c->packed, c->len, c->fds, c->n_fds) < 0)
			return; /* the channel's own reading finds out why */
		c->sent = true;
	}
}

/* ---- calls ---- */

static int call_new(struct arrow *a, ProtobufCMessage *msg, const int *fds, size_t n_fds, bool keep,
	struct call **ret)
{
	if (a->n_calls >= ARROW_CALLS_MAX || (keep && n_fds > CALL_FDS_MAX))
		return -ENOBUFS;
	size_t len = keep ? protobuf_c_message_get_packed_size(msg) : 0;
	if (len > IPC_MSG_MAX)
		return -EMSGSIZE;
	struct call *c = calloc(1, sizeof(*c) + len);
	if (!c)
		return -ENOMEM;
	c->arrow = a;
	c->len = len;
	a->n_calls++;
	TAILQ_INSERT_TAIL(&a->calls, c, link);
	c->deadline = uv_now(&a->guard->component.loop) + a->ops->timeout_ms;
	if (keep)
		protobuf_c_message_pack(msg, c->packed);
	for (size_t i = 0; keep && i < n_fds; i++) {
		c->fds[i] = fcntl(fds[i], F_DUPFD_CLOEXEC, 3);
		if (c->fds[i] < 0) {
			int r = -errno;
			call_free(c);
			return r;
		}
		c->n_fds++;
	}
	*ret = c;
	return 0;
}

static int call_start(struct arrow *a, ProtobufCMessage *msg, const int *fds, size_t n_fds,
	unsigned flags, bool now, call_fn fn, void *ctx, struct call **ret)
{
	if (!now && (flags & CALL_NOWAIT))
		return -EPIPE;
	struct envelope *e = (struct envelope *)msg;
	e->id = ++a->last_id;
	struct call *c;
	int r = call_new(a, msg, fds, n_fds, !now || (flags & CALL_RESEND), &c);
	if (r < 0)
		return r;
	c->id = e->id;
	c->flags = flags;
	c->fn = fn;
	c->ctx = ctx;
	if (now) {
		r = ipc_send(&a->chan, msg, fds, n_fds);
		if (r < 0 && !(flags & CALL_RESEND)) {
			call_free(c);
			return r;
		}
		c->sent = r == 0;
	}
	if (ret)
		*ret = c;
	/* Another arrow's call may have set the timer for later than this one's time-out. */
	if (!uv_is_active((uv_handle_t *)&a->guard->calls_timer) ||
		uv_timer_get_due_in(&a->guard->calls_timer) > a->ops->timeout_ms)
		timer_arm(a->guard);
	return 0;
}

int arrow_call(struct guard *g, enum role role, ProtobufCMessage *msg, const int *fds, size_t n_fds,
	unsigned flags, call_fn fn, void *ctx, struct call **ret)
{
	struct arrow *a = &g->arrows[role];
	return call_start(a, msg, fds, n_fds, flags, a->ready, fn, ctx, ret);
}

int arrow_call_setup(struct guard *g, enum role role, ProtobufCMessage *msg, unsigned flags,
	call_fn fn, void *ctx)
{
	struct arrow *a = &g->arrows[role];
	if (!ipc_chan_open(&a->chan))
		return -EPIPE;
	return call_start(a, msg, NULL, 0, flags, true, fn, ctx, NULL);
}

void arrow_cancel(struct call *c)
{
	if (!c)
		return;
	c->fn = NULL;
	if (!c->sent)
		call_free(c);
}

void call_done(struct guard *g, enum role role)
{
	if (g->arrows[role].current)
		g->arrows[role].current->done = true;
}

int arrow_send(struct guard *g, enum role role, ProtobufCMessage *msg, const int *fds, size_t n_fds)
{
	return ipc_send(&g->arrows[role].chan, msg, fds, n_fds);
}

static void order_done(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g, (void)fds, (void)n_fds;
	const Belay__FromFabric *m = reply;
	if (!error)
		error = m->error;
	/* What was to be ended may have ended by itself. */
	if (error && error != -ENOENT)
		log_warn("the fabric could not %s: %s", (const char *)ctx, strerror(-error));
}

int arrow_order(struct guard *g, void *to_fabric, const char *what)
{
	Belay__ToFabric *m = to_fabric;
	return arrow_call(
		g, ROLE_FABRIC, &m->base, NULL, 0, 0, order_done, (void *)(uintptr_t)what, NULL);
}
