/* The log in memory: shared by its writer (log.c) and its opening (open.c), nobody else. */
#pragma once

#include <sys/mman.h>
#include <sys/types.h>

#include "audit/audit.h"
#include "audit/note.h"
#include "audit/store.h"
#include "audit/tree.h"

struct audit_log {
	int dir;  /* a description of our own: the lock is on it */
	int live; /* -1: to be opened by the next append */
	off_t live_len;
	uint64_t bundle; /* number of the live one */
	struct tree tree;
	bool broken; /* a write could not be undone: no entry may follow */

	struct audit_key key;
	char key_text[AUDIT_KEY_TEXT_MAX]; /* "" until pinned */
	struct audit_checkpoint sealed;    /* size 0: none yet */
	off_t history_len;                 /* of `checkpoints`, whole notes */
	uint64_t history_size;             /* of its last note, in this life; 0: none yet */

	bool pending; /* a checkpoint is being signed */
	uint64_t pending_size;
	uint8_t pending_root[AUDIT_ROOT_LEN];
	uint64_t unsealed_since, retry_at; /* monotonic ms; 0: nothing */

	char text[AUDIT_ENTRY_MAX];
};
