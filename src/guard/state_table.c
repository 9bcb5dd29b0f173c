/*
 * The state table's bytes (state.h). The memory is read as if a stranger had written it: a
 * successor of another version, a half-written record, a flipped bit. Nothing in it is followed: a
 * record is a length and a payload inside its own slot.
 *
 * Cost: put is one scan from a hint for a free slot, one copy of at most 1 KiB, one keyed hash.
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
#define STATE_VERSION 1u

struct state_header {
	uint32_t magic, version, record_len, records;
	uint8_t key[STATE_KEY_LEN];
	uint8_t sum[crypto_shorthash_BYTES];
};

struct state_record {
	_Atomic uint32_t valid; /* 1: counts. Written last, cleared first */
	uint32_t len;
	uint8_t sum[crypto_shorthash_BYTES];
	uint64_t logged; /* its beginning is in the audit log */
	uint8_t payload[STATE_PAYLOAD_MAX];
};
static_assert(sizeof(struct state_record) == STATE_RECORD_LEN, "records do not drift");
static_assert(crypto_shorthash_KEYBYTES == STATE_KEY_LEN, "the table's key is SipHash's");

struct state_table {
	struct state_record *records; /* [0] is the header */
	uint8_t key[STATE_KEY_LEN];   /* our copy: the memory is not believed twice */
	uint8_t used[STATE_RECORDS_MAX / 8];
	size_t n_used;
	uint32_t hint, high;
};

#define MAP_LEN ((size_t)STATE_RECORDS_MAX * STATE_RECORD_LEN)

static void header_sum(const struct state_header *h, uint8_t sum[crypto_shorthash_BYTES])
{
	crypto_shorthash(sum, (const uint8_t *)h, offsetof(struct state_header, sum), h->key);
}

static bool header_ok(const struct state_header *h)
{
	uint8_t sum[crypto_shorthash_BYTES];
	header_sum(h, sum);
	return h->magic == STATE_MAGIC && h->version == STATE_VERSION &&
	       h->record_len == STATE_RECORD_LEN && h->records == STATE_RECORDS_MAX &&
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

static bool is_used(const struct state_table *t, uint32_t slot)
{
	return t->used[slot / 8] & (1u << (slot % 8));
}

static void set_used(struct state_table *t, uint32_t slot, bool used)
{
	if (is_used(t, slot) == used)
		return;
	t->used[slot / 8] = (uint8_t)(t->used[slot / 8] ^ (1u << (slot % 8)));
	t->n_used = used ? t->n_used + 1 : t->n_used - 1;
	if (used && slot >= t->high)
		t->high = slot + 1;
}

/* A void table: one hole over everything, then the header. The memory behind a hole costs nothing.
 */
static int table_format(struct state_table *t, int memfd)
{
	if (fallocate(memfd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)MAP_LEN) < 0)
		return -errno;
	struct state_header h = {.magic = STATE_MAGIC,
		.version = STATE_VERSION,
		.record_len = STATE_RECORD_LEN,
		.records = STATE_RECORDS_MAX};
	randombytes_buf(h.key, sizeof(h.key));
	header_sum(&h, h.sum);
	memcpy(t->records, &h, sizeof(h));
	return 0;
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
	int r = (size_t)st.st_size == MAP_LEN ? 0 : -EINVAL;
	void *p =
		r ? MAP_FAILED : mmap(NULL, MAP_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, memfd, 0);
	if (p == MAP_FAILED) {
		r = r ? r : -errno;
		free(t);
		return r;
	}
	t->records = p;
	bool fresh = !header_ok(p);
	r = fresh ? table_format(t, memfd) : 0;
	if (r < 0) {
		state_table_close(t);
		return r;
	}
	memcpy(t->key, ((const struct state_header *)p)->key, sizeof(t->key));
	t->hint = 1;
	t->high = 1;
	/* Reads one word of each page that was ever written; holes are skipped by their file
	 * offset. */
	for (off_t at = fresh ? -1 : lseek(memfd, STATE_RECORD_LEN, SEEK_DATA); at >= 0;) {
		off_t end = lseek(memfd, at, SEEK_HOLE);
		uint32_t i = (uint32_t)((size_t)at / STATE_RECORD_LEN);
		for (i = i ? i : 1; i < STATE_RECORDS_MAX && (off_t)i * STATE_RECORD_LEN < end; i++)
			if (t->records[i].valid)
				set_used(t, i, true);
		at = end > at ? lseek(memfd, end, SEEK_DATA) : -1;
	}
	*ret = t;
	*ret_fresh = fresh;
	return 0;
}

void state_table_close(struct state_table *t)
{
	if (!t)
		return;
	munmap(t->records, MAP_LEN);
	secret_zero(t->key, sizeof(t->key));
	free(t);
}

const uint8_t *state_table_key(const struct state_table *t)
{
	return t->key;
}

int state_table_put(struct state_table *t, const void *payload, size_t len)
{
	if (len == 0 || len > STATE_PAYLOAD_MAX)
		return -EMSGSIZE;
	if (t->n_used >= STATE_RECORDS_MAX - 1)
		return -ENOSPC;
	uint32_t slot = t->hint;
	while (is_used(t, slot))
		slot = slot + 1 < STATE_RECORDS_MAX ? slot + 1 : 1;
	struct state_record *r = &t->records[slot];
	atomic_store_explicit(&r->valid, 0, memory_order_seq_cst);
	r->len = (uint32_t)len;
	r->logged = 0;
	memcpy(r->payload, payload, len);
	record_sum(t, slot, r->len, r->payload, r->sum);
	atomic_store_explicit(&r->valid, 1, memory_order_seq_cst);
	set_used(t, slot, true);
	t->hint = slot + 1 < STATE_RECORDS_MAX ? slot + 1 : 1;
	return (int)slot;
}

void state_table_drop(struct state_table *t, int slot)
{
	if (slot <= 0 || (uint32_t)slot >= STATE_RECORDS_MAX)
		return;
	struct state_record *r = &t->records[slot];
	atomic_store_explicit(&r->valid, 0, memory_order_seq_cst);
	set_used(t, (uint32_t)slot, false);
	/* Reuse low slots first, so that the table touches few pages. */
	if ((uint32_t)slot < t->hint)
		t->hint = (uint32_t)slot;
}

size_t state_table_get(const struct state_table *t, int slot, const void **ret)
{
	if (slot <= 0 || (uint32_t)slot >= STATE_RECORDS_MAX)
		return 0;
	const struct state_record *r = &t->records[slot];
	uint32_t len = r->len;
	uint8_t sum[crypto_shorthash_BYTES];
	if (r->valid != 1 || len == 0 || len > STATE_PAYLOAD_MAX)
		return 0;
	record_sum(t, (uint32_t)slot, len, r->payload, sum);
	if (memcmp(sum, r->sum, sizeof(sum)))
		return 0;
	*ret = r->payload;
	return len;
}

void state_table_set_logged(struct state_table *t, int slot)
{
	t->records[slot].logged = 1;
}

bool state_table_logged(const struct state_table *t, int slot)
{
	return t->records[slot].logged == 1;
}

size_t state_table_used(const struct state_table *t)
{
	return t->n_used;
}

int state_table_slots(const struct state_table *t)
{
	return (int)t->high;
}
