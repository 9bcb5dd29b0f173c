/*
 * The tamper-evident log: a Merkle tree (RFC 6962) over JSON entries, in a directory in the form of
 * C2SP tlog-tiles, its root signed in C2SP checkpoints (docs/audit.md).
 *
 * The writer is one process, the guard. Appending is one write(2) into the page cache, hashing, and
 * nothing else (each 256th entry closes a bundle and its tiles: a few more calls); it never waits
 * for a disk or for the signer. Sealing is driven from outside, so that this room needs no event
 * loop:
 *
 *   timer fires, audit_checkpoint_wait_ms() is 0 -> audit_checkpoint_root() -> ask the signer ->
 *   audit_checkpoint_put() with its note, or audit_checkpoint_failed().
 *
 * Killed between any two system calls, the log opens again: a torn last entry is cut off, tiles are
 * derived anew, and entries appended after the last checkpoint are there and counted as unsealed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/record.h"
#include "base/cleanup.h"
#include "base/error.h"

#define AUDIT_SEAL_MS 200 /* a first unsealed entry waits at most this long for a checkpoint */
#define AUDIT_SEAL_ENTRIES 4096 /* or until so many are unsealed */
#define AUDIT_ROOT_LEN 32
#define AUDIT_NOTE_MAX 1024
#define AUDIT_ORIGIN_MAX 128

struct audit_log;

/*
 * Opens or creates the log in the directory (stays the caller's) and locks it: -EBUSY if another
 * writer has it. -EUCLEAN if sealed entries are missing or altered: nothing is repaired, the person
 * must decide. Reads the last bundle and the tiles of the right edge only, so opening takes
 * milliseconds whatever the size.
 */
int audit_open(int dirfd, struct audit_log **ret, struct error *e) _must_check_;
struct audit_log *audit_close(struct audit_log *log);
/*
 * The signer's public key and its name, which is the log's origin. The first call pins them in
 * key.pub; a later one with another key or name is -EKEYREJECTED. Needed before checkpoints, not
 * before entries.
 */
int audit_key_set(struct audit_log *log, const char *name, const uint8_t public_key[32],
	struct error *e) _must_check_;
/* The pinned verifier key, "name+hash+base64"; "" before audit_key_set. */
const char *audit_key_text(const struct audit_log *log);

uint64_t audit_size(const struct audit_log *log);
/* Entries no checkpoint covers yet. After audit_open: what the predecessor left; log a
 * checkpoint-resume entry. */
uint64_t audit_unsealed(const struct audit_log *log);

/* Appends. -ENOSPC (or another write error) leaves the log as it was. ret_index may be NULL. */
int audit_append(
	struct audit_log *log, const char *json, size_t len, uint64_t *ret_index) _must_check_;
/* Writes the record's JSON and appends it; fills in the time. */
int audit_record(struct audit_log *log, const struct audit_record *r) _must_check_;

/* Milliseconds until a checkpoint is due at clock_mono_ms() == now; 0: due; UINT64_MAX: nothing to
 * seal, or one under way. */
uint64_t audit_checkpoint_wait_ms(const struct audit_log *log, uint64_t now);
/* Begins one: writes the partial tiles of the present size. One may be under way at a time
 * (-EALREADY). */
int audit_checkpoint_root(
	struct audit_log *log, uint64_t *ret_size, uint8_t ret_root[AUDIT_ROOT_LEN]) _must_check_;
/* Completes it with the signed note: checks origin, size, root and signature, publishes, drops
 * older partial tiles. */
int audit_checkpoint_put(struct audit_log *log, const char *note, size_t len) _must_check_;
/* The signer went away or refused: due again after AUDIT_SEAL_MS. */
void audit_checkpoint_failed(struct audit_log *log);

static inline void audit_closep(struct audit_log **l)
{
	*l = audit_close(*l);
}
#define _cleanup_audit_ _cleanup_(audit_closep)
