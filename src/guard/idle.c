/*
 * What channels carried and how long they were idle. Nothing counts on its own: the kernel does for
 * direct channels and conn for the rest, and both are asked when somebody wants to know. That is
 * the command line, and a timer for rules with an idle limit. The timer stands at the earliest
 * moment a channel could be idle for too long; without such channels it does not run.
 *
 * Cost of asking: one message and answer for 256 channels.
 */
#include "guard/idle.h"

#include <errno.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/channel.h"
#include "guard/pb.h"

#define FLOWS_PER_MESSAGE 256
#define IDLE_STEP_MIN_MS 20u

struct refresh {
	size_t open;
	void (*fn)(struct guard *g, uint64_t ctx);
	uint64_t ctx;
};

static void refresh_unref(struct guard *g, struct refresh *r)
{
	if (--r->open)
		return;
	if (r->fn)
		r->fn(g, r->ctx);
	free(r);
}

static void fabric_counted(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	const Belay__FromFabric *m = reply;
	for (size_t i = 0; !error && i < m->n_flows; i++) {
		const Belay__FabricFlow *f = m->flows[i];
		struct addr a, b;
		if (pb_addr_read(f->a, &a) == 0 && pb_addr_read(f->b, &b) == 0)
			channel_flow(g, &a, &b, f->bytes_a_to_b, f->bytes_b_to_a, f->idle_ms);
	}
	if (!error && m->more)
		return;
	call_done(g, ROLE_FABRIC);
	refresh_unref(g, ctx);
}

static void conn_counted(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	const Belay__FromConn *m = reply;
	const Belay__ConnStatsReply *s =
		error || m->body_case != BELAY__FROM_CONN__BODY_STATS ? NULL : m->stats;
	for (size_t i = 0; s && i < s->n_flow; i++) {
		const Belay__ConnFlow *f = s->flow[i];
		struct channel *c =
			f->channel.len == CHANNEL_ID_LEN ? channel_find(g, f->channel.data) : NULL;
		if (c && (c->via != CHANNEL_REMOTE || c->initiator))
			channel_count(c, f->bytes_sent, f->bytes_received, f->idle_ms);
		else if (c)
			channel_count(c, f->bytes_received, f->bytes_sent, f->idle_ms);
	}
	if (s && s->more)
		return;
	call_done(g, ROLE_CONN);
	refresh_unref(g, ctx);
}

static void ask_fabric(struct guard *g, struct refresh *r, Belay__FabricFlow **flows, size_t n)
{
	Belay__FabricStats s = BELAY__FABRIC_STATS__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	s.n_flows = n;
	s.flows = flows;
	m.body_case = BELAY__TO_FABRIC__BODY_STATS;
	m.stats = &s;
	if (n && arrow_call(g, ROLE_FABRIC, &m.base, NULL, 0, CALL_STREAM | CALL_NOWAIT,
			 fabric_counted, r, NULL) == 0)
		r->open++;
}

static void ask_fabric_all(struct guard *g, struct refresh *r)
{
	Belay__FabricFlow flow[FLOWS_PER_MESSAGE], *flows[FLOWS_PER_MESSAGE];
	Belay__Addr a[FLOWS_PER_MESSAGE], b[FLOWS_PER_MESSAGE];
	size_t n = 0;
	for (struct channel *c = channel_first(g); c; c = channel_next(c)) {
		if (c->via != CHANNEL_DIRECT)
			continue;
		a[n] = pb_addr(&c->a);
		b[n] = pb_addr(&c->b);
		flow[n] = (Belay__FabricFlow)BELAY__FABRIC_FLOW__INIT;
		flow[n].a = &a[n];
		flow[n].b = &b[n];
		flows[n] = &flow[n];
		if (++n == FLOWS_PER_MESSAGE) {
			ask_fabric(g, r, flows, n);
			n = 0;
		}
	}
	ask_fabric(g, r, flows, n);
}

static bool any_through_conn(struct guard *g)
{
	for (struct channel *c = channel_first(g); c; c = channel_next(c))
		if (c->via != CHANNEL_DIRECT)
			return true;
	return false;
}

void channel_refresh(struct guard *g, void (*fn)(struct guard *g, uint64_t ctx), uint64_t ctx)
{
	struct refresh *r = calloc(1, sizeof(*r));
	if (!r) {
		fn(g, ctx);
		return;
	}
	*r = (struct refresh){.open = 1, .fn = fn, .ctx = ctx};
	ask_fabric_all(g, r);
	if (any_through_conn(g)) {
		Belay__ConnStats s = BELAY__CONN_STATS__INIT;
		Belay__ToConn m = BELAY__TO_CONN__INIT;
		m.body_case = BELAY__TO_CONN__BODY_STATS;
		m.stats = &s;
		if (arrow_call(g, ROLE_CONN, &m.base, NULL, 0, CALL_STREAM | CALL_NOWAIT,
			    conn_counted, r, NULL) == 0)
			r->open++;
	}
	refresh_unref(g, r);
}

/* ---- the timer ---- */

static void timer_fired(uv_timer_t *t);

/* When the channel could have been idle for its limit, as far as is known now. */
static uint64_t due(const struct channel *c)
{
	uint64_t last = c->stats_ms > c->idle_ms ? c->stats_ms - c->idle_ms : 0;
	return last + c->idle_limit_ms;
}

static void timer_arm(struct guard *g)
{
	uint64_t next = UINT64_MAX, now = clock_mono_ms();
	for (struct channel *c = channel_first(g); c; c = channel_next(c))
		if (c->idle_limit_ms && !c->why_ending && due(c) < next)
			next = due(c);
	if (next == UINT64_MAX) {
		uv_timer_stop(&g->idle_timer);
		return;
	}
	uint64_t wait = next > now ? next - now : 0;
	g->idle_due = next;
	uv_update_time(&g->component.loop);
	uv_timer_start(
		&g->idle_timer, timer_fired, wait > IDLE_STEP_MIN_MS ? wait : IDLE_STEP_MIN_MS, 0);
}

static void counted(struct guard *g, uint64_t ctx)
{
	(void)ctx;
	uint64_t now = clock_mono_ms();
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		if (c->idle_limit_ms && !c->why_ending && due(c) <= now)
			channel_end(g, c, "idle");
	}
	timer_arm(g);
}

static void timer_fired(uv_timer_t *t)
{
	channel_refresh(t->data, counted, 0);
}

int idle_init(struct guard *g)
{
	g->idle_timer.data = g;
	return uv_timer_init(&g->component.loop, &g->idle_timer);
}

void idle_deinit(struct guard *g)
{
	uv_close((uv_handle_t *)&g->idle_timer, NULL);
}

void idle_watch(struct guard *g, const struct channel *c)
{
	if (!c->idle_limit_ms)
		return;
	/* A later moment is found when the timer fires; only an earlier one must move it. */
	bool runs = uv_is_active((uv_handle_t *)&g->idle_timer);
	uint64_t at = due(c), now = clock_mono_ms();
	if (runs && at >= g->idle_due)
		return;
	uint64_t wait = at > now ? at - now : 0;
	g->idle_due = at;
	uv_update_time(&g->component.loop);
	uv_timer_start(
		&g->idle_timer, timer_fired, wait > IDLE_STEP_MIN_MS ? wait : IDLE_STEP_MIN_MS, 0);
}
