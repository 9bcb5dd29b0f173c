/* The growing Merkle tree (tree.h). Cost of an append: two hashes on average, no allocation, no
 * system call. */
#include "audit/tree.h"

#include <string.h>

#include "crypto/sha256.h"

void tree_leaf_hash(const void *entry, size_t len, uint8_t ret[TREE_HASH_LEN])
{
	struct sha256 h;
	sha256_init(&h);
	sha256_update(&h, "\x00", 1);
	sha256_update(&h, entry, len);
	sha256_final(&h, ret);
}

void tree_node_hash(const uint8_t left[TREE_HASH_LEN], const uint8_t right[TREE_HASH_LEN],
	uint8_t ret[TREE_HASH_LEN])
{
	uint8_t b[1 + 2 * TREE_HASH_LEN] = {1};
	memcpy(b + 1, left, TREE_HASH_LEN);
	memcpy(b + 1 + TREE_HASH_LEN, right, TREE_HASH_LEN);
	sha256_of(b, sizeof(b), ret);
}

void tree_init(struct tree *t)
{
	memset(t, 0, sizeof(*t));
}

static void row_push(struct tree *t, unsigned level, const uint8_t hash[TREE_HASH_LEN])
{
	if (level >= TREE_LEVELS)
		return;
	struct tree_row *r = &t->row[level];
	if (r->n == TREE_TILE)
		r->n = 0;
	memcpy(r->hash[r->n++], hash, TREE_HASH_LEN);
}

void tree_append(struct tree *t, const uint8_t leaf[TREE_HASH_LEN])
{
	uint8_t h[TREE_HASH_LEN];
	unsigned k = 0;
	memcpy(h, leaf, TREE_HASH_LEN);
	row_push(t, 0, h);
	for (; t->size >> k & 1; k++) {
		tree_node_hash(t->peak[k], h, h);
		if ((k + 1) % 8 == 0)
			row_push(t, (k + 1) / 8, h);
	}
	memcpy(t->peak[k], h, TREE_HASH_LEN);
	t->size++;
}

void tree_root(const struct tree *t, uint8_t ret[TREE_HASH_LEN])
{
	bool any = false;
	if (!t->size)
		sha256_of("", 0, ret);
	for (unsigned k = 0; k < 64; k++) {
		if (!(t->size >> k & 1))
			continue;
		if (any)
			tree_node_hash(t->peak[k], ret, ret);
		else
			memcpy(ret, t->peak[k], TREE_HASH_LEN);
		any = true;
	}
}

void tree_perfect_root(const uint8_t (*hash)[TREE_HASH_LEN], unsigned n, uint8_t ret[TREE_HASH_LEN])
{
	uint8_t h[TREE_TILE][TREE_HASH_LEN];
	memcpy(h, hash, (size_t)n * TREE_HASH_LEN);
	for (; n > 1; n /= 2)
		for (unsigned i = 0; i < n / 2; i++)
			tree_node_hash(h[2 * i], h[2 * i + 1], h[i]);
	memcpy(ret, h[0], TREE_HASH_LEN);
}

uint64_t tree_row_tile(const struct tree *t, unsigned level)
{
	return ((t->size >> (8 * level)) - 1) / TREE_TILE;
}

void tree_resume(struct tree *t, uint64_t size)
{
	t->size = size;
	t->row[0].n = 0;
	for (unsigned l = 1; l < TREE_LEVELS; l++) {
		unsigned done = 0;
		for (unsigned b = 8; b-- > 0;) {
			if (!(t->row[l].n >> b & 1))
				continue;
			tree_perfect_root((const uint8_t(*)[TREE_HASH_LEN])t->row[l].hash + done,
				1u << b, t->peak[8 * l + b]);
			done += 1u << b;
		}
	}
}

int tree_inclusion_root(uint64_t index, uint64_t size, const uint8_t leaf[TREE_HASH_LEN],
	const uint8_t (*path)[TREE_HASH_LEN], size_t n, uint8_t ret[TREE_HASH_LEN])
{
	if (index >= size)
		return -1;
	uint64_t fn = index, sn = size - 1;
	memcpy(ret, leaf, TREE_HASH_LEN);
	for (size_t i = 0; i < n; i++) {
		if (!sn)
			return -1;
		if ((fn & 1) || fn == sn) {
			tree_node_hash(path[i], ret, ret);
			while (!(fn & 1) && fn) {
				fn >>= 1;
				sn >>= 1;
			}
		} else {
			tree_node_hash(ret, path[i], ret);
		}
		fn >>= 1;
		sn >>= 1;
	}
	return sn ? -1 : 0;
}
