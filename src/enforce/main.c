/*
 * belay-enforce: answers the trapped calls of every run tree. One process, one thread, one loop;
 * it decides nothing: what a program may do is the guard's answer, and while there is none the call
 * waits or is refused. It touches hostile memory only by copying bounded pieces of it. Idle it
 * sleeps: the tick runs while something waits, and not else. Cost per kind of call: see the files.
 */
#include <errno.h>
#include <string.h>
#include <sys/epoll.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/log.h"
#include "enforce/enforce.h"
#include "enforce/target.h"
#include "sandbox/sandbox.h"

#define READY_BATCH 64

static void tick(uv_timer_t *t)
{
	struct enforce *e = t->data;
	uint64_t now = clock_mono_ms();
	question_tick(e, now);
	exec_tick(e, now);
	bool soon = e->n_exec > 0;
	for (uint32_t i = 0; i < JOURNAL_SLOTS && e->waiting && !soon; i++)
		soon = e->request[i].state > REQUEST_ASKED;
	if (soon) {
		pool_refill(e);
		tick_start(e);
	} else if (e->waiting) {
		tick_slow_start(e);
	}
}

void tick_start(struct enforce *e)
{
	if (!uv_is_active((uv_handle_t *)&e->tick) || uv_timer_get_due_in(&e->tick) > TICK_MS)
		uv_timer_start(&e->tick, tick, TICK_MS, 0);
}

void tick_slow_start(struct enforce *e)
{
	if (!uv_is_active((uv_handle_t *)&e->tick))
		uv_timer_start(&e->tick, tick, TICK_SLOW_MS, 0);
}

static void ready(uv_poll_t *p, int status, int events)
{
	(void)status;
	(void)events;
	struct enforce *e = p->data;
	struct epoll_event ev[READY_BATCH];
	int n = epoll_wait(e->ready, ev, READY_BATCH, 0);
	for (int i = 0; i < n; i++) {
		struct request *r = &e->request[ev[i].data.u32 % JOURNAL_SLOTS];
		if (r->state == REQUEST_WAIT_SOCKET)
			call_serve(e, r);
	}
}

static int on_arrow(struct component *c, enum role peer, int fd)
{
	if (peer != ROLE_GUARD) {
		close(fd);
		return -EBADMSG;
	}
	return question_arrow(c->data, fd);
}

static int enforce_open(struct enforce *e, struct error *err)
{
	uv_loop_t *loop = &e->c->loop;
	int r = journal_open(&e->journal, e->c->heritage.memory);
	if (r < 0)
		return error_errno(err, r, "cannot use the journal");
	for (uint32_t i = 0; i < EXECS_MAX; i++)
		e->exec[i].pidfd = -1;
	for (uint32_t i = 0; i < JOURNAL_SLOTS; i++)
		e->request[i].sock = e->request[i].unix_fd = -1;
	pool_init(e);
	LIST_INIT(&e->trees);
	e->ready = epoll_create1(EPOLL_CLOEXEC);
	if (e->ready < 0 || target_init() < 0)
		return error_errno(err, -errno, "cannot set up");
	if ((r = uv_poll_init(loop, &e->ready_poll, e->ready)) < 0 ||
		(r = uv_poll_start(&e->ready_poll, UV_READABLE, ready)) < 0 ||
		(r = uv_timer_init(loop, &e->tick)) < 0 || (r = dgram_init(e)) < 0 ||
		(r = leased_init(e)) < 0 || (r = uv_signal_init(loop, &e->child)) < 0 ||
		(r = uv_signal_start(&e->child, exec_child, SIGCHLD)) < 0)
		return error_errno(err, r, "cannot set up the loop");
	e->ready_poll.data = e->tick.data = e->child.data = e;
	return 0;
}

int main(int argc, char **argv)
{
	static struct component c;
	static struct enforce e;
	static const struct component_ops ops = {.on_arrow = on_arrow};
	struct error err = ERROR_INIT;
	e.c = &c;
	e.guard.fd = -1;
	if (component_open(&c, argc, argv, &ops, &e, &err) < 0 || enforce_open(&e, &err) < 0) {
		log_error("%s", err.text);
		return 1;
	}
	if (sandbox_enter(SANDBOX_ENFORCE, NULL, &err) < 0) {
		log_error("%s", err.text);
		return 1;
	}
	dgram_lower(&e);
	int r = discard_start();
	if (r < 0) {
		log_error("cannot start a thread: %s", strerror(-r));
		return 1;
	}
	r = tree_restore(&e);
	if (r < 0) {
		log_error("cannot take over from a predecessor: %s", strerror(-r));
		return 1;
	}
	return component_run(&c);
}
