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
#define NAME_GROUP_SEEN 4u /* besides IMAGE_NAME_*: defined, whatever its kind */
struct source_name {
	char *text;
	uint32_t flags;
	uint32_t rule; /* 1 + the rule of that name */
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

struct source_rule {
	struct image_rule r; /* lists run in the compiler's pools */
	struct place place;  /* of its name, or its beginning */
	uint32_t score;
	bool bad; /* has errors: not looked at again */
};

struct group_use {
	uint32_t name, rule;
	struct place place;
};

struct membership {
	uint32_t program, group;
};

struct compiler {
	struct policy_compile_options options;
	struct policy_diagnostics *d;
	struct names names;
	uint32_t flags; /* header.flags */
	unsigned seen;  /* top-level keys */
	bool no_memory;
	POOL(struct source_rule) rules;
	POOL(uint32_t) ids;
	POOL(struct image_user) users;
	POOL(struct image_ports) ports;
	POOL(struct image_range4) ranges4;
	POOL(struct image_range6) ranges6;
	POOL(struct group_use) uses;
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

/* compile-rule.c */
void rule_read(struct compiler *c, const struct yaml_node *item);
void groups_read(struct compiler *c, const struct yaml_node *value);
/* Complains of a key that is none of names. */
void unknown_key(struct compiler *c, const struct yaml_node *key, const char *const *names, int n);

/* compile-check.c: what one rule may say, and what only all rules together show. */
void rule_check(
	struct compiler *c, struct source_rule *s, unsigned seen, const struct yaml_node *item);
void policy_check(struct compiler *c);

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
	KEY_PLAIN,
	KEY_PROTECTION,
	KEY_IDLE,
	KEY_CONNECTIONS,
	_KEY_N
};
#define SEEN(key) (1u << (key))

/* compile-emit.c */
int policy_emit(struct compiler *c, void **ret, size_t *ret_len) _must_check_;
