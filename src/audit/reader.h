/*
 * Reads entries in order, from a log that may be growing. Input: files anybody may have written;
 * only their framing is checked here. Cost: one read of each bundle of 256.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/tree.h"
#include "base/cleanup.h"

struct audit_reader {
	int dir;        /* borrowed */
	uint64_t index; /* of the entry `next` will return */
	bool loaded;
	bool full; /* the bundle has its final name, else it is live */
	bool torn; /* the live bundle ends within an entry */
	uint8_t *bundle;
	size_t len, off;
	size_t end[TREE_TILE + 1]; /* where the first n entries of the bundle end */
};

/* Starts at entry `index`, which must exist or be the next to come. 0, -ENOENT, -EBADMSG, -errno.
 */
int audit_reader_init(struct audit_reader *r, int dirfd, uint64_t index) _must_check_;
void audit_reader_deinit(struct audit_reader *r);
/* 1 with an entry, valid until the next call; 0 at the present end (call again later); -EBADMSG. */
int audit_reader_next(struct audit_reader *r, const char **ret, size_t *ret_len) _must_check_;
/* How many entries there are now: bundles by name, the live one by counting. */
int audit_reader_count(int dirfd, uint64_t *ret) _must_check_;
