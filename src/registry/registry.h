/*
 * The registry: which programs an instance knows, by what they are; groups of them, nodes,
 * revocations.
 *
 * One SQLite file in the guard's directory (registry.db, write-ahead log), and a snapshot of all of
 * it in memory. Every question is answered from the snapshot: the guard's hot path never touches
 * the file. A change is one transaction: written, the next snapshot loaded from the uncommitted
 * rows, committed, and only then the snapshots swapped; whatever fails (full disk, no memory), file
 * and memory both stay as they were. Pointers into the registry are good until the next change.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "identity/evidence.h"
#include "identity/spiffe.h"

#define REGISTRY_PROGRAMS_MAX 65536 /* signatures in all */
#define REGISTRY_ARGV0_MAX 16       /* permitted names of one signature */
#define REGISTRY_ARGV0_SIZE 64
#define REGISTRY_PATH_SIZE 512
#define REGISTRY_NODES_MAX 1024
#define REGISTRY_NODE_ADDRESSES_MAX 32
#define REGISTRY_INVITATIONS_MAX 64
#define REGISTRY_ADDRESS_SIZE 72
#define REGISTRY_META_MAX 65536 /* bytes of one meta value */
#define REGISTRY_REVOCATIONS_MAX 65536
#define MATCH_PROGRAMS_MAX 8 /* names one process may match; beyond, it matches none */
#define MATCH_WHY_SIZE 256

enum program_flag {
	PROGRAM_JIT = 1,             /* may hold executable memory that no file backs */
	PROGRAM_LIBRARY = 2,         /* a library programs may map; never a program itself */
	PROGRAM_INTERPRETER = 4,     /* identifies only together with a script */
	PROGRAM_NOT_INTERPRETER = 8, /* identifies alone although it looks like an interpreter */
};

/* One signature of one program. A name may have several signatures, a signature several names. */
struct program {
	char name[NAME_SIZE];
	char group[NAME_SIZE]; /* empty: none */
	struct digest sha256,
		script_sha256; /* script: none unless the program is interpreter plus script */
	uint64_t size;
	uint32_t flags;
	bool revoked;
	uint64_t enrolled_ms;           /* wall clock */
	const char *path, *script_path; /* as enrolled; for people */
	const char *const *argv0;       /* permitted base names of argv[0]; none: any */
	size_t n_argv0;
};

struct node {
	char name[NAME_SIZE];
	char link[REGISTRY_ADDRESS_SIZE], data[REGISTRY_ADDRESS_SIZE]; /* "ip:port" */
	char addresses[REGISTRY_NODE_ADDRESSES_MAX][REGISTRY_ADDRESS_SIZE];
	size_t n_addresses;
	struct digest certificate; /* SHA-256 of the certificate */
	uint64_t joined_ms;
};

/* Who may join once: of the token's secret only a hash is kept. */
struct invitation {
	char node[NAME_SIZE];
	struct digest secret;
	char addresses[REGISTRY_NODE_ADDRESSES_MAX][REGISTRY_ADDRESS_SIZE];
	size_t n_addresses;
	uint64_t until_ms; /* wall clock */
};

enum revoked_kind { REVOKED_PROGRAM, REVOKED_USER, REVOKED_NODE, REVOKED_CHANNEL, _REVOKED_N };

struct registry;
/* dir: an open directory of ours. */
int registry_open(int dir, struct registry **ret, struct error *e) _must_check_;
/* For tools and tests. */
int registry_open_path(const char *dir, struct registry **ret, struct error *e) _must_check_;
void registry_close(struct registry *r); /* accepts NULL */
static inline void registry_closep(struct registry **r)
{
	registry_close(*r);
}

/* ---- questions: memory only ---- */

struct match {
	size_t n;
	const struct program *program[MATCH_PROGRAMS_MAX]; /* by name, in order, each once */
	bool revoked;             /* it is, or would be, a program that is revoked */
	char why[MATCH_WHY_SIZE]; /* n is 0: what prevented the match that came closest */
};
/*
 * Which enrolled programs the process is. All must hold: SHA-256 and size are those of the
 * signature; it is not revoked; an interpreter only with its script; argv[0] is a permitted name
 * (names narrow, never grant); every executable mapping that is foreign is an enrolled library;
 * executable memory without a file only with the jit flag. Cost: one keyed hash and a walk of that
 * signature's entries, no allocation.
 */
void registry_match(const struct registry *r, const struct evidence *e, struct match *ret);

/* All signatures, by name then enrolment; the n-th, or NULL. */
const struct program *registry_program(const struct registry *r, size_t n);
size_t registry_programs(const struct registry *r);
/* Is any signature enrolled under this name, or any program in this group? */
bool registry_knows(const struct registry *r, const char *name);
bool registry_knows_group(const struct registry *r, const char *group);
const struct node *registry_node(const struct registry *r, size_t n);
const struct invitation *registry_invitation(const struct registry *r, size_t n);
const struct node *registry_node_find(const struct registry *r, const char *name);
/*
 * Whether what was issued at that time (wall clock, ms) to the subject is revoked. Subjects: a
 * program's or node's name, a user id in decimal, a channel id in hexadecimal.
 */
bool registry_revoked(
	const struct registry *r, enum revoked_kind kind, const char *subject, uint64_t issued_ms);
/* Counts changes: what was derived from an older generation is derived again. */
uint64_t registry_generation(const struct registry *r);

/* ---- changes: 0, or negative with e set and everything as before ---- */

struct enrollment {
	const char *name, *group, *path, *script_path; /* group and paths may be NULL */
	const char *const *argv0;
	size_t n_argv0;
	struct digest sha256, script_sha256;
	uint64_t size;
	uint32_t flags;
};
/* Adds a signature to the name, or renews the same one. The group becomes that of the whole name.
 */
int registry_enroll(struct registry *r, const struct enrollment *n, struct error *e) _must_check_;
/* Removes a name's signatures (sha256 NULL: all). -ENOENT. */
int registry_unenroll(struct registry *r, const char *name, const struct digest *sha256,
	struct error *e) _must_check_;
/* Revokes what was issued until now. A program enrolled again afterwards is valid again. */
int registry_revoke(struct registry *r, enum revoked_kind kind, const char *subject,
	const char *why, struct error *e) _must_check_;
int registry_unrevoke(struct registry *r, enum revoked_kind kind, const char *subject,
	struct error *e) _must_check_;
/* Adds or replaces. joined_ms 0: now. */
int registry_node_put(struct registry *r, const struct node *n, struct error *e) _must_check_;
int registry_node_remove(struct registry *r, const char *name, struct error *e) _must_check_;
/* Takes the place of an earlier one of that name, and of all that are over. -E2BIG: too many. */
int registry_invitation_put(struct registry *r, const struct invitation *n, uint64_t now_ms,
	struct error *e) _must_check_;
/* Gives it once: when this returns 0 it is gone from the file, durably. -ENOENT. */
int registry_invitation_take(struct registry *r, const struct digest *secret,
	struct invitation *ret, struct error *e) _must_check_;
/* The guard's own small facts (node name, policy digest, …). value NULL removes. */
int registry_meta_set(struct registry *r, const char *key, const void *value, size_t len,
	struct error *e) _must_check_;
/* -ENOENT; -ENOBUFS when larger than size. Reads the file: not for hot paths. */
int registry_meta_get(
	struct registry *r, const char *key, void *ret, size_t size, size_t *ret_len) _must_check_;
