/*
 * The Merkle tree of RFC 6962 as it grows at its right edge, and its rows as tiles of 256 hashes.
 * Pure. peak[k] is the root of a perfect subtree of 2^k leaves wherever bit k of size is set;
 * row[l] holds the hashes of the last tile of level l (each stands for 256^l leaves). A full row
 * stays until the next hash of that level, so that the caller can store it.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define TREE_HASH_LEN 32
#define TREE_TILE 256 /* hashes in a full tile */
#define TREE_LEVELS 7
#define TREE_SIZE_MAX ((uint64_t)1 << 55)

struct tree_row {
	unsigned n;
	uint8_t hash[TREE_TILE][TREE_HASH_LEN];
};

struct tree {
	uint64_t size;
	uint8_t peak[64][TREE_HASH_LEN];
	struct tree_row row[TREE_LEVELS];
};

void tree_leaf_hash(const void *entry, size_t len, uint8_t ret[TREE_HASH_LEN]);
void tree_node_hash(const uint8_t left[TREE_HASH_LEN], const uint8_t right[TREE_HASH_LEN],
	uint8_t ret[TREE_HASH_LEN]);
void tree_init(struct tree *t);
void tree_append(struct tree *t, const uint8_t leaf[TREE_HASH_LEN]);
void tree_root(const struct tree *t, uint8_t ret[TREE_HASH_LEN]);
/* Root of n hashes, n a power of two at most TREE_TILE. */
void tree_perfect_root(
	const uint8_t (*hash)[TREE_HASH_LEN], unsigned n, uint8_t ret[TREE_HASH_LEN]);
/* Number of the tile row[level] belongs to: of its last hash. Only when the row is not empty. */
uint64_t tree_row_tile(const struct tree *t, unsigned level);
/* Sets size and peaks after the rows of levels >= 1 were filled in for a size that is a multiple of
 * TREE_TILE. */
void tree_resume(struct tree *t, uint64_t size);
/* Root that an inclusion path proves for leaf `index` of `size` (RFC 9162, 2.1.3.2). -1 if its
 * length is wrong. */
int tree_inclusion_root(uint64_t index, uint64_t size, const uint8_t leaf[TREE_HASH_LEN],
	const uint8_t (*path)[TREE_HASH_LEN], size_t n, uint8_t ret[TREE_HASH_LEN]);
