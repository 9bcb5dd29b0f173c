/* Whom a rule or a role is about: programs, groups, users, nodes, units, roles; and what groups
 * are.
 */
#include "policy/compile-source.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

void unknown_key(struct compiler *c, const struct yaml_node *key, const char *const *names, int n)
{
	char hint[200] = "known here: ";
	int near = nearest(key->text, names, n);
	if (near >= 0)
		snprintf(hint, sizeof(hint), "did you mean `%s`?", names[near]);
	for (int i = 0; near < 0 && i < n; i++) {
		size_t used = strlen(hint);
		snprintf(hint + used, sizeof(hint) - used, "%s%s", i ? ", " : "", names[i]);
	}
	complain(c, &key->place, hint, "unknown key `%s`", key->text);
}

int key_find(struct compiler *c, const struct yaml_node *key, const char *const *names, int n,
	unsigned *seen)
{
	for (int i = 0; i < n; i++) {
		if (strcmp(key->text, names[i]))
			continue;
		if (*seen & (1u << i)) {
			complain(c, &key->place, "keep one of them", "`%s` is given twice",
				key->text);
			return -1;
		}
		*seen |= 1u << i;
		return i;
	}
	unknown_key(c, key, names, n);
	return -1;
}

struct names_into {
	const char *what;
	uint32_t first;  /* in the pool, to find doubles */
	uint32_t *flags; /* program, node: what "*" sets */
	uint32_t star, self;
	uint32_t kind; /* must be defined as that */
};

static bool one_name(struct compiler *c, const struct yaml_node *v, void *data)
{
	struct names_into *into = data;
	uint32_t id;
	if (into->star && !strcmp(v->text, "*")) {
		*into->flags |= into->star;
		return true;
	}
	if (into->self && !strcmp(v->text, "self")) {
		*into->flags |= into->self;
		return true;
	}
	if (!value_name(c, v, into->what, &id))
		return false;
	for (uint32_t i = into->first; i < c->ids.n; i++)
		if (c->ids.v[i] == id) {
			complain(c, &v->place, "keep one of them", "`%s` is listed twice", v->text);
			return false;
		}
	pool_add(c, &c->ids, id);
	if (into->kind) {
		struct name_use use = {.name = id,
			.rule = c->in_rule ? c->rules.n : UINT32_MAX,
			.kind = into->kind,
			.place = v->place};
		pool_add(c, &c->uses, use);
	}
	return true;
}

static int by_id(const void *a, const void *b)
{
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	return (x > y) - (x < y);
}

static bool read_names(struct compiler *c, const struct yaml_node *v, struct names_into *into,
	struct image_list *ret)
{
	into->first = c->ids.n;
	bool ok = value_each(c, v, into->what, one_name, into);
	ret->first = into->first;
	ret->count = c->ids.n - into->first;
	if (ret->count)
		qsort(c->ids.v + ret->first, ret->count, sizeof(uint32_t), by_id);
	return ok;
}

static int host_uid(const char *user, uint32_t *ret)
{
	const struct passwd *pw = getpwnam(user);
	if (!pw)
		return -ENOENT;
	*ret = pw->pw_uid;
	return 0;
}

/* A name that this host lacks is complained of by rule_check(): only rules about other nodes may
 * have one. */
static bool one_user(struct compiler *c, const struct yaml_node *v, void *data _unused_)
{
	struct image_user u = {.uid = IMAGE_UID_NONE};
	int (*uid_of)(const char *, uint32_t *) = c->options.uid_of ? c->options.uid_of : host_uid;
	if (v->text[strspn(v->text, "0123456789")] == '\0') {
		uint64_t uid = strlen(v->text) < 12 ? strtoull(v->text, NULL, 10) : UINT64_MAX;
		if (uid >= IMAGE_UID_NONE) {
			complain(c, &v->place, "", "`%s` is no user number", v->text);
			return false;
		}
		u.uid = (uint32_t)uid;
	} else {
		if (!value_name(c, v, "a user's name", &u.name))
			return false;
		if (uid_of(v->text, &u.uid) < 0)
			u.uid = IMAGE_UID_NONE;
	}
	pool_add(c, &c->users, u);
	return true;
}

static bool read_users(struct compiler *c, const struct yaml_node *v, struct image_list *ret)
{
	ret->first = c->users.n;
	bool ok = value_each(c, v, "a user", one_user, NULL);
	ret->count = c->users.n - ret->first;
	return ok;
}

bool names_read(struct compiler *c, const struct yaml_node *v, const char *what, uint32_t kind,
	struct image_list *ret)
{
	struct names_into into = {.what = what, .kind = kind};
	return read_names(c, v, &into, ret);
}

static bool read_programs(struct compiler *c, const struct yaml_node *v, struct source_party *a)
{
	struct names_into into = {
		.what = "a program's name", .flags = &a->flags, .star = IMAGE_PARTY_STAR};
	bool ok = read_names(c, v, &into, &a->programs);
	if (a->flags & IMAGE_PARTY_STAR && a->programs.count) {
		complain(c, &v->place, "keep one of them",
			"\"*\" already means every enrolled program");
		ok = false;
	}
	return ok;
}

static bool read_nodes(struct compiler *c, const struct yaml_node *v, struct source_party *a)
{
	struct names_into into = {.what = "a node's name",
		.flags = &a->flags,
		.star = IMAGE_PARTY_NODE_ANY,
		.self = IMAGE_PARTY_NODE_SELF};
	return read_names(c, v, &into, &a->nodes);
}

enum party_key { PARTY_PROGRAM, PARTY_GROUP, PARTY_USER, PARTY_NODE, PARTY_UNIT, PARTY_ROLE };
static const char *const party_keys[] = {"program", "group", "user", "node", "unit", "role"};

static bool read_key(
	struct compiler *c, enum party_key key, const struct yaml_node *v, struct source_party *a)
{
	switch (key) {
	case PARTY_PROGRAM:
		return read_programs(c, v, a);
	case PARTY_GROUP:
		return names_read(c, v, "a group's name", NAME_GROUP_SEEN, &a->groups);
	case PARTY_USER:
		return read_users(c, v, &a->users);
	case PARTY_NODE:
		return read_nodes(c, v, a);
	case PARTY_UNIT:
		return names_read(c, v, "a unit's name", 0, &a->units);
	case PARTY_ROLE:
		return names_read(c, v, "a role's name", NAME_ROLE_SEEN, &a->roles);
	default:
		return false;
	}
}

bool party_read(struct compiler *c, const struct yaml_node *v, bool roles, struct source_party *a)
{
	unsigned seen = 0;
	bool ok = true;
	if (v->kind != YAML_MAP || !v->first) {
		complain(c, &v->place,
			roles ? "such as { program: cache }, with program, group, user, node, "
				"unit, role"
			      : "such as { program: cache }, with program, group, user, node, unit",
			"expected whom it is about");
		return false;
	}
	for (const struct yaml_node *k = v->first; k; k = k->next) {
		int key = key_find(
			c, k, party_keys, (int)ARRAY_LEN(party_keys) - (roles ? 0 : 1), &seen);
		ok &= key >= 0 && read_key(c, (enum party_key)key, k->value, a);
	}
	return ok;
}

static bool one_member(struct compiler *c, const struct yaml_node *v, void *data)
{
	uint32_t group = *(uint32_t *)data, id;
	if (!value_name(c, v, "a program's name", &id))
		return false;
	for (uint32_t i = c->memberships.n; i-- && c->memberships.v[i].group == group;)
		if (c->memberships.v[i].program == id) {
			complain(c, &v->place, "keep one of them", "`%s` is listed twice", v->text);
			return false;
		}
	if (c->names.list[id].groups == IMAGE_GROUPS_PER_NAME) {
		complain(c, &v->place, "", "`%s` is in too many groups (at most %u)", v->text,
			IMAGE_GROUPS_PER_NAME);
		return false;
	}
	c->names.list[id].groups++;
	c->names.list[group].members++;
	struct membership m = {id, group};
	pool_add(c, &c->memberships, m);
	return true;
}

void groups_read(struct compiler *c, const struct yaml_node *value)
{
	if (value->kind != YAML_MAP) {
		complain(c, &value->place, "such as `clients: [shell, bench]`",
			"groups is a map of names");
		return;
	}
	for (const struct yaml_node *k = value->first; k; k = k->next) {
		uint32_t id;
		if (!value_name(c, k, "a group's name", &id))
			continue;
		struct source_name *n = &c->names.list[id];
		if (n->flags & NAME_GROUP_SEEN) {
			complain(c, &k->place, "keep one of them", "the group `%s` is given twice",
				k->text);
			continue;
		}
		n->flags |= NAME_GROUP_SEEN;
		n->line = k->place.line;
		if (k->value->kind == YAML_SCALAR && !strcmp(k->value->text, "enrolled")) {
			n->flags |= IMAGE_NAME_ENROLLED;
			continue;
		}
		n->flags |= IMAGE_NAME_LIST;
		if (k->value->kind != YAML_LIST)
			complain(c, &k->value->place,
				"[a, b], or `enrolled` for the group programs were enrolled into",
				"a group is a list of programs");
		else if (!k->value->first)
			complain(c, &k->value->place, "give it programs, or delete it",
				"the group `%s` is empty", k->text);
		else
			value_each(c, k->value, "a program's name", one_member, &id);
	}
}
