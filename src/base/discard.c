/*
 * Threads that close (discard.h). Input: descriptors of hostile programs and users. One thread more
 * watches while others close, and signals those that take too long, which ends a socket's
 * lingering; a file whose server never answers keeps its thread, so there are several, and what
 * they cannot take waits in a bounded queue. What cannot wait (a pipe, a descriptor of the kernel's
 * own kind) is closed at once, so that nobody waits for the end of a pipe behind a stranger's file.
 * Idle, nothing wakes. Cost of fds_close_foreign(): one getsockopt(2) besides the close.
 */
#include "base/discard.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>
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
	pthread_cond_t more, watch;
	int fd[QUEUE_MAX];
	size_t n, n_closers;
	struct closer closer[THREADS];
} discard = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER, {0}, 0,
	0, {{0}}};

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

/* With the lock held. How many threads wait in a close for longer than they should. */
static size_t stuck_wake(bool wake, bool *ret_busy)
{
	size_t stuck = 0;
	*ret_busy = false;
	uint64_t now = clock_mono_ms();
	for (size_t i = 0; i < discard.n_closers; i++) {
		struct closer *c = &discard.closer[i];
		*ret_busy = *ret_busy || c->since_ms;
		if (!c->since_ms || now - c->since_ms < PATIENCE_MS)
			continue;
		stuck++;
		if (wake)
			pthread_kill(c->thread, SIGURG);
	}
	return stuck;
}

static void *watch_run(void *arg)
{
	pthread_mutex_lock(&discard.lock);
	for (bool busy;;) {
		stuck_wake(true, &busy);
		struct timespec t;
		clock_gettime(CLOCK_REALTIME, &t);
		t.tv_nsec += PATIENCE_MS * 1000000L;
		t.tv_sec += t.tv_nsec / 1000000000L;
		t.tv_nsec %= 1000000000L;
		if (busy || discard.n)
			pthread_cond_timedwait(&discard.watch, &discard.lock, &t);
		else
			pthread_cond_wait(&discard.watch, &discard.lock);
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
	pthread_t watch;
	if (!r)
		r = -pthread_create(&watch, NULL, watch_run, NULL);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return r;
}

/* In place, where there are no threads: the wait is switched off, as far as that holds. */
static void close_here(int fd)
{
	struct linger none = {0};
	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof(none));
	close(fd);
}

/* Asked of the kernel alone: a file system in user space could keep even fstat(2) waiting. */
static bool cannot_wait(int fd)
{
	struct statx st;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return false;
	unsigned type = st.stx_mode & S_IFMT;
	return type == S_IFIFO || !type;
}

bool fds_discard(int fd)
{
	if (!discard.n_closers || cannot_wait(fd)) {
		close_here(fd);
		return true;
	}
	pthread_mutex_lock(&discard.lock);
	bool room = discard.n < QUEUE_MAX;
	if (room) {
		discard.fd[discard.n++] = fd;
		pthread_cond_signal(&discard.more);
		pthread_cond_signal(&discard.watch);
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
	bool busy;
	bool jammed = discard.n > QUEUE_MAX / 2 && stuck_wake(false, &busy) == discard.n_closers;
	pthread_mutex_unlock(&discard.lock);
	return jammed;
}
