/*
 * Questions that could not be carried out because a component died under them, or the link of a
 * node went down. Nobody refused them: they wait for the successor, at most LATER_MS, and then
 * enforce is told to ask again, from the start. What they had begun is ended before: the fabric
 * serves orders in turn, so when it has answered one more, the socket is as it was. A successor
 * that does not come makes them what they were: failed.
 *
 * Cost: a timer of LATER_TICK_MS, only while somebody waits.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/clock.h"
#include "base/log.h"
#include "fabric.pb-c.h"
#include "guard/job.h"
#include "guard/pb.h"
#include "guard/remote.h"

#define LATER_MS 2000u
#define LATER_TICK_MS 10u
#define LATER_PAUSE_MS 50u /* where all seems to be there, and yet it failed */

struct later {
	TAILQ_ENTRY(later) link;
	struct job *job;
	int error; /* its answer, should nobody come back */
	uint64_t from_ms, until_ms;
	char node[NAME_MAX_LEN], notice[192]; /* node: whose link is awaited, too */
};

struct laters {
	uv_timer_t timer; /* first: its closing frees the whole */
	TAILQ_HEAD(, later) list;
};

int laters_init(struct guard *g)
{
	g->laters = calloc(1, sizeof(*g->laters));
	if (!g->laters)
		return -ENOMEM;
	TAILQ_INIT(&g->laters->list);
	g->laters->timer.data = g;
	return uv_timer_init(&g->component.loop, &g->laters->timer);
}

static void timer_closed(uv_handle_t *h)
{
	free(h);
}

void laters_deinit(struct guard *g)
{
	if (g->laters)
		uv_close((uv_handle_t *)&g->laters->timer, timer_closed);
	g->laters = NULL;
}

void later_free(struct job *j)
{
	if (!j->later)
		return;
	if (j->guard->laters)
		TAILQ_REMOVE(&j->guard->laters->list, j->later, link);
	free(j->later);
	j->later = NULL;
}

static void settled(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)g, (void)reply, (void)fds, (void)n_fds;
	struct job *j = ctx;
	j->pending = NULL;
	if (!error)
		job_ask_again(j);
	else
		job_answer(j, -EACCES, j->later->notice);
}

static bool ready(const struct guard *g, const struct later *l)
{
	const struct remote_node *n =
		l->node[0] ? remote_node_find((struct guard *)(uintptr_t)g, l->node) : NULL;
	const struct arrow *conn = &g->arrows[ROLE_CONN]; /* there may be none: --without */
	return g->restored && g->arrows[ROLE_FABRIC].ready && (conn->ready || !conn->opened) &&
	       (!l->node[0] || (n && n->ready));
}

static void later_look(struct guard *g, struct later *l, uint64_t now)
{
	struct job *j = l->job;
	if (j->pending || now < l->from_ms)
		return;
	if (ready(g, l) && job_barrier(j, settled) == 0)
		return;
	if (now >= l->until_ms)
		job_answer(j, l->error, l->notice);
}

static void on_timer(uv_timer_t *t)
{
	struct guard *g = t->data;
	uint64_t now = clock_mono_ms();
	struct later *l = TAILQ_FIRST(&g->laters->list), *next;
	for (; l; l = next) {
		next = TAILQ_NEXT(l, link);
		later_look(g, l, now);
	}
	if (TAILQ_EMPTY(&g->laters->list))
		uv_timer_stop(t);
}

void job_later(struct job *j, int error, const char *node, const char *notice)
{
	struct guard *g = j->guard;
	struct later *l = j->later ? NULL : calloc(1, sizeof(*l));
	uint64_t now = clock_mono_ms();
	if (!l) {
		job_answer(j, error, notice);
		return;
	}
	l->job = j;
	l->error = error;
	l->until_ms = now + LATER_MS;
	snprintf(l->node, sizeof(l->node), "%s", node ? node : "");
	snprintf(l->notice, sizeof(l->notice), "%s", notice);
	l->from_ms = ready(g, l) ? now + LATER_PAUSE_MS : now;
	j->later = l;
	TAILQ_INSERT_TAIL(&g->laters->list, l, link);
	if (!uv_is_active((uv_handle_t *)&g->laters->timer))
		uv_timer_start(&g->laters->timer, on_timer, LATER_TICK_MS, LATER_TICK_MS);
}
