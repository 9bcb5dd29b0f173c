/* From text to image: the top-level keys, and the order of the compiler's parts. */
#include "policy/compile-source.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

enum top_key {
	TOP_VERSION,
	TOP_DNS,
	TOP_RUN,
	TOP_ACCEPT,
	TOP_PERMISSIVE,
	TOP_TIMEZONE,
	TOP_GROUPS,
	TOP_ROLES,
	TOP_LABELS,
	TOP_RULES,
	_TOP_N
};
static const char *const top_keys[_TOP_N] = {"version", "dns", "run", "accept", "permissive",
	"timezone", "groups", "roles", "labels", "rules"};

static void set_flag(struct compiler *c, uint32_t flag, bool on)
{
	c->flags = (c->flags & ~flag) | (on ? flag : 0);
}

/* `any`, or the programs that are. */
static void read_permissive(struct compiler *c, const struct yaml_node *v)
{
	struct image_list l = {0};
	if (v->kind == YAML_SCALAR && !strcmp(v->text, "any")) {
		set_flag(c, IMAGE_PERMISSIVE_ANY, true);
		return;
	}
	names_read(c, v, "a program's name, or any", 0, &l);
	for (uint32_t i = 0; i < l.count; i++)
		c->names.list[c->ids.v[l.first + i]].flags |= IMAGE_NAME_PERMISSIVE;
}

static void top_value(struct compiler *c, enum top_key key, const struct yaml_node *v)
{
	static const char *const runs[] = {"any", "enrolled"}, *const accepts[] = {"any", "listed"};
	bool flag = true;
	int i = 0;
	switch (key) {
	case TOP_VERSION:
		if (v->kind != YAML_SCALAR || strcmp(v->text, "1"))
			complain(c, &v->place, "`version: 1`",
				"this Belay reads version 1 of the policy language");
		break;
	case TOP_DNS:
		if (value_bool(c, v, &flag))
			set_flag(c, IMAGE_DNS, flag);
		break;
	case TOP_RUN:
		if (value_word(c, v, runs, 2, &i))
			set_flag(c, IMAGE_RUN_ENROLLED, i);
		break;
	case TOP_ACCEPT:
		if (value_word(c, v, accepts, 2, &i))
			set_flag(c, IMAGE_ACCEPT_LISTED, i);
		break;
	case TOP_PERMISSIVE:
		read_permissive(c, v);
		break;
	case TOP_TIMEZONE:
		zone_read(c, v);
		break;
	case TOP_GROUPS:
		groups_read(c, v);
		break;
	case TOP_ROLES:
		roles_read(c, v);
		break;
	case TOP_LABELS:
		labels_read(c, v);
		break;
	case TOP_RULES: /* a list comes rule by rule */
		if (v->kind != YAML_SCALAR || v->text[0])
			complain(c, &v->place, "- name: ...", "rules is a list");
		break;
	default:
		break;
	}
}

/* value is NULL for the list of rules: they come one by one, to rule_read(). */
static void top_entry(
	struct compiler *c, const struct yaml_node *key, const struct yaml_node *value)
{
	int k = 0;
	while (k < _TOP_N && strcmp(key->text, top_keys[k]))
		k++;
	if (k == _TOP_N) {
		unknown_key(c, key, top_keys, _TOP_N);
		return;
	}
	if (c->seen & SEEN(k))
		complain(c, &key->place, "keep one of them", "`%s` is given twice", key->text);
	c->seen |= SEEN(k);
	if (value)
		top_value(c, (enum top_key)k, value);
}

static void compiler_deinit(struct compiler *c)
{
	names_deinit(&c->names);
	names_deinit(&c->rule_names);
	free(c->rules.v);
	free(c->ids.v);
	free(c->users.v);
	free(c->ports.v);
	free(c->ranges4.v);
	free(c->ranges6.v);
	free(c->uses.v);
	free(c->memberships.v);
	free(c->windows.v);
	free(c->zones.v);
	free(c->roles.v);
	free(c->bindings.v);
	free(c->labels.v);
}

static int compile(struct compiler *c, const char *text, size_t len, void **ret, size_t *ret_len)
{
	static const struct place top = {1, 1, 1};
	if (len > POLICY_TEXT_MAX || memchr(text, '\0', len)) {
		complain(c, &top, "", "this is no text, or too long");
		return -EINVAL;
	}
	int r = names_init(&c->names);
	if (r == 0)
		r = names_init(&c->rule_names);
	if (r < 0)
		return r;
	r = yaml_read(c, text, len, top_entry, "rules", rule_read);
	if (r < 0)
		return r;
	if (!(c->seen & SEEN(TOP_VERSION)) && !c->d->n_errors)
		complain(c, &top, "begin with `version: 1`", "the policy does not say its version");
	policy_check(c);
	if (c->no_memory)
		return -ENOMEM;
	if (c->d->n_errors)
		return -EINVAL;
	r = policy_emit(c, ret, ret_len);
	if (r == -E2BIG) {
		complain(c, &top, "", "the policy is too large");
		r = -EINVAL;
	}
	return r;
}

int policy_compile(const char *text, size_t len, const struct policy_compile_options *options,
	struct policy_diagnostics *d, void **ret, size_t *ret_len)
{
	char source[IMAGE_PATH_MAX];
	struct compiler c = {.options = *options, .d = d, .flags = IMAGE_DNS};
	*d = (struct policy_diagnostics){0};
	snprintf(source, sizeof(source), "%s", options->source ? options->source : "policy");
	for (char *s = source; *s; s++)
		*s = (unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s;
	c.options.source = source;
	int r = compile(&c, text, len, ret, ret_len);
	compiler_deinit(&c);
	diagnostics_sort(d);
	return r;
}
