/*
 * Hashes of files and what keeps them true (hash.h). Input: files any program chose to run or map.
 * Invariant: a remembered digest is served only if, at that moment, its lease is whole (asked of
 * the kernel, not of a signal that may still be under way) or the file is settled and its stat is
 * the one it was hashed with. The lock is held over nothing that asks a file system: of files only
 * their leases are looked at, which the kernel keeps itself. Cost of a hit: fstat and fcntl. Of a
 * miss: open, lease, the reading, five more system calls.
 */
#include "attest/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/discard.h"
#include "crypto/sha256.h"

#define LEASE_SIGNAL SIGRTMIN
#define READ_CHUNK (256u * 1024)

/* A file remembered, or being read. */
struct file {
	TAILQ_ENTRY(file) link;
	struct stat claimed; /* whoever wants this content waits while it is read */
	struct stat st;      /* from before it was read */
	struct digest digest;
	int fd;       /* holds the lease; -1 when settled only */
	bool settled; /* as the caller found when it was hashed */
	bool leased;
};

TAILQ_HEAD(files, file);

struct hasher {
	pthread_mutex_t lock;
	pthread_cond_t read; /* one of `reading` is through */
	struct files files;  /* most recently used first */
	struct files reading;
	uv_poll_t poll;
	int signals;
	struct hash_stats stats;
};

static bool same_file(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino;
}

static bool same_content(const struct stat *a, const struct stat *b)
{
	return same_file(a, b) && a->st_size == b->st_size &&
	       a->st_mtim.tv_sec == b->st_mtim.tv_sec && a->st_mtim.tv_nsec == b->st_mtim.tv_nsec &&
	       a->st_ctim.tv_sec == b->st_ctim.tv_sec && a->st_ctim.tv_nsec == b->st_ctim.tv_nsec;
}

/* ---- files ---- */

static void file_free(struct file *f)
{
	if (!f)
		return;
	if (f->fd >= 0) {
		/* A waiting writer goes on; said explicitly, since a duplicate would keep the
		 * lease. */
		(void)fcntl(f->fd, F_SETLEASE, F_UNLCK);
		(void)fds_discard(f->fd);
	}
	free(f);
}

static void file_drop(struct hasher *h, struct file *f)
{
	TAILQ_REMOVE(&h->files, f, link);
	h->stats.entries--;
	h->stats.leases -= f->fd >= 0;
	file_free(f);
}

/* F_GETLEASE says what the lease is being broken to as soon as somebody wants to write. */
static bool lease_whole(int fd)
{
	return fcntl(fd, F_GETLEASE) == F_RDLCK;
}

static struct file *file_known(struct hasher *h, const struct stat *st)
{
	struct file *f;
	TAILQ_FOREACH (f, &h->files, link)
		if (same_file(&f->st, st))
			return f;
	return NULL;
}

static void file_keep(struct hasher *h, struct file *f)
{
	struct file *older = file_known(h, &f->st);
	if (older)
		file_drop(h, older);
	while (h->stats.entries >= HASH_ENTRIES_MAX)
		file_drop(h, TAILQ_LAST(&h->files, files));
	TAILQ_INSERT_HEAD(&h->files, f, link);
	h->stats.entries++;
	h->stats.leases += f->fd >= 0;
}

/* A remembered digest that holds right now; what no longer holds is dropped. */
static struct file *file_find(struct hasher *h, const struct stat *st, bool settled)
{
	struct file *f = file_known(h, st);
	if (!f)
		return NULL;
	bool holds = f->fd >= 0 ? lease_whole(f->fd) : settled && f->settled;
	if (!holds || !same_content(&f->st, st)) {
		file_drop(h, f);
		return NULL;
	}
	TAILQ_REMOVE(&h->files, f, link);
	TAILQ_INSERT_HEAD(&h->files, f, link);
	return f;
}

/* ---- reading ---- */

static int file_read(struct file *f)
{
	_cleanup_free_ uint8_t *buf = malloc(READ_CHUNK);
	struct sha256 s;
	uint64_t done = 0;
	if (!buf)
		return -ENOMEM;
	sha256_init(&s);
	for (;;) {
		ssize_t n = pread(f->fd, buf, READ_CHUNK, (off_t)done);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (n == 0)
			break;
		done += (uint64_t)n;
		if (done > (uint64_t)f->st.st_size)
			return -EAGAIN;
		sha256_update(&s, buf, (size_t)n);
	}
	sha256_final(&s, f->digest.bytes);
	return done == (uint64_t)f->st.st_size ? 0 : -EAGAIN;
}

/*
 * A lease, if the file can have one. 1: yes; 0: not here (another's file, or this file system has
 * none); -ETXTBSY: somebody has it open for writing or mapped writable and shared.
 */
static int file_lease(struct file *f)
{
	/* Of a break the process is told, not the thread, which may end before. */
	if (fcntl(f->fd, F_SETOWN, getpid()) < 0)
		return -errno;
	if (fcntl(f->fd, F_SETLEASE, F_RDLCK) < 0)
		return errno == EAGAIN ? -ETXTBSY : 0;
	/* Which signal a break sends; until here it would be SIGIO, which is blocked and watched
	 * too. */
	(void)fcntl(f->fd, F_SETSIG, LEASE_SIGNAL);
	return 1;
}

static int file_open(struct file *f, int fd, const struct stat *st)
{
	char path[64];
	if (!S_ISREG(st->st_mode))
		return -EINVAL;
	if (st->st_size < 0 || (uint64_t)st->st_size > HASH_FILE_MAX)
		return -EFBIG;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	f->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &f->st) < 0)
		return -errno;
	return same_file(&f->st, st) ? 0 : -ESTALE;
}

/* ---- asking ---- */

static bool being_read(const struct hasher *h, const struct stat *st)
{
	const struct file *f;
	TAILQ_FOREACH (f, &h->reading, link)
		if (same_content(&f->claimed, st))
			return true;
	return false;
}

/* From here on the loop looks after the lease: no writer waits for nobody. */
static int file_watch(struct hasher *h, struct file *f)
{
	pthread_mutex_lock(&h->lock);
	f->leased = true;
	/* A break until now may have been told already. */
	bool whole = lease_whole(f->fd);
	pthread_mutex_unlock(&h->lock);
	return whole ? 0 : -EAGAIN;
}

static int file_hash(struct hasher *h, struct file *f, int fd, const struct stat *st)
{
	struct stat now;
	int r = file_open(f, fd, st);
	int leased = r < 0 ? r : file_lease(f);
	if (leased < 0)
		return leased;
	if (leased && (r = file_watch(h, f)) < 0)
		return r;
	/* Again, now that nobody can write it: what is hashed is what this stat describes. */
	if (fstat(f->fd, &f->st) < 0)
		return -errno;
	r = file_read(f);
	if (r < 0)
		return r;
	if (fstat(f->fd, &now) < 0)
		return -errno;
	if (!leased)
		close(take_fd(&f->fd));
	/* What was read is the file's content only if nothing happened to it meanwhile. */
	return same_content(&f->st, &now) ? 0 : -EAGAIN;
}

/* Not being read any more; remembered, if it was and something keeps it true. */
static int file_settle(struct hasher *h, struct file *f, int error, struct digest *ret)
{
	pthread_mutex_lock(&h->lock);
	TAILQ_REMOVE(&h->reading, f, link);
	pthread_cond_broadcast(&h->read);
	if (error == 0 && f->leased && !lease_whole(f->fd))
		error = -EAGAIN;
	h->stats.broken += error == -EAGAIN;
	bool keep = error == 0 && (f->leased || f->settled);
	if (error == 0)
		*ret = f->digest;
	if (keep)
		file_keep(h, f);
	pthread_mutex_unlock(&h->lock);
	if (!keep)
		file_free(f);
	return error;
}

int hash_get(struct hasher *h, int fd, bool settled, struct digest *ret)
{
	struct stat st;
	struct file *f = NULL;
	if (fstat(fd, &st) < 0)
		return -errno;
	pthread_mutex_lock(&h->lock);
	while (being_read(h, &st))
		pthread_cond_wait(&h->read, &h->lock);
	const struct file *known = file_find(h, &st, settled);
	if (known) {
		h->stats.hits++;
		*ret = known->digest;
	} else if ((f = calloc(1, sizeof(*f)))) {
		h->stats.misses++;
		f->fd = -1;
		f->settled = settled;
		f->claimed = st;
		TAILQ_INSERT_HEAD(&h->reading, f, link);
	}
	pthread_mutex_unlock(&h->lock);
	if (known)
		return 0;
	return f ? file_settle(h, f, file_hash(h, f, fd, &st), ret) : -ENOMEM;
}

void hash_stats(struct hasher *h, struct hash_stats *ret)
{
	pthread_mutex_lock(&h->lock);
	*ret = h->stats;
	pthread_mutex_unlock(&h->lock);
}

/* ---- leases being broken ---- */

static void on_signal(uv_poll_t *p, int status, int events)
{
	struct hasher *h = p->data;
	struct signalfd_siginfo si[16];
	(void)status;
	(void)events;
	while (read(h->signals, si, sizeof(si)) > 0)
		;
	/* Signals may have been merged or lost: ask of every lease, so that no writer waits for us.
	 */
	pthread_mutex_lock(&h->lock);
	struct file *f = TAILQ_FIRST(&h->files);
	while (f) {
		struct file *next = TAILQ_NEXT(f, link);
		if (f->fd >= 0 && !lease_whole(f->fd)) {
			h->stats.broken++;
			file_drop(h, f);
		}
		f = next;
	}
	/* A file still being read: let the writer go on; file_settle() then refuses what was read.
	 */
	TAILQ_FOREACH (f, &h->reading, link)
		if (f->leased && !lease_whole(f->fd))
			(void)fcntl(f->fd, F_SETLEASE, F_UNLCK);
	pthread_mutex_unlock(&h->lock);
}

static void lease_signals(sigset_t *set)
{
	sigemptyset(set);
	sigaddset(set, LEASE_SIGNAL);
	sigaddset(set, SIGIO); /* what the kernel sends when the queue of the other is full */
}

int hasher_block_signals(void)
{
	sigset_t set;
	lease_signals(&set);
	return sigprocmask(SIG_BLOCK, &set, NULL) < 0 ? -errno : 0;
}

int hasher_new(uv_loop_t *loop, struct hasher **ret)
{
	sigset_t set;
	_cleanup_free_ struct hasher *h = calloc(1, sizeof(*h));
	if (!h)
		return -ENOMEM;
	pthread_mutex_init(&h->lock, NULL);
	pthread_cond_init(&h->read, NULL);
	TAILQ_INIT(&h->files);
	TAILQ_INIT(&h->reading);
	lease_signals(&set);
	h->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (h->signals < 0)
		return -errno;
	int r = uv_poll_init(loop, &h->poll, h->signals);
	if (r < 0) {
		close(h->signals);
		return r;
	}
	h->poll.data = h;
	uv_poll_start(&h->poll, UV_READABLE, on_signal);
	*ret = take_ptr(h);
	return 0;
}
