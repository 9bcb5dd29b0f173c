/*
 * Threads that close (discard.h). Input: descriptors of hostile programs and users. A lingering
 * socket is let go when its thread is signalled, which every later call does; a file whose server
 * never answers keeps its thread, so there are several, and what they cannot take waits in a
 * bounded queue. Cost of fds_close_foreign(): one getsockopt(2) besides the close.
 */
#include "base/discard.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"

#define THREADS 4
#define QUEUE_MAX 256
#define PATIENCE_MS 50 /* for one close, before its thread is signalled */

struct closer {
	pthread_t thread;
	uint64_t since_ms; /* 0: idle */
};

static struct {
	pthread_mutex_t lock;
	pthread_cond_t more;
	int fd[QUEUE_MAX];
	size_t n, n_closers;
	struct closer closer[THREADS];
} discard = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, {0}, 0, 0, {{0}}};

static void *closer_run(void *arg)
{
	struct closer *self = arg;
	pthread_mutex_lock(&discard.lock);
	for (;;) {
		while (!discard.n)
			pthread_cond_wait(&discard.more, &discard.lock);
		int fd = discard.fd[0]; /* the oldest: nobody's stays behind for good */
		memmove(discard.fd, discard.fd + 1, --discard.n * sizeof(fd));
		self->since_ms = clock_mono_ms();
		pthread_mutex_unlock(&discard.lock);
		close(fd);
		pthread_mutex_lock(&discard.lock);
		self->since_ms = 0;
	}
	return arg;
}

static void on_signal(int signum)
{
	(void)signum; /* only to end a wait */
}

int discard_start(void)
{
	struct sigaction a = {.sa_handler = on_signal}; /* no SA_RESTART: that is the point */
	sigset_t all, only, old;
	int r = sigaction(SIGURG, &a, NULL) < 0 ? -errno : 0;
	sigfillset(&all); /* every other signal is for the loop's thread */
	only = all;
	sigdelset(&only, SIGURG);
	pthread_sigmask(SIG_SETMASK, &only, &old);
	for (size_t i = 0; !r && i < THREADS; i++) {
		r = -pthread_create(
			&discard.closer[i].thread, NULL, closer_run, &discard.closer[i]);
		discard.n_closers += !r;
	}
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* With the lock held. How many threads wait in a close for longer than they should. */
static size_t stuck_wake(bool wake)
{
	size_t stuck = 0;
	uint64_t now = clock_mono_ms();
	for (size_t i = 0; i < discard.n_closers; i++) {
		struct closer *c = &discard.closer[i];
		if (!c->since_ms || now - c->since_ms < PATIENCE_MS)
			continue;
		stuck++;
		if (wake)
			pthread_kill(c->thread, SIGURG);
	}
	return stuck;
}

/* In place, where there are no threads: the wait is switched off, as far as that holds. */
static void close_here(int fd)
{
	struct linger none = {0};
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
	close(fd);
}

bool fds_discard(int fd)
{
	if (!discard.n_closers) {
		close_here(fd);
		return true;
	}
	pthread_mutex_lock(&discard.lock);
	stuck_wake(true);
	bool room = discard.n < QUEUE_MAX;
	if (room) {
		discard.fd[discard.n++] = fd;
		pthread_cond_signal(&discard.more);
	}
	pthread_mutex_unlock(&discard.lock);
	return room;
}

void fds_close_foreign(int fd)
{
	struct linger l = {0};
	socklen_t len = sizeof(l);
	if (getsockopt(fd, SOL_SOCKET, SO_LINGER, &l, &len) == 0 && l.l_onoff && l.l_linger > 0)
		(void)fds_discard(fd);
	else
		close(fd);
}

bool discard_jammed(void)
{
	if (!discard.n_closers)
		return false;
	pthread_mutex_lock(&discard.lock);
	bool jammed = discard.n > QUEUE_MAX / 2 && stuck_wake(false) == discard.n_closers;
	pthread_mutex_unlock(&discard.lock);
	return jammed;
}
