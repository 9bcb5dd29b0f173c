/* Reads one rule, and the groups: which keys there are and what each becomes in the image. */
#include "policy/compile-source.h"

#include <errno.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>

static const char *const rule_keys[_KEY_N] = {
	[KEY_NAME] = "name",
	[KEY_ALLOW] = "allow",
	[KEY_DENY] = "deny",
	[KEY_FROM] = "from",
	[KEY_TO] = "to",
	[KEY_ADDRESS] = "address",
	[KEY_PORT] = "port",
	[KEY_TRANSPORT] = "transport",
	[KEY_UNIX] = "unix",
	[KEY_PLAIN] = "plain",
	[KEY_PROTECTION] = "protection",
	[KEY_IDLE] = "idle",
	[KEY_CONNECTIONS] = "connections",
};

static const char *const party_keys[] = {"program", "group", "user", "node"};

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

static int find_key(struct compiler *c, const struct yaml_node *key, const char *const *names,
	int n, unsigned *seen)
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
	bool group;
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
	if (into->group) {
		struct group_use use = {.name = id, .rule = c->rules.n, .place = v->place};
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

static bool read_party(struct compiler *c, const struct yaml_node *v, struct image_party *a)
{
	unsigned seen = 0;
	bool ok = true;
	if (v->kind != YAML_MAP || !v->first) {
		complain(c, &v->place,
			"such as { program: cache }, with program, group, user, node",
			"expected whom it is about");
		return false;
	}
	for (const struct yaml_node *k = v->first; k; k = k->next) {
		struct names_into program = {
			.what = "a program's name", .flags = &a->flags, .star = IMAGE_PARTY_STAR};
		struct names_into group = {
			.what = "a group's name", .flags = &a->flags, .group = true};
		struct names_into node = {.what = "a node's name",
			.flags = &a->flags,
			.star = IMAGE_PARTY_NODE_ANY,
			.self = IMAGE_PARTY_NODE_SELF};
		switch (find_key(c, k, party_keys, ARRAY_LEN(party_keys), &seen)) {
		case 0:
			ok &= read_names(c, k->value, &program, &a->programs);
			if (a->flags & IMAGE_PARTY_STAR && a->programs.count) {
				complain(c, &k->value->place, "keep one of them",
					"\"*\" already means every enrolled program");
				ok = false;
			}
			break;
		case 1:
			ok &= read_names(c, k->value, &group, &a->groups);
			break;
		case 2:
			ok &= read_users(c, k->value, &a->users);
			break;
		case 3:
			ok &= read_names(c, k->value, &node, &a->nodes);
			break;
		default:
			ok = false;
		}
	}
	return ok;
}

static bool one_operation(struct compiler *c, const struct yaml_node *v, void *data)
{
	static const char *const words[] = {"run", "connect", "bind", "publish"};
	struct source_rule *s = data;
	int i;
	if (!value_word(c, v, words, ARRAY_LEN(words), &i))
		return false;
	uint8_t op = (uint8_t)IMAGE_OP(POLICY_OP_RUN + i);
	if (s->r.ops & op) {
		complain(c, &v->place, "keep one of them", "`%s` is listed twice", v->text);
		return false;
	}
	s->r.ops |= op;
	return true;
}

static bool read_transport(struct compiler *c, const struct yaml_node *v, struct image_rule *r)
{
	static const char *const words[] = {"tcp", "udp", "any"};
	static const uint8_t masks[] = {IMAGE_TRANSPORT(POLICY_TCP), IMAGE_TRANSPORT(POLICY_UDP),
		IMAGE_TRANSPORT(POLICY_TCP) | IMAGE_TRANSPORT(POLICY_UDP)};
	int i;
	if (!value_word(c, v, words, ARRAY_LEN(words), &i))
		return false;
	r->transports = masks[i];
	return true;
}

static bool read_key(
	struct compiler *c, struct source_rule *s, enum rule_key key, const struct yaml_node *v)
{
	static const char *const protections[] = {"isolate", "encrypt"};
	struct image_rule *r = &s->r;
	bool flag = false;
	int i = 0;
	switch (key) {
	case KEY_NAME:
		s->place = v->place;
		return value_name(c, v, "a rule's name", &r->name);
	case KEY_DENY:
		r->flags |= IMAGE_RULE_DENY;
		return value_each(c, v, "an operation", one_operation, s);
	case KEY_ALLOW:
		return value_each(c, v, "an operation", one_operation, s);
	case KEY_FROM:
		return read_party(c, v, &r->from);
	case KEY_TO:
		return read_party(c, v, &r->to);
	case KEY_ADDRESS:
		return value_addresses(c, v, &r->ranges4, &r->ranges6);
	case KEY_PORT:
		return value_ports(c, v, &r->ports);
	case KEY_TRANSPORT:
		return read_transport(c, v, r);
	case KEY_UNIX:
		if (!value_path(c, v, &r->path, &flag))
			return false;
		r->flags |= flag ? IMAGE_RULE_PREFIX : 0;
		return true;
	case KEY_PLAIN:
		if (!value_bool(c, v, &flag))
			return false;
		r->flags |= flag ? IMAGE_RULE_PLAIN : IMAGE_RULE_NOT_PLAIN;
		return true;
	case KEY_PROTECTION:
		if (!value_word(c, v, protections, 2, &i))
			return false;
		r->encrypt = (uint8_t)i;
		return true;
	case KEY_IDLE:
		return value_duration(c, v, &r->idle_ms);
	case KEY_CONNECTIONS:
		return value_count(c, v, 1000000, &r->connections);
	default:
		return false;
	}
}

static void rule_name(struct compiler *c, struct source_rule *s)
{
	struct source_name *n = &c->names.list[s->r.name];
	if (n->rule) {
		char hint[64];
		snprintf(hint, sizeof(hint), "the other one is in line %u",
			c->rules.v[n->rule - 1].place.line);
		complain(c, &s->place, hint, "a second rule of the name `%s`", n->text);
		s->bad = true;
		return;
	}
	n->rule = c->rules.n + 1;
}

void rule_read(struct compiler *c, const struct yaml_node *item)
{
	struct source_rule s = {.place = item->place};
	unsigned seen = 0;
	if (item->kind != YAML_MAP) {
		complain(c, &item->place, "such as `- name: example`, then its keys below",
			"a rule is a map of keys");
		return;
	}
	if (c->rules.n == POLICY_RULES_MAX) {
		complain(c, &item->place, "", "too many rules (at most %u)", POLICY_RULES_MAX);
		return;
	}
	for (const struct yaml_node *k = item->first; k; k = k->next) {
		int key = find_key(c, k, rule_keys, _KEY_N, &seen);
		if (key < 0 || !read_key(c, &s, (enum rule_key)key, k->value))
			s.bad = true;
	}
	s.r.line = s.place.line;
	if (s.r.name)
		rule_name(c, &s);
	rule_check(c, &s, seen, item);
	pool_add(c, &c->rules, s);
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
