/*
 * Hashes of files and what keeps them true (hash.h). Input: files any program chose to run or map.
 * Invariant: a remembered digest is served only if, at that moment, its lease is whole (asked of
 * the kernel, not of a signal that may still be under way) or the file is settled and its stat is
 * the one it was hashed with. Cost of a hit: fstat and fcntl. Of a miss: open, lease, the reading,
 * four more system calls.
 */
#include "attest/hash.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "crypto/sha256.h"

#define LEASE_SIGNAL SIGRTMIN
#define READ_CHUNK (256u * 1024)

struct hash_wait {
	STAILQ_ENTRY(hash_wait) link;
	hash_fn fn;
	void *ctx;
};

/* A file remembered, or being read. */
struct file {
	TAILQ_ENTRY(file) link;
	struct stat st; /* from before it was read */
	struct digest digest;
	int fd;       /* holds the lease; -1 when settled only */
	bool settled; /* as the caller found when it was hashed */
};

struct job {
	uv_work_t work;
	LIST_ENTRY(job) link;
	struct hasher *hasher;
	struct file *file;
	bool leased;
	int error;
	STAILQ_HEAD(, hash_wait) waits;
};

struct hasher {
	uv_loop_t *loop;
	TAILQ_HEAD(files, file) files; /* most recently used first */
	LIST_HEAD(, job) jobs;
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
		close(f->fd);
	}
	free(f);
}

static void file_freep(struct file **f)
{
	file_free(*f);
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

static void file_keep(struct hasher *h, struct file *f)
{
	while (h->stats.entries >= HASH_ENTRIES_MAX)
		file_drop(h, TAILQ_LAST(&h->files, files));
	TAILQ_INSERT_HEAD(&h->files, f, link);
	h->stats.entries++;
	h->stats.leases += f->fd >= 0;
}

/* A remembered digest that holds right now; what no longer holds is dropped. */
static struct file *file_find(struct hasher *h, const struct stat *st, bool settled)
{
	struct file *f;
	TAILQ_FOREACH (f, &h->files, link)
		if (same_file(&f->st, st))
			break;
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

/* What was read is the file's content only if nothing happened to it meanwhile. */
static int file_settle(struct hasher *h, struct file *f, bool leased, bool *ret_kept)
{
	struct stat now;
	*ret_kept = false;
	if (fstat(f->fd, &now) < 0)
		return -errno;
	if (!same_content(&f->st, &now) || (leased && !lease_whole(f->fd))) {
		h->stats.broken++;
		return -EAGAIN;
	}
	if (!leased) {
		close(f->fd);
		f->fd = -1;
	}
	*ret_kept = leased || f->settled;
	return 0;
}

/*
 * A lease, if the file can have one. 1: yes; 0: not here (another's file, or this file system has
 * none); -ETXTBSY: somebody has it open for writing or mapped writable and shared.
 */
static int file_lease(struct file *f)
{
	if (fcntl(f->fd, F_SETLEASE, F_RDLCK) < 0)
		return errno == EAGAIN ? -ETXTBSY : 0;
	/* Which signal a break sends; until here it would be SIGIO, which is blocked and watched
	 * too. */
	(void)fcntl(f->fd, F_SETSIG, LEASE_SIGNAL);
	return 1;
}

static int file_open(int fd, const struct stat *st, bool settled, struct file **ret)
{
	char path[64];
	if (!S_ISREG(st->st_mode))
		return -EINVAL;
	if (st->st_size < 0 || (uint64_t)st->st_size > HASH_FILE_MAX)
		return -EFBIG;
	struct file *f = calloc(1, sizeof(*f));
	if (!f)
		return -ENOMEM;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	f->settled = settled;
	f->fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	if (f->fd < 0 || fstat(f->fd, &f->st) < 0 || !same_file(&f->st, st)) {
		int r = f->fd < 0 ? -errno : -ESTALE;
		file_free(f);
		return r;
	}
	*ret = f;
	return 0;
}

/* ---- jobs ---- */

static void job_work(uv_work_t *w)
{
	struct job *j = w->data;
	j->error = file_read(j->file);
}

static void job_done(uv_work_t *w, int status)
{
	struct job *j = w->data;
	struct hasher *h = j->hasher;
	struct file *f = j->file;
	bool keep = false;
	int r = status < 0 ? status : j->error;
	if (r == 0)
		r = file_settle(h, f, j->leased, &keep);
	struct digest d = f->digest;
	LIST_REMOVE(j, link);
	h->stats.jobs--;
	if (keep)
		file_keep(h, f);
	else
		file_free(f);
	while (!STAILQ_EMPTY(&j->waits)) {
		struct hash_wait *q = STAILQ_FIRST(&j->waits);
		STAILQ_REMOVE_HEAD(&j->waits, link);
		if (q->fn)
			q->fn(q->ctx, r, &d);
		free(q);
	}
	free(j);
}

static int job_wait(struct job *j, hash_fn fn, void *ctx)
{
	struct hash_wait *q = calloc(1, sizeof(*q));
	if (!q)
		return -ENOMEM;
	q->fn = fn;
	q->ctx = ctx;
	STAILQ_INSERT_TAIL(&j->waits, q, link);
	return -EINPROGRESS;
}

/* One that reads this very content, under a guarantee that it stays. */
static struct job *job_find(struct hasher *h, const struct stat *st)
{
	struct job *j;
	LIST_FOREACH (j, &h->jobs, link)
		if ((j->leased ? lease_whole(j->file->fd) : j->file->settled) &&
			same_content(&j->file->st, st))
			return j;
	return NULL;
}

/* Takes f in any case. */
static int job_start(struct hasher *h, struct file *f, bool leased, hash_fn fn, void *ctx)
{
	struct job *j = h->stats.jobs < HASH_JOBS_MAX ? calloc(1, sizeof(*j)) : NULL;
	int r = h->stats.jobs < HASH_JOBS_MAX ? -ENOMEM : -EBUSY;
	if (!j) {
		file_free(f);
		return r;
	}
	STAILQ_INIT(&j->waits);
	j->hasher = h;
	j->file = f;
	j->leased = leased;
	j->work.data = j;
	r = job_wait(j, fn, ctx);
	if (r == -EINPROGRESS) {
		int k = uv_queue_work(h->loop, &j->work, job_work, job_done);
		if (k == 0) {
			LIST_INSERT_HEAD(&h->jobs, j, link);
			h->stats.jobs++;
			return r;
		}
		free(STAILQ_FIRST(&j->waits));
		r = k;
	}
	file_free(f);
	free(j);
	return r;
}

int hash_get(struct hasher *h, int fd, bool settled, struct digest *ret, hash_fn fn, void *ctx)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	struct file *known = file_find(h, &st, settled);
	if (known) {
		h->stats.hits++;
		*ret = known->digest;
		return 0;
	}
	struct job *j = job_find(h, &st);
	if (j)
		return job_wait(j, fn, ctx);
	h->stats.misses++;
	_cleanup_(file_freep) struct file *f = NULL;
	int r = file_open(fd, &st, settled, &f);
	if (r < 0)
		return r;
	int leased = file_lease(f);
	if (leased < 0)
		return leased;
	/* Again, now that nobody can write it: what is hashed is what this stat describes. */
	if (fstat(f->fd, &f->st) < 0)
		return -errno;
	if ((uint64_t)f->st.st_size > HASH_INLINE_MAX)
		return job_start(h, take_ptr(f), leased, fn, ctx);
	bool keep;
	r = file_read(f);
	if (r == 0)
		r = file_settle(h, f, leased, &keep);
	if (r < 0)
		return r;
	*ret = f->digest;
	if (keep)
		file_keep(h, take_ptr(f));
	return 0;
}

void hash_forget(struct hasher *h, void *ctx)
{
	struct job *j;
	struct hash_wait *q;
	LIST_FOREACH (j, &h->jobs, link)
		STAILQ_FOREACH (q, &j->waits, link)
			if (q->ctx == ctx)
				q->fn = NULL;
}

void hash_stats(const struct hasher *h, struct hash_stats *ret)
{
	*ret = h->stats;
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
	struct job *j;
	LIST_FOREACH (j, &h->jobs, link)
		if (j->leased && !lease_whole(j->file->fd))
			(void)fcntl(j->file->fd, F_SETLEASE, F_UNLCK);
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
	h->loop = loop;
	TAILQ_INIT(&h->files);
	LIST_INIT(&h->jobs);
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
