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
#define IMAGE_VERSION 2u
#define IMAGE_LIST_MAX 4096u      /* entries of one list */
#define IMAGE_GROUPS_PER_NAME 16u /* groups of the policy that one program is in */
#define IMAGE_PATH_MAX 256u
#define IMAGE_ZONES_MAX 256u /* changes of the clock in the policy's time zone */
#define IMAGE_UID_NONE UINT32_MAX
#define IMAGE_MINUTES_DAY 1440u
#define IMAGE_RATE_MAX 1000000u /* new connections in */
#define IMAGE_RATE_S_MAX 3600u  /* at most so many seconds: each then has its share of a period */

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
#define IMAGE_ACCEPT_LISTED 4u
#define IMAGE_PERMISSIVE_ANY 8u
#define IMAGE_FLAGS 15u

struct image_header {
	uint64_t magic;
	uint64_t checksum; /* image_checksum() with this field 0: catches damage, not malice */
	uint32_t version;
	uint32_t size;
	uint32_t flags;
	uint32_t source; /* name: the file it was compiled from */
	uint32_t zone;   /* name of the time zone of rules' times, 0: UTC */
	uint32_t zero;
	struct image_section section[_IMAGE_SECTION_N];
};

/* A run of one section. In IDS a list of one is no run: `first` is the id itself. */
struct image_list {
	uint32_t first;
	uint32_t count;
};

struct image_ports {
	uint16_t first, last;
};

/* As above: one range of ports lies in the list itself. */
struct image_port_list {
	uint32_t count;
	union {
		uint32_t first;
		struct image_ports one;
	};
};

#define IMAGE_NAME_ENROLLED 1u   /* name.flags: as a group, it is the one given at enrolment */
#define IMAGE_NAME_LIST 2u       /* as a group, it is a list of the policy */
#define IMAGE_NAME_PERMISSIVE 4u /* as a program, what it is refused is only logged */
#define IMAGE_NAME_FLAGS 7u

struct image_name {
	uint32_t text; /* offset into TEXT, NUL-terminated */
	uint32_t flags;
	struct image_list groups; /* in IDS: list groups this program is in */
};

struct image_user {
	uint32_t uid;  /* IMAGE_UID_NONE: a name this host did not know */
	uint32_t name; /* 0: given as a number */
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

/* Rules about the same party share it; number 0 says nothing. */
struct image_party {
	struct image_list programs, groups, roles, units, nodes; /* in IDS */
	struct image_list users;
	uint32_t flags;
	uint32_t zero;
};

/* Number 0 is anywhere. */
struct image_where {
	struct image_list ranges4, ranges6;
	uint32_t path;   /* name, 0: none */
	uint32_t prefix; /* the path is one */
};

/* Days: bit 0 is Monday. Minutes of the local day, first <= last; 1439 is its last. */
struct image_window {
	uint8_t days, zero;
	uint16_t first, last;
	uint16_t zero2;
};

/* Number 0 asks for nothing. */
struct image_how {
	uint64_t idle_ms;
	uint32_t connections;
	uint32_t rate, rate_s; /* new connections in so many seconds */
	uint32_t encrypt;
	struct image_list windows;
	struct image_list labels; /* in TAGS: names */
};

/* Sets of roles, by their number. `gives` includes the role itself and what those it includes give.
 */
#define IMAGE_ROLE_WORDS (POLICY_ROLES_MAX / 64)
struct image_role {
	uint32_t name;
	uint32_t zero;
	uint64_t gives[IMAGE_ROLE_WORDS], excludes[IMAGE_ROLE_WORDS];
};

struct image_binding {
	uint32_t role, party;
};

/* From this second on (UTC), so many seconds are added. The first counts for all time before. */
struct image_zone {
	int64_t from;
	int32_t offset;
	uint32_t zero;
};

#define IMAGE_RULE_DENY 1u
#define IMAGE_RULE_PLAIN 2u      /* only destinations outside Belay */
#define IMAGE_RULE_NOT_PLAIN 4u  /* only destinations inside; neither flag (deny only): both */
#define IMAGE_RULE_PERMISSIVE 8u /* denies nothing, but is logged */
#define IMAGE_RULE_FLAGS 15u

#define IMAGE_OP(op) (1u << (op))
#define IMAGE_OPS                                                                           \
	(IMAGE_OP(POLICY_OP_RUN) | IMAGE_OP(POLICY_OP_CONNECT) | IMAGE_OP(POLICY_OP_BIND) | \
		IMAGE_OP(POLICY_OP_PUBLISH) | IMAGE_OP(POLICY_OP_ACCEPT))
#define IMAGE_TRANSPORT(t) (1u << (t))
#define IMAGE_TRANSPORTS \
	(IMAGE_TRANSPORT(POLICY_TCP) | IMAGE_TRANSPORT(POLICY_UDP) | IMAGE_TRANSPORT(POLICY_UNIX))

/* Also one place of a label: `name` is then a name, `to` who is there. */
struct image_rule {
	uint32_t name; /* offset into TEXT: nothing but messages calls rules by their names */
	uint32_t line;
	uint32_t from, to; /* parties */
	struct image_port_list ports;
	uint32_t where, how;
	uint16_t ops;
	uint8_t transports, flags;
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
	uint64_t salt;        /* of the tables: nobody outside can choose names that collide */
	uint32_t *name_slots; /* name ids by hash of their text, 0 empty */
	uint32_t name_mask;
	uint32_t *rule_slots; /* rule index + 1 by hash of its name */
	uint32_t rule_mask;
	struct policy_index *index;
};

static inline const char *policy_text(const struct policy *p, uint32_t name)
{
	return p->text + p->names[name].text;
}

static inline const uint32_t *list_ids(const struct policy *p, const struct image_list *l)
{
	return l->count == 1 ? &l->first : p->ids + l->first;
}

static inline const struct image_ports *list_ports(
	const struct policy *p, const struct image_port_list *l)
{
	return l->count == 1 ? &l->one : p->ports + l->first;
}

static inline bool party_names_nobody(const struct image_party *a)
{
	return !a->programs.count && !a->groups.count && !a->roles.count && !a->units.count &&
	       !(a->flags & IMAGE_PARTY_STAR);
}

/* Scratch that is filled before it is read: too large to be zeroed at each decision. */
#define _scratch_ __attribute__((uninitialized))

/* image-check.c: fills what p shows of the image. */
int image_check(const void *image, size_t len, struct policy *p, struct error *e) _must_check_;
int image_refuse(struct error *e, const char *what);

/* index.c */
int policy_index_new(const struct policy *p, struct policy_index **ret) _must_check_;
void policy_index_free(struct policy_index *x);

/*
 * match.c. A party's names as they count for rules: its programs, every group it is in and every
 * role it holds, without doubles. Roles as rules that allow see them, and as rules that deny do.
 */
#define MATCH_GROUPS_MAX (POLICY_PARTY_NAMES_MAX * (1 + IMAGE_GROUPS_PER_NAME))
enum match_side { MATCH_ALLOW, MATCH_DENY, _MATCH_SIDES };
struct match_party {
	const struct policy_party *party;
	uint32_t n_programs, n_groups, n_roles[_MATCH_SIDES];
	uint32_t conflict[2]; /* roles held that exclude each other: then none counts to allow */
	uint32_t programs[POLICY_PARTY_NAMES_MAX];
	uint32_t groups[MATCH_GROUPS_MAX];
	uint32_t roles[_MATCH_SIDES][POLICY_ROLES_MAX]; /* names */
};

struct match {
	const struct policy_question *q;
	struct match_party from, to;
	bool to_used;         /* the operation has another end that rules may look at */
	uint32_t week_minute; /* local, from Monday 00:00 */
};

/* False: not a question. */
bool match_prepare(const struct policy *p, const struct policy_question *q, struct match *ret);
/* What keeps the rule from applying, as enum policy_differs; 0: it applies. all == false: stops at
   the first. The rule's operations must include the question's. */
unsigned match_rule(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool all);
/* Does one end fit? As a rule that denies, or one that allows, reads it. */
unsigned match_party_differs(const struct policy *p, const struct image_party *a,
	const struct match_party *m, bool deny);
bool match_node(const struct policy *p, const struct image_party *a,
	const struct policy_party *party, bool deny);
/* match-party.c: false when the party holds more names than it may. */
bool match_party_prepare(
	const struct policy *p, const struct policy_party *a, struct match_party *ret);
/* Ports, address, path and transport of a rule or a label. */
unsigned match_where(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny);

/* match-time.c */
uint32_t match_week_minute(const struct policy *p, int64_t now_s);
bool match_windows(const struct policy *p, struct image_list windows, uint32_t week_minute);

/* Calls fn for runs of rules that may apply, each rising; a rule may come more than once, none is
 * left out. */
typedef void (*policy_index_fn)(const struct policy *p, const struct match *m,
	const uint32_t *rules, uint32_t n, void *data);
void policy_index_search(
	const struct policy *p, const struct match *m, policy_index_fn fn, void *data);
