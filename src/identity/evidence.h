/*
 * Evidence: what the kernel said about one process at one moment, as data. No opinion: attest
 * collects it, the guard matches it with the registry, the audit log and `belay whoami` show it.
 *
 * Evidence from a message is checked against the limits of evidence.def before it becomes a struct,
 * and every text is scrubbed: what remains is valid UTF-8 without control characters, safe to log
 * and show. The struct holds no pointers: copy it freely. It is some 10 KiB, so keep it off deep
 * stacks.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common.pb-c.h"

#include "base/cleanup.h"
#include "base/error.h"

#define DIGEST_LEN 32
#define EVIDENCE_FOREIGN_PATH 128
#define EVIDENCE_ANCESTOR_NAME 32
#define EVIDENCE_JSON_MAX (64u * 1024) /* always enough */

struct digest {
	uint8_t bytes[DIGEST_LEN];
};

/* An executable mapping from outside the installed library directories. */
/* Between a mapping's path and its digest, in messages: "PATH sha256:HEX", "-" if unreadable. */
#define FOREIGN_MARK " sha256:"

struct foreign {
	char path[EVIDENCE_FOREIGN_PATH]; /* for people; shortened at the front */
	struct digest sha256;             /* none: it could not be read, so it matches nothing */
};

struct ancestor {
	uint32_t pid;
	uint64_t start_time;
	uint32_t uid;
	char name[EVIDENCE_ANCESTOR_NAME];
};

/* clang-format off */
#define EV_DECL_U32(f, limit) uint32_t f;
#define EV_DECL_U64(f, limit) uint64_t f;
#define EV_DECL_FLAG(f, limit) bool f;
#define EV_DECL_TEXT(f, limit) char f[limit];
#define EV_DECL_DIGEST(f, limit) struct digest f;
#define EV_DECL_NUMBERS(f, limit) uint32_t f[limit]; size_t n_##f;
#define EV_DECL_FOREIGN(f, limit) struct foreign f[limit]; size_t n_##f;
#define EV_DECL_ANCESTORS(f, limit) struct ancestor f[limit]; size_t n_##f;
/* clang-format on */

struct evidence {
#define EVIDENCE(kind, field, json, limit, help) EV_DECL_##kind(field, limit)
#include "identity/evidence.def"
#undef EVIDENCE
};

struct evidence_field {
	const char *json, *help;
};
/* What each field means, in order; ends with a NULL name. For help texts and the schema. */
extern const struct evidence_field evidence_fields[];

bool digest_is_none(const struct digest *d);
bool digest_equal(const struct digest *a, const struct digest *b);

/*
 * Copies at most size - 1 bytes of text, replacing every byte that is not part of valid UTF-8 and
 * every control, bidirectional-override and line-separator character with '?'. Too long a text is
 * cut at a character's end. Return: true when nothing was replaced or cut.
 */
bool text_scrub(const char *text, size_t len, char *ret, size_t size);
/* The same for paths: too long a path loses its beginning ("…rest") since the end says more. */
void text_scrub_path(const char *text, size_t len, char *ret, size_t size);

/* A message that borrows from the evidence it was made of; valid while both live unchanged. */
struct evidence_msg {
	Belay__Evidence msg;
	Belay__Ancestor ancestor[32];
	Belay__Ancestor *ancestor_ptr[32];
	char foreign[32][EVIDENCE_FOREIGN_PATH + 80];
	char *foreign_ptr[32];
};

void evidence_to_msg(const struct evidence *e, struct evidence_msg *ret);
/* -EBADMSG when a count, length or digest is not what evidence.def allows. */
int evidence_from_msg(const Belay__Evidence *m, struct evidence *ret) _must_check_;

/* One JSON object, no line breaks, NUL-terminated. Empty texts and absent digests are left out.
 * -ENOBUFS. */
int evidence_json(const struct evidence *e, char *buf, size_t size, size_t *ret_len) _must_check_;
