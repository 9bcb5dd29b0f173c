/*
 * SHA-256 of files, remembered only while the kernel or permissions guarantee that it still holds:
 *
 *   lease    a read lease, where the kernel grants one (owner, or CAP_LEASE): whoever opens the
 *            file for writing waits until we have dropped what we knew. A file that somebody may
 *            write right now, through a descriptor or a shared mapping, gets no lease and no hash.
 *   settled  else, files nobody governed can write (trust.h): device, inode, size, mtime, ctime.
 *   neither  hashed again each time. Time stamps alone prove nothing: a store through a shared
 *            mapping need not change them.
 *
 * For any thread; the loop only lets waiting writers go on.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>
#include <uv.h>

#include "identity/evidence.h"

#define HASH_FILE_MAX (2ull * 1024 * 1024 * 1024)
#define HASH_ENTRIES_MAX 512 /* remembered files; each lease holds a descriptor */

struct hasher;
int hasher_new(uv_loop_t *loop, struct hasher **ret) _must_check_;
/* Blocks the lease signals: once, before any thread is started. */
int hasher_block_signals(void) _must_check_;

/*
 * fd: the file, O_PATH or open for reading; stays the caller's. settled: the caller walked to
 * exactly this file over trusted directories. Waits for the file system, and for another thread
 * that reads the same content. -ETXTBSY: somebody may be writing it; -EAGAIN: it changed meanwhile.
 */
int hash_get(struct hasher *h, int fd, bool settled, struct digest *ret) _must_check_;

struct hash_stats {
	uint64_t hits, misses, broken;
	size_t entries, leases;
};
void hash_stats(struct hasher *h, struct hash_stats *ret);
