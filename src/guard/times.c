/*
 * One timer on the wall clock, at the moment when verdicts may change by time alone. The kernel
 * also wakes it when somebody sets the clock: then everything may have changed. Without rules that
 * have times it never runs.
 */
#include "guard/times.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/log.h"
#include "guard/judge.h"
#include "guard/policies.h"
#include "policy/policy.h"

struct times {
	uv_poll_t poll;
	int fd;
};

static void fired(uv_poll_t *handle, int status, int events)
{
	struct guard *g = handle->data;
	uint64_t n;
	(void)status, (void)events;
	/* ECANCELED: the clock was set. Anything else but a count is no reason. */
	if (read(g->times->fd, &n, sizeof(n)) < 0 && errno != ECANCELED)
		return;
	judge_all(g, "time");
	times_arm(g);
}

static void arm(struct guard *g, bool soon)
{
	int64_t now = (int64_t)(clock_wall_ms() / 1000);
	int64_t at = policy_next_change(policies_current(g), now);
	if (soon && at)
		at = now + 1;
	struct itimerspec when = {.it_value.tv_sec = at};
	if (timerfd_settime(
		    g->times->fd, TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET, &when, NULL) < 0 &&
		errno != ECANCELED)
		log_error("cannot set the timer for rules with times: %m");
}

void times_arm(struct guard *g)
{
	arm(g, false);
}

int times_init(struct guard *g)
{
	g->times = calloc(1, sizeof(*g->times));
	if (!g->times)
		return -ENOMEM;
	g->times->fd = timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC);
	if (g->times->fd < 0)
		return -errno;
	g->times->poll.data = g;
	int r = uv_poll_init(&g->component.loop, &g->times->poll, g->times->fd);
	if (r == 0)
		r = uv_poll_start(&g->times->poll, UV_READABLE, fired);
	/* Times may have begun or ended while no guard was there. */
	arm(g, true);
	return r;
}

static void closed(uv_handle_t *handle)
{
	struct times *t = (struct times *)(void *)handle; /* its first member */
	close(t->fd);
	free(t);
}

void times_deinit(struct guard *g)
{
	if (g->times)
		uv_close((uv_handle_t *)&g->times->poll, closed);
	g->times = NULL;
}
