/* The memory of images' starts (memory.h). Cost of a look-up: 32 slots, for a fork's first the keys
 * of all. */
#include "attest/memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MEMORY_MAGIC 0x62656c61792d6d31 /* layout version 1 */

struct table {
	uint64_t magic;
	uint64_t high; /* no slot from here on was ever used */
	struct memory_key keys[MEMORY_SLOTS];
	struct memory_facts facts[MEMORY_SLOTS];
};

struct memory {
	struct table *table;
	int fd;
	pthread_mutex_t lock; /* held while nothing can wait */
};

int memory_open(int fd, struct memory **ret, int *ret_fd)
{
	struct stat st;
	_cleanup_close_ int own = fd >= 0 ? fd : memfd_create("belay-attest", MFD_CLOEXEC);
	_cleanup_free_ struct memory *m = calloc(1, sizeof(*m));
	if (own < 0 || !m)
		return own < 0 ? -errno : -ENOMEM;
	if (fd < 0 && ftruncate(own, sizeof(struct table)) < 0)
		return -errno;
	if (fstat(own, &st) < 0 || st.st_size != sizeof(struct table))
		return -EINVAL;
	/* Pages cost memory only once they are used. */
	void *p = mmap(NULL, sizeof(struct table), PROT_READ | PROT_WRITE, MAP_SHARED, own, 0);
	if (p == MAP_FAILED)
		return -errno;
	m->table = p;
	if (fd < 0)
		m->table->magic = MEMORY_MAGIC;
	if (m->table->magic != MEMORY_MAGIC || m->table->high > MEMORY_SLOTS) {
		munmap(p, sizeof(struct table));
		return -EINVAL;
	}
	pthread_mutex_init(&m->lock, NULL);
	*ret_fd = m->fd = take_fd(&own);
	*ret = take_ptr(m);
	return 0;
}

void memory_close(struct memory *m)
{
	if (!m)
		return;
	munmap(m->table, sizeof(struct table));
	close(m->fd);
	free(m);
}

static size_t slot_of(uint32_t pid, size_t probe)
{
	return (pid + probe) % MEMORY_SLOTS;
}

static bool same_process(const struct memory_key *a, const struct memory_key *b)
{
	return a->used && a->pid == b->pid && a->start_time == b->start_time;
}

static bool same_image(const struct memory_key *a, const struct memory_key *b)
{
	return a->exe_dev == b->exe_dev && a->exe_ino == b->exe_ino &&
	       a->image.code == b->image.code && a->image.stack == b->image.stack &&
	       a->image.arguments == b->image.arguments;
}

/* The process's slot, else a free one, else one whose process is gone; negative: none. */
static int slot_for(const struct table *t, const struct memory_key *key, memory_alive_fn alive)
{
	int best = -1;
	for (size_t i = 0; i < MEMORY_PROBES; i++) {
		size_t s = slot_of(key->pid, i);
		if (same_process(&t->keys[s], key))
			return (int)s;
		if (best < 0 && !t->keys[s].used)
			best = (int)s;
	}
	/* A dead parent's entry still serves its forks: it goes only when room is needed. */
	for (size_t i = 0; best < 0 && i < MEMORY_PROBES; i++) {
		size_t s = slot_of(key->pid, i);
		if (!alive(t->keys[s].pid, t->keys[s].start_time))
			best = (int)s;
	}
	return best;
}

static int put(struct table *t, const struct memory_key *key, const struct memory_facts *facts,
	memory_alive_fn alive)
{
	int s = slot_for(t, key, alive);
	if (s < 0)
		return -ENOSPC;
	/* Killed in the middle, the slot is free rather than half true. */
	__atomic_store_n(&t->keys[s].used, 0, __ATOMIC_SEQ_CST);
	t->facts[s] = *facts;
	struct memory_key k = *key;
	k.used = 0;
	t->keys[s] = k;
	if ((uint64_t)s + 1 > t->high)
		t->high = (uint64_t)s + 1;
	__atomic_store_n(&t->keys[s].used, 1, __ATOMIC_SEQ_CST);
	return 0;
}

static bool same_facts(const struct memory_facts *a, const struct memory_facts *b)
{
	return strcmp(a->name, b->name) == 0 && strcmp(a->script_path, b->script_path) == 0 &&
	       digest_equal(&a->script_sha256, &b->script_sha256) &&
	       a->interpreter == b->interpreter && a->starting == b->starting;
}

static bool last(const struct table *t, uint32_t pid, uint64_t start_time, struct memory_facts *ret)
{
	const struct memory_key key = {.pid = pid, .start_time = start_time};
	for (size_t i = 0; i < MEMORY_PROBES; i++) {
		size_t s = slot_of(pid, i);
		if (!same_process(&t->keys[s], &key))
			continue;
		*ret = t->facts[s];
		return true;
	}
	return false;
}

static bool get(const struct table *t, const struct memory_key *key, struct memory_facts *ret)
{
	for (size_t i = 0; i < MEMORY_PROBES; i++) {
		size_t s = slot_of(key->pid, i);
		if (!same_process(&t->keys[s], key))
			continue;
		/* Its own entry decides alone: for another image it means an exec nobody told us
		 * of. */
		if (!same_image(&t->keys[s], key))
			return false;
		*ret = t->facts[s];
		return true;
	}
	const struct memory_facts *found = NULL;
	for (size_t s = 0; s < t->high; s++) {
		const struct memory_key *k = &t->keys[s];
		if (!k->used || k->start_time > key->start_time || !same_image(k, key))
			continue;
		if (found && !same_facts(found, &t->facts[s]))
			return false;
		found = &t->facts[s];
	}
	if (found)
		*ret = *found;
	return found != NULL;
}

int memory_put(struct memory *m, const struct memory_key *key, const struct memory_facts *facts,
	memory_alive_fn alive)
{
	pthread_mutex_lock(&m->lock);
	int r = put(m->table, key, facts, alive);
	pthread_mutex_unlock(&m->lock);
	return r;
}

bool memory_get(struct memory *m, const struct memory_key *key, struct memory_facts *ret)
{
	pthread_mutex_lock(&m->lock);
	bool found = get(m->table, key, ret);
	pthread_mutex_unlock(&m->lock);
	return found;
}

bool memory_last(struct memory *m, uint32_t pid, uint64_t start_time, struct memory_facts *ret)
{
	pthread_mutex_lock(&m->lock);
	bool found = last(m->table, pid, start_time, ret);
	pthread_mutex_unlock(&m->lock);
	return found;
}
