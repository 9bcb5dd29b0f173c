/* What the registry's own files share. */
#pragma once

#include <sodium.h>
#include <sqlite3.h>

#include "registry/registry.h"

/* A program with room for what it points to behind it. */
struct entry {
	struct program program;
	struct entry *next; /* in its bucket */
	const char *argv0[REGISTRY_ARGV0_MAX];
	char text[]; /* path NUL script_path NUL argv0 NUL … */
};

struct revocation {
	struct revocation *next;
	enum revoked_kind kind;
	uint64_t before_ms;
	char subject[NAME_SIZE];
};

/* Everything the file holds, immutable once loaded. */
struct snapshot {
	size_t n_programs, n_nodes, n_buckets; /* buckets: a power of two */
	struct entry **programs;               /* by name, then enrolment */
	struct entry **by_digest;              /* chains, keyed hash of the SHA-256 */
	struct revocation **revocations;       /* chains, keyed hash of kind and subject */
	struct node *nodes;
	struct invitation *invitations;
	size_t n_invitations;
};

struct registry {
	sqlite3 *db;
	struct snapshot *now;
	uint64_t generation;
	uint8_t key[crypto_shorthash_KEYBYTES]; /* digests and subjects come from outside */
};

#define COLUMNS_MAX 16

/* store.c */
/* Sets e from the database's last error: what could not be done, why, what to try. */
int store_error(struct registry *r, const char *what, struct error *e);
/* Prepares a statement; finalised by its scope. */
int store_prepare(struct registry *r, const char *sql, sqlite3_stmt **ret);
static inline void store_finalizep(sqlite3_stmt **s)
{
	sqlite3_finalize(*s);
}
#define _cleanup_stmt_ _cleanup_(store_finalizep)
/* Runs a statement that returns no rows. */
int store_run(sqlite3_stmt *s);
int store_begin(struct registry *r, const char *what, struct error *e);
/* Ends the transaction: loads the next snapshot, commits, swaps; or, if ok is false, rolls back. */
int store_commit(struct registry *r, const char *what, struct error *e);
void store_rollback(struct registry *r);
/* Commits when k is 0, else rolls back and tells the database's reason. */
int store_finish(struct registry *r, int k, const char *what, struct error *e);
int store_bind_text(sqlite3_stmt *s, int i, const char *t); /* NULL: empty */
int store_bind_digest(sqlite3_stmt *s, int i, const struct digest *d);

/* load.c: 0, -ENOMEM, -E2BIG beyond a limit, -EBADMSG for rows we never wrote, -EIO */
int snapshot_load(struct registry *r, struct snapshot **ret);
void snapshot_free(struct snapshot *s);
size_t snapshot_bucket(const struct registry *r, const struct snapshot *s, const void *p, size_t n);
const struct revocation *snapshot_revocation(const struct registry *r, const struct snapshot *s,
	enum revoked_kind kind, const char *subject);
