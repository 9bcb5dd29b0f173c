/*
 * The state table's bytes (state.h). The memory is read as if a stranger had written it: a
 * successor of another version, a half-written record, a flipped bit. Nothing in it is followed: a
 * record is a length and a payload inside its own slots: one, or two where it is long. Which slots
 * begin a record is known from our own copy of that, made at the start from checked records only.
 *
 * Cost: put is one scan from a hint for free slots, one copy of at most 1 KiB, one keyed hash.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <sodium.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "guard/state.h"

#define STATE_MAGIC 0x31535942u /* "BYS1" */
#define STATE_VERSION 2u

struct state_header {
	uint32_t magic, version, slot_len, slots;
	uint8_t key[STATE_KEY_LEN];
	uint8_t sum[crypto_shorthash_BYTES];
};

#define SPAN_MAX 2u
#define TAIL 0xffu /* not the first slot of its record */

struct state_record {
	_Atomic uint32_t valid; /* 1: counts. Written last, cleared first */
	uint32_t len;
	uint8_t sum[crypto_shorthash_BYTES];
	uint64_t logged; /* its beginning is in the audit log */
	uint8_t payload[STATE_PAYLOAD_MAX];
};
#define RECORD_HEAD offsetof(struct state_record, payload)
static_assert(sizeof(struct state_record) == SPAN_MAX * STATE_SLOT_LEN, "records do not drift");
static_assert(crypto_shorthash_KEYBYTES == STATE_KEY_LEN, "the table's key is SipHash's");

struct state_table {
	uint8_t *memory;                   /* slot 0 is the header */
	uint8_t key[STATE_KEY_LEN];        /* our copy: the memory is not believed twice */
	uint8_t span[STATE_SLOTS_MAX + 1]; /* 0: free; 1, 2: slots of the record that begins here;
					      TAIL. The last one is no slot and never free */
	size_t n_used;
	uint32_t hint[SPAN_MAX + 1], high; /* no room for a record of so many slots before */
};

static struct state_record *record_at(const struct state_table *t, uint32_t slot)
{
	return (struct state_record *)(void *)(t->memory + (size_t)slot * STATE_SLOT_LEN);
}

static uint32_t slots_for(size_t len)
{
	return (uint32_t)((RECORD_HEAD + len + STATE_SLOT_LEN - 1) / STATE_SLOT_LEN);
}

static void header_sum(const struct state_header *h, uint8_t sum[crypto_shorthash_BYTES])
{
	crypto_shorthash(sum, (const uint8_t *)h, offsetof(struct state_header, sum), h->key);
}

static bool header_ok(const struct state_header *h)
{
	uint8_t sum[crypto_shorthash_BYTES];
	header_sum(h, sum);
	return h->magic == STATE_MAGIC && h->version == STATE_VERSION &&
	       h->slot_len == STATE_SLOT_LEN && h->slots == STATE_SLOTS_MAX &&
	       !memcmp(sum, h->sum, sizeof(sum));
}

static void record_sum(const struct state_table *t, uint32_t slot, uint32_t len,
	const uint8_t *payload, uint8_t sum[crypto_shorthash_BYTES])
{
	uint8_t text[8 + STATE_PAYLOAD_MAX];
	memcpy(text, &slot, 4);
	memcpy(text + 4, &len, 4);
	memcpy(text + 8, payload, len);
	crypto_shorthash(sum, text, 8 + len, t->key);
}

/* Length and payload of what lies there, 0 unless it is whole. */
static size_t record_read(const struct state_table *t, uint32_t slot, const void **ret)
{
	const struct state_record *r = record_at(t, slot);
	uint8_t sum[crypto_shorthash_BYTES];
	if (r->valid != 1)
		return 0;
	uint32_t len = r->len;
	if (len == 0 || len > STATE_PAYLOAD_MAX || slot + slots_for(len) > STATE_SLOTS_MAX)
		return 0;
	record_sum(t, slot, len, r->payload, sum);
	if (memcmp(sum, r->sum, sizeof(sum)))
		return 0;
	*ret = r->payload;
	return len;
}

static void span_set(struct state_table *t, uint32_t slot, uint32_t n)
{
	t->span[slot] = (uint8_t)n;
	for (uint32_t i = 1; i < n; i++)
		t->span[slot + i] = TAIL;
	t->n_used++;
	if (slot + n > t->high)
		t->high = slot + n;
}

/* A void table: one hole over everything, then the header. The memory behind a hole costs nothing.
 */
static int table_format(struct state_table *t, int memfd)
{
	if (fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
		    (off_t)STATE_MEMORY_LEN) < 0)
		return -errno;
	struct state_header h = {.magic = STATE_MAGIC,
		.version = STATE_VERSION,
		.slot_len = STATE_SLOT_LEN,
		.slots = STATE_SLOTS_MAX};
	randombytes_buf(h.key, sizeof(h.key));
	header_sum(&h, h.sum);
	memcpy(t->memory, &h, sizeof(h));
	return 0;
}

/* Finds the records of a predecessor. Holes, never written, are skipped by their file offset. */
static void table_scan(struct state_table *t, int memfd)
{
	const void *p;
	uint32_t i = 1;
	for (off_t at = lseek(memfd, STATE_SLOT_LEN, SEEK_DATA); at >= 0;) {
		off_t end = lseek(memfd, at, SEEK_HOLE);
		uint32_t from = (uint32_t)((size_t)at / STATE_SLOT_LEN), n;
		for (i = i > from ? i : from;
			i < STATE_SLOTS_MAX && (off_t)i * STATE_SLOT_LEN < end; i += n) {
			size_t len = record_read(t, i, &p);
			n = len ? slots_for(len) : 1;
			if (len)
				span_set(t, i, n);
		}
		at = end > at ? lseek(memfd, end, SEEK_DATA) : -1;
	}
}

int state_table_open(int memfd, struct state_table **ret, bool *ret_fresh)
{
	struct stat st;
	if (sodium_init() < 0)
		return -EIO;
	if (fstat(memfd, &st) < 0)
		return -errno;
	struct state_table *t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	/* Its size is sealed by who made it: no predecessor's mapping of ours can be made to fault.
	 */
	int r = (size_t)st.st_size == STATE_MEMORY_LEN ? 0 : -EINVAL;
	void *p = r ? MAP_FAILED
		    : mmap(NULL, STATE_MEMORY_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (p == MAP_FAILED) {
		r = r ? r : -errno;
		free(t);
		return r;
	}
	t->memory = p;
	bool fresh = !header_ok(p);
	r = fresh ? table_format(t, memfd) : 0;
	if (r < 0) {
		state_table_close(t);
		return r;
	}
	memcpy(t->key, ((const struct state_header *)p)->key, sizeof(t->key));
	t->high = t->hint[1] = t->hint[2] = 1;
	t->span[0] = t->span[STATE_SLOTS_MAX] = TAIL;
	if (!fresh)
		table_scan(t, memfd);
	*ret = t;
	*ret_fresh = fresh;
	return 0;
}

void state_table_close(struct state_table *t)
{
	if (!t)
		return;
	munmap(t->memory, STATE_MEMORY_LEN);
	secret_zero(t->key, sizeof(t->key));
	free(t);
}

const uint8_t *state_table_key(const struct state_table *t)
{
	return t->key;
}

/* Return: the first of n free slots in a row, 0: there are none. */
static uint32_t slots_find(struct state_table *t, uint32_t n)
{
	for (uint32_t i = t->hint[n]; i < STATE_SLOTS_MAX; i++)
		if (!t->span[i] && (n == 1 || !t->span[i + 1])) {
			t->hint[n] = i + n;
			return i;
		}
	t->hint[n] = STATE_SLOTS_MAX;
	return 0;
}

int state_table_put(struct state_table *t, const void *payload, size_t len)
{
	if (len == 0 || len > STATE_PAYLOAD_MAX)
		return -EMSGSIZE;
	uint32_t n = slots_for(len), slot = slots_find(t, n);
	if (!slot)
		return -ENOSPC;
	struct state_record *r = record_at(t, slot);
	atomic_store_explicit(&r->valid, 0, memory_order_seq_cst);
	r->len = (uint32_t)len;
	r->logged = 0;
	memcpy(r->payload, payload, len);
	record_sum(t, slot, r->len, r->payload, r->sum);
	atomic_store_explicit(&r->valid, 1, memory_order_seq_cst);
	span_set(t, slot, n);
	return (int)slot;
}

static bool is_record(const struct state_table *t, int slot)
{
	return slot > 0 && (uint32_t)slot < STATE_SLOTS_MAX && t->span[slot] &&
	       t->span[slot] != TAIL;
}

void state_table_drop(struct state_table *t, int slot)
{
	if (!is_record(t, slot))
		return;
	uint32_t at = (uint32_t)slot, n = t->span[at];
	atomic_store_explicit(&record_at(t, at)->valid, 0, memory_order_seq_cst);
	memset(t->span + at, 0, n);
	t->n_used--;
	/* Low slots are used again first, so that the table touches few pages. What is free now may
	 * make a pair with the slot before. */
	if (at < t->hint[1])
		t->hint[1] = at;
	if (at - 1 < t->hint[2])
		t->hint[2] = at - 1;
}

size_t state_table_get(const struct state_table *t, int slot, const void **ret)
{
	return is_record(t, slot) ? record_read(t, (uint32_t)slot, ret) : 0;
}

void state_table_set_logged(struct state_table *t, int slot)
{
	record_at(t, (uint32_t)slot)->logged = 1;
}

bool state_table_logged(const struct state_table *t, int slot)
{
	return record_at(t, (uint32_t)slot)->logged == 1;
}

size_t state_table_used(const struct state_table *t)
{
	return t->n_used;
}

int state_table_slots(const struct state_table *t)
{
	return (int)t->high;
}
