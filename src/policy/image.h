/*
 * The compiled policy: flat, versioned, position-independent, in the byte order of the host it was
 * compiled on (the magic tells). compile-emit.c writes it, image.c checks it, eval.c reads it.
 * Inside this room only.
 *
 * A header, then one array per section (image.def). References are indices, never pointers: a name
 * is an index into NAMES (0 is "no name"), a list is a run of one section. Runs follow each other
 * in the order of their owners without gap or overlap, so that checking all of them is linear in
 * the image's size. Rules are sorted by rank: all that deny, then all that allow, each by falling
 * specificity, then by name. So the deciding rule is the one with the lowest index, and no order of
 * the source can matter.
 */
#pragma once

#include "policy/policy.h"

#define IMAGE_MAGIC 0x314c4f504c4542ull /* "BELPOL1" on a little-endian host */
#define IMAGE_VERSION 1u
#define IMAGE_LIST_MAX 4096u      /* entries of one list */
#define IMAGE_GROUPS_PER_NAME 16u /* groups of the policy that one program is in */
#define IMAGE_PATH_MAX 256u
#define IMAGE_UID_NONE UINT32_MAX

struct image_section {
	uint32_t offset; /* from the image's start, a multiple of 8 */
	uint32_t count;  /* elements */
};

enum image_section_id {
#define SECTION(id, type, field, max) IMAGE_##id,
#include "policy/image.def"
#undef SECTION
	_IMAGE_SECTION_N
};

#define IMAGE_DNS 1u /* header.flags */
#define IMAGE_RUN_ENROLLED 2u

struct image_header {
	uint64_t magic;
	uint64_t checksum; /* image_checksum() with this field 0: catches damage, not malice */
	uint32_t version;
	uint32_t size;
	uint32_t flags;
	uint32_t source; /* name: the file it was compiled from */
	struct image_section section[_IMAGE_SECTION_N];
};

struct image_list {
	uint32_t first;
	uint32_t count;
};

#define IMAGE_NAME_ENROLLED 1u /* name.flags: as a group, it is the one given at enrolment */
#define IMAGE_NAME_LIST 2u     /* as a group, it is a list of the policy */

struct image_name {
	uint32_t text; /* offset into TEXT, NUL-terminated */
	uint32_t flags;
	struct image_list groups; /* in IDS: list groups this program is in */
};

struct image_user {
	uint32_t uid;  /* IMAGE_UID_NONE: a name this host did not know */
	uint32_t name; /* 0: given as a number */
};

struct image_ports {
	uint16_t first, last;
};

struct image_range4 {
	uint32_t first, last;
};

struct image_u128 {
	uint64_t hi, lo;
};

struct image_range6 {
	struct image_u128 first, last;
};

#define IMAGE_PARTY_STAR 1u      /* any enrolled program */
#define IMAGE_PARTY_NODE_ANY 2u  /* node: "*" */
#define IMAGE_PARTY_NODE_SELF 4u /* node: self */

struct image_party {
	struct image_list programs, groups, nodes; /* in IDS */
	struct image_list users;
	uint32_t flags;
};

#define IMAGE_RULE_DENY 1u
#define IMAGE_RULE_PLAIN 2u     /* only destinations outside Belay */
#define IMAGE_RULE_NOT_PLAIN 4u /* only destinations inside; neither flag (deny only): both */
#define IMAGE_RULE_PREFIX 8u    /* path is a prefix */
#define IMAGE_RULE_FLAGS 15u

#define IMAGE_OP(op) (1u << (op))
#define IMAGE_OPS                                                                           \
	(IMAGE_OP(POLICY_OP_RUN) | IMAGE_OP(POLICY_OP_CONNECT) | IMAGE_OP(POLICY_OP_BIND) | \
		IMAGE_OP(POLICY_OP_PUBLISH))
#define IMAGE_TRANSPORT(t) (1u << (t))
#define IMAGE_TRANSPORTS \
	(IMAGE_TRANSPORT(POLICY_TCP) | IMAGE_TRANSPORT(POLICY_UDP) | IMAGE_TRANSPORT(POLICY_UNIX))

struct image_rule {
	uint64_t idle_ms;
	uint32_t name;
	uint32_t line;
	struct image_party from, to;
	struct image_list ports, ranges4, ranges6;
	uint32_t path; /* name, 0: none */
	uint32_t connections;
	uint8_t ops, transports, flags;
	uint8_t encrypt;
	uint32_t zero;
};

/* FNV-1a over 8-byte words; len is a multiple of 8. */
uint64_t image_checksum(const void *image, size_t len);

struct policy_index;

/* A checked view. Arrays may be indexed with any reference found inside the image. */
struct policy {
	const struct image_header *header;
#define SECTION(id, type, field, max) \
	const type *field;            \
	uint32_t n_##field;
#include "policy/image.def"
#undef SECTION
	uint32_t *name_slots; /* name ids by hash of their text, 0 empty */
	uint32_t name_mask;
	uint32_t *rule_slots; /* rule index + 1 by name id */
	uint32_t rule_mask;
	struct policy_index *index;
};

static inline const char *policy_text(const struct policy *p, uint32_t name)
{
	return p->text + p->names[name].text;
}

/* Scratch that is filled before it is read: too large to be zeroed at each decision. */
#define _scratch_ __attribute__((uninitialized))

/* index.c */
int policy_index_new(const struct policy *p, struct policy_index **ret) _must_check_;
void policy_index_free(struct policy_index *x);

/*
 * match.c. A party's names as they count for rules: its programs and every group it is in, without
 * doubles.
 */
#define MATCH_GROUPS_MAX (POLICY_PARTY_NAMES_MAX * (1 + IMAGE_GROUPS_PER_NAME))
struct match_party {
	const struct policy_party *party;
	uint32_t n_programs, n_groups;
	uint32_t programs[POLICY_PARTY_NAMES_MAX];
	uint32_t groups[MATCH_GROUPS_MAX];
};

struct match {
	const struct policy_question *q;
	struct match_party from, to;
	bool to_used; /* the operation has another end that rules may look at */
};

/* False: not a question. */
bool match_prepare(const struct policy *p, const struct policy_question *q, struct match *ret);
/* What keeps the rule from applying, as enum policy_differs; 0: it applies. all == false: stops at
   the first. The rule's operations must include the question's. */
unsigned match_rule(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool all);
/* Calls fn for runs of rules that may apply, each rising; a rule may come more than once, none is
 * left out. */
typedef void (*policy_index_fn)(const struct policy *p, const struct match *m,
	const uint32_t *rules, uint32_t n, void *data);
void policy_index_search(
	const struct policy *p, const struct match *m, policy_index_fn fn, void *data);
