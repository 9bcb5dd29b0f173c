/* Reads one rule: which keys there are and what each becomes. */
#include "policy/compile-source.h"

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
	[KEY_FIFO] = "fifo",
	[KEY_PLAIN] = "plain",
	[KEY_PROTECTION] = "protection",
	[KEY_IDLE] = "idle",
	[KEY_CONNECTIONS] = "connections",
	[KEY_RATE] = "rate",
	[KEY_WHEN] = "when",
	[KEY_LABEL] = "label",
	[KEY_PERMISSIVE] = "permissive",
};

static bool one_operation(struct compiler *c, const struct yaml_node *v, void *data)
{
	static const char *const words[] = {"run", "connect", "bind", "publish", "accept"};
	static const enum policy_op ops[] = {POLICY_OP_RUN, POLICY_OP_CONNECT, POLICY_OP_BIND,
		POLICY_OP_PUBLISH, POLICY_OP_ACCEPT};
	struct source_rule *s = data;
	int i;
	if (!value_word(c, v, words, ARRAY_LEN(words), &i))
		return false;
	uint16_t op = (uint16_t)IMAGE_OP(ops[i]);
	if (s->r.ops & op) {
		complain(c, &v->place, "keep one of them", "`%s` is listed twice", v->text);
		return false;
	}
	s->r.ops |= op;
	return true;
}

bool transport_read(struct compiler *c, const struct yaml_node *v, uint8_t *ret)
{
	static const char *const words[] = {"tcp", "udp", "any"};
	static const uint8_t masks[] = {IMAGE_TRANSPORT(POLICY_TCP), IMAGE_TRANSPORT(POLICY_UDP),
		IMAGE_TRANSPORT(POLICY_TCP) | IMAGE_TRANSPORT(POLICY_UDP)};
	int i;
	if (!value_word(c, v, words, ARRAY_LEN(words), &i))
		return false;
	*ret = masks[i];
	return true;
}

static bool read_key(
	struct compiler *c, struct source_rule *s, enum rule_key key, const struct yaml_node *v)
{
	static const char *const protections[] = {"isolate", "encrypt"};
	struct source_body *r = &s->r;
	bool flag = false;
	int i = 0;
	switch (key) {
	case KEY_NAME:
		s->place = v->place;
		return value_rule_name(c, v, &r->name);
	case KEY_DENY:
		r->flags |= IMAGE_RULE_DENY;
		return value_each(c, v, "an operation", one_operation, s);
	case KEY_ALLOW:
		return value_each(c, v, "an operation", one_operation, s);
	case KEY_FROM:
		return party_read(c, v, true, &r->from);
	case KEY_TO:
		return party_read(c, v, true, &r->to);
	case KEY_ADDRESS:
		return value_addresses(c, v, &r->ranges4, &r->ranges6);
	case KEY_PORT:
		return value_ports(c, v, &r->ports);
	case KEY_TRANSPORT:
		return transport_read(c, v, &r->transports);
	case KEY_UNIX:
	case KEY_FIFO:
		return value_path(c, v, &r->path, &r->prefix);
	case KEY_PLAIN:
		if (!value_bool(c, v, &flag))
			return false;
		r->flags |= flag ? IMAGE_RULE_PLAIN : IMAGE_RULE_NOT_PLAIN;
		return true;
	case KEY_PROTECTION:
		if (!value_word(c, v, protections, 2, &i))
			return false;
		r->encrypt = i;
		return true;
	case KEY_IDLE:
		return value_duration(c, v, &r->idle_ms);
	case KEY_CONNECTIONS:
		return value_count(c, v, 1000000, &r->connections);
	case KEY_RATE:
		return value_rate(c, v, &r->rate, &r->rate_s);
	case KEY_WHEN:
		return value_windows(c, v, &r->windows);
	case KEY_LABEL:
		return names_read(c, v, "a label's name", NAME_LABEL_SEEN, &r->labels);
	case KEY_PERMISSIVE:
		if (!value_bool(c, v, &flag))
			return false;
		r->flags |= flag ? IMAGE_RULE_PERMISSIVE : 0;
		return true;
	default:
		return false;
	}
}

static void rule_name(struct compiler *c, struct source_rule *s)
{
	struct source_name *n = &c->rule_names.list[s->r.name];
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
	c->in_rule = true;
	for (const struct yaml_node *k = item->first; k; k = k->next) {
		int key = key_find(c, k, rule_keys, _KEY_N, &seen);
		if (key < 0 || !read_key(c, &s, (enum rule_key)key, k->value))
			s.bad = true;
	}
	c->in_rule = false;
	s.r.line = s.place.line;
	if (s.r.name)
		rule_name(c, &s);
	rule_check(c, &s, seen, item);
	pool_add(c, &c->rules, s);
}
