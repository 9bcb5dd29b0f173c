/*
 * Verifying a log from its files alone: every leaf, every tile, every kept checkpoint and the
 * newest one are computed again and compared. Never looks at clocks. Works on a log that is being
 * written.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "audit/note.h"
#include "base/cleanup.h"
#include "base/error.h"

/* A writer that died leaves entries after its last checkpoint; so many are explained by that, more
 * are not. */
#define AUDIT_UNSEALED_MAX 65536

struct audit_verify_options {
	const struct audit_key *key;          /* pinned from elsewhere; NULL: key.pub */
	const struct audit_checkpoint *since; /* a verified checkpoint kept elsewhere; NULL */
	uint64_t unsealed_max;                /* AUDIT_UNSEALED_MAX, or 0 for "sealed to the end" */
	void (*progress)(void *data, uint64_t done, uint64_t total); /* every 1,024 entries; NULL */
	void *data;
};

struct audit_report {
	uint64_t entries;     /* whole entries */
	uint64_t sealed;      /* covered by the newest checkpoint */
	uint64_t checkpoints; /* kept ones that were compared */
	bool torn;            /* the last entry was being written when its writer died */
	struct audit_key key;
	uint8_t root[AUDIT_ROOT_LEN]; /* of the newest checkpoint */
};

/*
 * 0: intact. -EUCLEAN: not what was sealed (e says what and where). -ENODATA: what is sealed is
 * intact, but too much is unsealed, or no checkpoint exists. -EKEYREJECTED: not the pinned key's.
 * Otherwise the files cannot be read.
 */
int audit_verify(int dirfd, const struct audit_verify_options *o, struct audit_report *ret,
	struct error *e) _must_check_;
/* 0 if the bytes are one entry of the schema (docs/audit.md). */
int audit_record_check(const char *json, size_t len) _must_check_;
/* key.pub of a log. */
int audit_key_read(int dirfd, struct audit_key *ret) _must_check_;
