/* What the parts of the compiler share: the tree of one rule, and everything read so far. */
#pragma once

#include "policy/compile.h"
#include "policy/image.h"

/* compile-yaml.c */
enum yaml_kind { YAML_SCALAR, YAML_LIST, YAML_MAP };

#define YAML_DEPTH_MAX 6u
#define YAML_SCALAR_MAX 255u
#define YAML_NODES_MAX 65536u /* of one rule, or of one top-level value */

struct place {
	uint32_t line, column, length;
};

struct yaml_node {
	enum yaml_kind kind;
	bool quoted;
	struct place place;
	const char *text;        /* scalar */
	struct yaml_node *first; /* list: items; map: keys */
	struct yaml_node *next;
	struct yaml_node *value; /* of a key */
};

struct compiler;
typedef void (*yaml_entry_fn)(
	struct compiler *c, const struct yaml_node *key, const struct yaml_node *value);
typedef void (*yaml_item_fn)(struct compiler *c, const struct yaml_node *item);
/*
 * Reads a document that is a map and calls entry for each key; where the key is `stream` and its
 * value a list, entry with NULL for a value, then item for each. Nodes live until the callee
 * returns. Errors go to the diagnostics. -ENOMEM, else 0.
 */
int yaml_read(struct compiler *c, const char *text, size_t len, yaml_entry_fn entry,
	const char *stream, yaml_item_fn item);

/* compile-names.c: every name gets one id. */
#define NAME_GROUP_SEEN 8u /* besides IMAGE_NAME_*: defined, whatever its kind */
#define NAME_ROLE_SEEN 16u
#define NAME_LABEL_SEEN 32u
struct source_name {
	char *text;
	uint32_t flags;
	uint32_t rule; /* 1 + the rule, or the role, of that name */
	uint32_t line; /* of the group's definition */
	uint32_t members;
	uint32_t groups; /* how many list groups it is in */
};

struct names {
	struct source_name *list; /* [0] is "" */
	uint32_t n, room;
	uint32_t *slots;
	uint32_t mask;
};
int names_init(struct names *n) _must_check_;
void names_deinit(struct names *n);
/* 0 when out of memory. */
uint32_t names_add(struct names *n, const char *text);

/* A growing array of plain elements. */
#define POOL(type)                \
	struct {                  \
		type *v;          \
		uint32_t n, room; \
	}
bool pool_grow(void **v, uint32_t *room, uint32_t n, size_t size);
/* Appends x; out of memory is remembered in the compiler. */
#define pool_add(c, pool, x)                                                                      \
	do {                                                                                      \
		if (pool_grow((void **)&(pool)->v, &(pool)->room, (pool)->n, sizeof(*(pool)->v))) \
			(pool)->v[(pool)->n++] = (x);                                             \
		else                                                                              \
			(c)->no_memory = true;                                                    \
	} while (0)

/* As in the image, but lists are always runs of the compiler's pools, and nothing is shared yet. */
struct source_party {
	struct image_list programs, groups, roles, units, nodes, users;
	uint32_t flags;
};

struct source_body {
	uint64_t idle_ms;
	uint32_t name; /* of a rule in rule_names, of a label in names */
	uint32_t line;
	struct source_party from, to;
	struct image_list ports, ranges4, ranges6, windows, labels;
	uint32_t path; /* name, 0: none */
	bool prefix, encrypt;
	uint32_t connections, rate, rate_s;
	uint16_t ops;
	uint8_t transports, flags;
};

struct source_rule {
	struct source_body r;
	struct place place; /* of its name, or its beginning */
	uint32_t score;
	bool bad; /* has errors: not looked at again */
};

struct source_role {
	uint32_t name;
	struct place place;
	struct image_list includes, excludes; /* names, in ids */
	uint64_t gives[IMAGE_ROLE_WORDS], excluded[IMAGE_ROLE_WORDS];
};

struct source_binding {
	uint32_t role;
	struct source_party party;
	struct place place;
};

/* A name that must be defined somewhere in the text. */
struct name_use {
	uint32_t name, rule; /* rule: UINT32_MAX when none uses it */
	uint32_t kind;       /* NAME_*_SEEN */
	struct place place;
};

struct membership {
	uint32_t program, group;
};

struct compiler {
	struct policy_compile_options options;
	struct policy_diagnostics *d;
	struct names names, rule_names;
	uint32_t flags; /* header.flags */
	uint32_t zone;  /* name */
	unsigned seen;  /* top-level keys */
	bool in_rule;   /* what is read now is rule number rules.n */
	bool no_memory;
	POOL(struct source_rule) rules;
	POOL(uint32_t) ids;
	POOL(struct image_user) users;
	POOL(struct image_ports) ports;
	POOL(struct image_range4) ranges4;
	POOL(struct image_range6) ranges6;
	POOL(struct name_use) uses;
	POOL(struct image_window) windows;
	POOL(struct image_zone) zones;
	POOL(struct source_role) roles;
	POOL(struct source_binding) bindings;
	POOL(struct source_body) labels;
	POOL(struct membership) memberships;
};

/* compile-diag.c */
void complain(struct compiler *c, const struct place *at, const char *hint, const char *fmt, ...)
	_printf_(4, 5);
void warn(struct compiler *c, const struct place *at, const char *hint, const char *fmt, ...)
	_printf_(4, 5);
void diagnostics_sort(struct policy_diagnostics *d);
/* Index of the nearest of n words within a small edit distance, or -1. */
int nearest(const char *word, const char *const *words, int n);

/* compile-value.c: one value each; false after complaining. */
bool value_scalar(struct compiler *c, const struct yaml_node *v, const char *what);
bool value_bool(struct compiler *c, const struct yaml_node *v, bool *ret);
/* One of n words. */
bool value_word(
	struct compiler *c, const struct yaml_node *v, const char *const *words, int n, int *ret);
bool value_name(struct compiler *c, const struct yaml_node *v, const char *what, uint32_t *ret);
bool value_rule_name(struct compiler *c, const struct yaml_node *v, uint32_t *ret);
/* Digits from *s on; false when there are none or the number is above max. */
bool value_digits(const char **s, uint64_t max, uint64_t *ret);
bool value_rate(struct compiler *c, const struct yaml_node *v, uint32_t *ret, uint32_t *ret_s);
bool value_duration(struct compiler *c, const struct yaml_node *v, uint64_t *ret_ms);
bool value_count(struct compiler *c, const struct yaml_node *v, uint32_t max, uint32_t *ret);
bool value_path(struct compiler *c, const struct yaml_node *v, uint32_t *ret, bool *ret_prefix);
bool value_ports(struct compiler *c, const struct yaml_node *v, struct image_list *ret);
bool value_addresses(struct compiler *c, const struct yaml_node *v, struct image_list *ret4,
	struct image_list *ret6);
/*
 * Calls fn for a scalar, or for each scalar of a list: not empty, at most IMAGE_LIST_MAX.
 */
bool value_each(struct compiler *c, const struct yaml_node *v, const char *what,
	bool (*fn)(struct compiler *c, const struct yaml_node *item, void *data), void *data);

/* compile-when.c */
bool value_windows(struct compiler *c, const struct yaml_node *v, struct image_list *ret);
void zone_read(struct compiler *c, const struct yaml_node *v);

/* compile-party.c */
bool party_read(struct compiler *c, const struct yaml_node *v, bool roles, struct source_party *a);
/* A list of names, of which each must be defined as `kind` unless that is 0. */
bool names_read(struct compiler *c, const struct yaml_node *v, const char *what, uint32_t kind,
	struct image_list *ret);
void groups_read(struct compiler *c, const struct yaml_node *value);
/* Index of the key, -1 after complaining. */
int key_find(struct compiler *c, const struct yaml_node *key, const char *const *names, int n,
	unsigned *seen);

/* compile-role.c */
void roles_read(struct compiler *c, const struct yaml_node *value);
void roles_check(struct compiler *c);

/* compile-label.c */
void labels_read(struct compiler *c, const struct yaml_node *value);

/* compile-rule.c */
void rule_read(struct compiler *c, const struct yaml_node *item);
bool transport_read(struct compiler *c, const struct yaml_node *v, uint8_t *ret);
/* Complains of a key that is none of names. */
void unknown_key(struct compiler *c, const struct yaml_node *key, const char *const *names, int n);

/* compile-check.c: what one rule may say, and what only all rules together show. */
void rule_check(
	struct compiler *c, struct source_rule *s, unsigned seen, const struct yaml_node *item);
void policy_check(struct compiler *c);

/* compile-cover.c: does w apply wherever n does? When in doubt: no. */
bool party_covers(const struct compiler *c, const struct source_party *w,
	const struct source_party *n, bool run);
bool rule_covers(
	const struct compiler *c, const struct source_body *w, const struct source_body *n);
bool source_party_empty(const struct source_party *a);
bool ids_have(const struct compiler *c, struct image_list l, uint32_t id);

enum rule_key {
	KEY_NAME,
	KEY_ALLOW,
	KEY_DENY,
	KEY_FROM,
	KEY_TO,
	KEY_ADDRESS,
	KEY_PORT,
	KEY_TRANSPORT,
	KEY_UNIX,
	KEY_FIFO,
	KEY_PLAIN,
	KEY_PROTECTION,
	KEY_IDLE,
	KEY_CONNECTIONS,
	KEY_RATE,
	KEY_WHEN,
	KEY_LABEL,
	KEY_PERMISSIVE,
	_KEY_N
};
#define SEEN(key) (1u << (key))

/* compile-unique.c: equal word sequences get one number, in the order they are first met. */
struct unique {
	POOL(uint32_t) words;
	POOL(struct image_list) items; /* runs of words */
	uint32_t *slots;
	uint32_t mask;
};
int unique_init(struct unique *s) _must_check_;
void unique_deinit(struct unique *s);
/* UINT32_MAX when out of memory. */
uint32_t unique_add(struct unique *s, const uint32_t *words, uint32_t n);

/* compile-emit.c */
int policy_emit(struct compiler *c, void **ret, size_t *ret_len) _must_check_;
