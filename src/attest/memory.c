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

#define MEMORY_MAGIC 0x62656c61792d6d32 /* layout version 2 */

struct start {
	char name[64];
	uint16_t script; /* 0: none; else one more than its place in the table */
	uint8_t interpreter, starting;
};

/* Never changed while a start names it. */
struct script_facts {
	char path[512];
	struct digest sha256;
};

struct table {
	uint64_t magic;
	uint64_t high; /* no slot from here on was ever used */
	struct memory_key keys[MEMORY_SLOTS];
	struct start starts[MEMORY_SLOTS];
	struct script_facts scripts[MEMORY_SCRIPTS];
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

static bool same_script(const struct script_facts *s, const struct memory_facts *f)
{
	return strcmp(s->path, f->script_path) == 0 && digest_equal(&s->sha256, &f->script_sha256);
}

/* A place no start names, whether of a living process or not; negative: none. */
static int script_free(const struct table *t, int limit)
{
	bool named[MEMORY_SCRIPTS + 1] = {false};
	for (size_t s = 0; s < t->high; s++)
		if (t->keys[s].used && t->starts[s].script <= MEMORY_SCRIPTS)
			named[t->starts[s].script] = true;
	for (int i = 0; i < limit; i++)
		if (!named[i + 1])
			return i;
	return -1;
}

/*
 * 0: it has none; negative: there is no room for one more. A path, which is for people, has many
 * spellings: when its part of the table is full it is left out, and the digest counts as ever.
 */
static int script_put(struct table *t, const struct memory_facts *f)
{
	if (!f->script_path[0] && digest_is_none(&f->script_sha256))
		return 0;
	for (int i = 0; i < MEMORY_SCRIPTS; i++)
		if (same_script(&t->scripts[i], f))
			return i + 1;
	int limit = f->script_path[0] ? MEMORY_SCRIPTS - MEMORY_PATHLESS : MEMORY_SCRIPTS;
	int i = script_free(t, limit);
	if (i < 0 && f->script_path[0]) {
		struct memory_facts pathless = {.script_sha256 = f->script_sha256};
		return script_put(t, &pathless);
	}
	if (i < 0)
		return -ENOSPC;
	memcpy(t->scripts[i].path, f->script_path, sizeof(t->scripts[i].path));
	t->scripts[i].sha256 = f->script_sha256;
	return i + 1;
}

static void facts_get(const struct table *t, size_t s, struct memory_facts *ret)
{
	const struct start *f = &t->starts[s];
	*ret = (struct memory_facts){.interpreter = f->interpreter, .starting = f->starting};
	memcpy(ret->name, f->name, sizeof(ret->name));
	if (!f->script || f->script > MEMORY_SCRIPTS)
		return;
	const struct script_facts *script = &t->scripts[f->script - 1];
	memcpy(ret->script_path, script->path, sizeof(ret->script_path));
	ret->script_sha256 = script->sha256;
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
	int script = s < 0 ? s : script_put(t, facts);
	if (script < 0)
		return -ENOSPC;
	/* Killed in the middle, the slot is free rather than half true. */
	__atomic_store_n(&t->keys[s].used, 0, __ATOMIC_SEQ_CST);
	t->starts[s] = (struct start){.script = (uint16_t)script,
		.interpreter = facts->interpreter,
		.starting = facts->starting};
	memcpy(t->starts[s].name, facts->name, sizeof(facts->name));
	struct memory_key k = *key;
	k.used = 0;
	t->keys[s] = k;
	if ((uint64_t)s + 1 > t->high)
		t->high = (uint64_t)s + 1;
	__atomic_store_n(&t->keys[s].used, 1, __ATOMIC_SEQ_CST);
	return 0;
}

/* Equal scripts have one place. */
static bool same_start(const struct start *a, const struct start *b)
{
	return strcmp(a->name, b->name) == 0 && a->script == b->script &&
	       a->interpreter == b->interpreter && a->starting == b->starting;
}

static bool last(const struct table *t, uint32_t pid, uint64_t start_time, struct memory_facts *ret)
{
	const struct memory_key key = {.pid = pid, .start_time = start_time};
	for (size_t i = 0; i < MEMORY_PROBES; i++) {
		size_t s = slot_of(pid, i);
		if (!same_process(&t->keys[s], &key))
			continue;
		facts_get(t, s, ret);
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
		facts_get(t, s, ret);
		return true;
	}
	const struct start *found = NULL;
	size_t at = 0;
	for (size_t s = 0; s < t->high; s++) {
		const struct memory_key *k = &t->keys[s];
		if (!k->used || k->start_time > key->start_time || !same_image(k, key))
			continue;
		if (found && !same_start(found, &t->starts[s]))
			return false;
		found = &t->starts[s];
		at = s;
	}
	if (found)
		facts_get(t, at, ret);
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
