/*
 * Names and files of the log's directory:
 *
 *   tile/<L>/<N>[.p/<W>]      hashes of level L            (C2SP tlog-tiles; N in groups of three
 * digits) tile/entries/<N>[.p/<W>]  bundles of 256 (or W) entries, each with a uint16 length before
 * it live.<N>                  the bundle being filled; becomes tile/entries/<N> by rename
 *   checkpoint                the newest signed note
 *   checkpoints               earlier ones, each followed by an empty line; only ever appended to
 *   key.pub                   the pinned verifier key
 *   tmp                       a file on its way to its name
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "audit/record.h"
#include "audit/tree.h"
#include "base/cleanup.h"

#define STORE_PATH_MAX 96
#define STORE_ENTRIES (-1) /* as a level: bundles of entries */
#define STORE_BUNDLE_MAX (TREE_TILE * (2 + 65535))
#define STORE_TILE_LEN (TREE_TILE * TREE_HASH_LEN)

/* width 0: the full tile's name. */
void store_tile_path(int level, uint64_t n, unsigned width, char ret[STORE_PATH_MAX]);
/* Directory of the partial tiles of tile n. */
void store_partial_dir(int level, uint64_t n, char ret[STORE_PATH_MAX]);
void store_live_path(uint64_t n, char ret[STORE_PATH_MAX]);
/* Makes path with this content by way of tmp, so that it is there whole or not at all; makes
 * directories. */
int store_put(int dirfd, const char *path, const void *data, size_t len) _must_check_;
int store_rename(int dirfd, const char *from, const char *to) _must_check_;
/* 1 or 0, or -errno. */
int store_exists(int dirfd, const char *path) _must_check_;
/* Removes a partial tile and its directory if that is then empty. */
void store_drop_partial(int dirfd, int level, uint64_t n, unsigned width);

/*
 * One entry at *off of a bundle: 1 with *ret and *ret_len, 0 at the exact end, -EBADMSG if the
 * bytes end within an entry (torn). Pure.
 */
int store_entry_next(const uint8_t *bundle, size_t len, size_t *off, const uint8_t **ret,
	size_t *ret_len) _must_check_;
