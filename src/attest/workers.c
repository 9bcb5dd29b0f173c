/*
 * Threads and their queue (workers.h). Invariants: a piece of work is in one of the three lists or
 * being told about; lists and counts are touched with the lock held, which nobody holds while
 * anything can wait; `late` is the loop's alone. Cost of one piece: two wake-ups, no allocation.
 */
#include "attest/workers.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdlib.h>

#include "base/clock.h"

#define STACK_SIZE (1u << 20) /* address space; what is not touched costs nothing */
#define LOOK_MS 250           /* how often deadlines are looked at, while there is work */

TAILQ_HEAD(works, work);

struct workers {
	uv_async_t ended_async;
	uv_timer_t timer;
	pthread_mutex_t lock;
	pthread_cond_t more;
	struct works queued, running, ended;
	size_t n_queued, n_threads, n_idle;
	size_t n_open; /* the loop's: not released yet */
};

/* ---- on threads ---- */

static bool admitted(const struct workers *w, const struct work *k)
{
	const struct work *r;
	size_t user = 0, process = 0;
	TAILQ_FOREACH (r, &w->running, link) {
		user += r->user == k->user;
		process += k->process && r->process == k->process;
	}
	return user < WORKERS_PER_USER && process < WORKERS_PER_PROCESS;
}

static struct work *take(struct workers *w)
{
	struct work *k;
	TAILQ_FOREACH (k, &w->queued, link)
		if (admitted(w, k))
			break;
	if (!k)
		return NULL;
	TAILQ_REMOVE(&w->queued, k, link);
	w->n_queued--;
	k->running = true;
	TAILQ_INSERT_TAIL(&w->running, k, link);
	return k;
}

static void *work_on(void *arg)
{
	struct workers *w = arg;
	pthread_mutex_lock(&w->lock);
	for (;;) {
		struct work *k = take(w);
		if (!k && w->n_idle >= WORKERS_KEPT)
			break;
		if (!k) {
			w->n_idle++;
			pthread_cond_wait(&w->more, &w->lock);
			w->n_idle--;
			continue;
		}
		pthread_mutex_unlock(&w->lock);
		k->run(k);
		pthread_mutex_lock(&w->lock);
		TAILQ_REMOVE(&w->running, k, link);
		TAILQ_INSERT_TAIL(&w->ended, k, link);
		uv_async_send(&w->ended_async);
	}
	w->n_threads--;
	pthread_mutex_unlock(&w->lock);
	return NULL;
}

/* With the lock held. */
static int thread_start(struct workers *w)
{
	pthread_attr_t attr;
	pthread_t thread;
	sigset_t all, old;
	pthread_attr_init(&attr);
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK_SIZE);
	sigfillset(&all); /* signals are for the loop's thread */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	int r = -pthread_create(&thread, &attr, work_on, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	pthread_attr_destroy(&attr);
	w->n_threads += r == 0;
	return r;
}

/* ---- on the loop ---- */

static void release(struct workers *w, struct work *k)
{
	k->release(k);
	if (!--w->n_open)
		uv_timer_stop(&w->timer);
}

static void on_ended(uv_async_t *a)
{
	struct workers *w = a->data;
	struct works ended = TAILQ_HEAD_INITIALIZER(ended);
	struct work *k;
	pthread_mutex_lock(&w->lock);
	TAILQ_CONCAT(&ended, &w->ended, link);
	pthread_mutex_unlock(&w->lock);
	while ((k = TAILQ_FIRST(&ended))) {
		TAILQ_REMOVE(&ended, k, link);
		if (!k->late)
			k->done(k, 0);
		release(w, k);
	}
}

/* One that is over its time and was not told so; if nobody has begun it, nobody will. */
static struct work *late(struct workers *w, uint64_t now)
{
	struct work *k, *found = NULL;
	pthread_mutex_lock(&w->lock);
	TAILQ_FOREACH (k, &w->running, link)
		if (!k->late && k->deadline_ms <= now)
			found = k;
	TAILQ_FOREACH (k, &w->queued, link)
		if (k->deadline_ms <= now && !found)
			found = k;
	if (found && !found->running) {
		TAILQ_REMOVE(&w->queued, found, link);
		w->n_queued--;
	}
	if (found)
		found->late = true;
	pthread_mutex_unlock(&w->lock);
	return found;
}

static void on_timer(uv_timer_t *t)
{
	struct workers *w = t->data;
	uint64_t now = clock_mono_ms();
	struct work *k;
	while ((k = late(w, now))) {
		/* It may end just now, but is released on this thread only: later. */
		bool begun = k->running;
		k->done(k, -ETIMEDOUT);
		if (!begun)
			release(w, k);
	}
}

int workers_add(struct workers *w, struct work *k)
{
	int r = 0;
	k->late = k->running = false;
	k->deadline_ms = clock_mono_ms() + WORK_DEADLINE_MS;
	pthread_mutex_lock(&w->lock);
	if (w->n_queued + 1 > w->n_idle && w->n_threads < WORKERS_MAX && admitted(w, k))
		r = thread_start(w);
	/* Without another thread those there are do it. */
	if (w->n_threads) {
		TAILQ_INSERT_TAIL(&w->queued, k, link);
		w->n_queued++;
		pthread_cond_signal(&w->more);
		r = 0;
	}
	pthread_mutex_unlock(&w->lock);
	if (r == 0 && !w->n_open++)
		uv_timer_start(&w->timer, on_timer, LOOK_MS, LOOK_MS);
	return r;
}

int workers_new(uv_loop_t *loop, struct workers **ret)
{
	_cleanup_free_ struct workers *w = calloc(1, sizeof(*w));
	if (!w)
		return -ENOMEM;
	TAILQ_INIT(&w->queued);
	TAILQ_INIT(&w->running);
	TAILQ_INIT(&w->ended);
	pthread_mutex_init(&w->lock, NULL);
	pthread_cond_init(&w->more, NULL);
	int r = uv_async_init(loop, &w->ended_async, on_ended);
	r = r < 0 ? r : uv_timer_init(loop, &w->timer);
	if (r < 0)
		return r;
	w->ended_async.data = w->timer.data = w;
	*ret = take_ptr(w);
	return 0;
}
