/* Labels: names for types of data, and the places where such data is. */
#include "policy/compile-source.h"

#include <string.h>

enum place_key { PLACE_PROGRAM, PLACE_ADDRESS, PLACE_PORT, PLACE_TRANSPORT, PLACE_UNIX };
static const char *const place_keys[] = {"at", "address", "port", "transport", "unix"};

static bool read_key(
	struct compiler *c, enum place_key key, const struct yaml_node *v, struct source_body *r)
{
	switch (key) {
	case PLACE_PROGRAM:
		return party_read(c, v, true, &r->to);
	case PLACE_ADDRESS:
		return value_addresses(c, v, &r->ranges4, &r->ranges6);
	case PLACE_PORT:
		return value_ports(c, v, &r->ports);
	case PLACE_TRANSPORT:
		return transport_read(c, v, &r->transports);
	case PLACE_UNIX:
		return value_path(c, v, &r->path, &r->prefix);
	default:
		return false;
	}
}

static void read_place(struct compiler *c, const struct yaml_node *v, uint32_t name)
{
	struct source_body r = {.name = name, .line = v->place.line};
	unsigned seen = 0;
	if (v->kind != YAML_MAP || !v->first) {
		complain(c, &v->place, "such as { at: { program: database }, port: 5432 }",
			"expected where such data is");
		return;
	}
	for (const struct yaml_node *k = v->first; k; k = k->next) {
		int key = key_find(c, k, place_keys, ARRAY_LEN(place_keys), &seen);
		if (key < 0 || !read_key(c, (enum place_key)key, k->value, &r))
			return;
	}
	if (r.path && seen & ~(1u << PLACE_UNIX | 1u << PLACE_PROGRAM)) {
		complain(c, &v->place, "write two places",
			"a Unix socket has a path; no address, port or transport");
		return;
	}
	if (c->labels.n == POLICY_LABELS_MAX) {
		complain(c, &v->place, "", "too many places of labels (at most %u)",
			POLICY_LABELS_MAX);
		return;
	}
	bool net = seen & (1u << PLACE_ADDRESS | 1u << PLACE_PORT);
	r.ops = IMAGE_OP(POLICY_OP_CONNECT);
	if (!r.path)
		r.ops |= IMAGE_OP(POLICY_OP_BIND) | IMAGE_OP(POLICY_OP_PUBLISH) |
			 IMAGE_OP(POLICY_OP_ACCEPT);
	if (r.path)
		r.transports = IMAGE_TRANSPORT(POLICY_UNIX);
	else if (!r.transports)
		r.transports = IMAGE_TRANSPORT(POLICY_TCP) | IMAGE_TRANSPORT(POLICY_UDP) |
			       (net ? 0 : IMAGE_TRANSPORT(POLICY_UNIX));
	pool_add(c, &c->labels, r);
}

void labels_read(struct compiler *c, const struct yaml_node *value)
{
	if (value->kind != YAML_MAP) {
		complain(c, &value->place, "such as `personal: [{ port: 5432 }]`",
			"labels is a map of names");
		return;
	}
	for (const struct yaml_node *k = value->first; k; k = k->next) {
		uint32_t id;
		if (!value_name(c, k, "a label's name", &id))
			continue;
		if (c->names.list[id].flags & NAME_LABEL_SEEN) {
			complain(c, &k->place, "keep one of them", "the label `%s` is given twice",
				k->text);
			continue;
		}
		c->names.list[id].flags |= NAME_LABEL_SEEN;
		if (k->value->kind == YAML_LIST && k->value->first) {
			for (const struct yaml_node *i = k->value->first; i; i = i->next)
				read_place(c, i, id);
		} else {
			read_place(c, k->value, id);
		}
	}
}
