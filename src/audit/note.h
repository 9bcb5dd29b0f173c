/*
 * Checkpoints as signed notes (C2SP signed-note, tlog-checkpoint): three lines (origin, size,
 * base64 root), an empty line, signature lines. Pure; input is a file anybody may have written.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "audit/audit.h"
#include "base/cleanup.h"
#include "crypto/ed25519.h"

#define AUDIT_KEY_TEXT_MAX (AUDIT_ORIGIN_MAX + 64)

struct audit_checkpoint {
	char origin[AUDIT_ORIGIN_MAX];
	uint64_t size;
	uint8_t root[AUDIT_ROOT_LEN];
	uint8_t key_id[4]; /* of the one signature by `origin` */
	uint8_t signature[ED25519_SIGNATURE_LEN];
	size_t text_len; /* the signed part of the note, its newline included */
};

struct audit_key {
	char name[AUDIT_ORIGIN_MAX];
	uint8_t public_key[ED25519_PUBLIC_LEN];
};

/* A name is 1 to 127 bytes of [a-zA-Z0-9._/-]. */
bool audit_name_valid(const char *name);
/* Parses one whole note with exactly one signature of the origin's name; other signers' lines are
 * skipped. -EBADMSG. */
int audit_note_parse(const char *note, size_t len, struct audit_checkpoint *ret) _must_check_;
/* Checks origin, key id and signature. -EKEYREJECTED. */
int audit_note_verify(const char *note, const struct audit_checkpoint *c,
	const struct audit_key *key) _must_check_;
/* The text to be signed. Return: length or -EINVAL. */
int audit_note_text(const char *origin, uint64_t size, const uint8_t root[AUDIT_ROOT_LEN],
	char text[AUDIT_NOTE_MAX]) _must_check_;
/* Text and signature make a note. Return: length. */
int audit_note_seal(const char *text, const struct audit_key *key,
	const uint8_t signature[ED25519_SIGNATURE_LEN], char note[AUDIT_NOTE_MAX]) _must_check_;
/* "name+12345678+base64(1|key)", one line, both ways. */
int audit_key_format(const struct audit_key *k, char text[AUDIT_KEY_TEXT_MAX]) _must_check_;
int audit_key_parse(const char *text, size_t len, struct audit_key *ret) _must_check_;
