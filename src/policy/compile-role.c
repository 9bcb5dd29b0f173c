/*
 * Roles: who holds them, which others they include, which they exclude. What they give is worked
 * out here once, so that a decision only joins sets. Separation of duty is checked here as far as
 * the text alone shows it, and at each decision for the rest (match-party.c).
 */
#include "policy/compile-source.h"

#include <stdio.h>
#include <string.h>

#define PAIRS_MAX 4000000u /* bindings compared with each other */

static const char *const role_keys[] = {"members", "includes", "excludes"};

static bool set_has(const uint64_t *set, uint32_t i)
{
	return set[i / 64] >> (i % 64) & 1;
}

static void set_add(uint64_t *set, uint32_t i)
{
	set[i / 64] |= 1ull << (i % 64);
}

static void read_members(struct compiler *c, const struct yaml_node *v, uint32_t role)
{
	struct source_binding b = {.role = role, .place = v->place};
	if (v->kind == YAML_LIST && !v->first)
		complain(c, &v->place, "give it members, or delete it", "the list is empty");
	if (v->kind != YAML_LIST) {
		if (party_read(c, v, false, &b.party))
			pool_add(c, &c->bindings, b);
		return;
	}
	uint32_t n = 0;
	for (const struct yaml_node *i = v->first; i; i = i->next, n++) {
		if (n == IMAGE_LIST_MAX) {
			complain(c, &i->place, "", "too many members (at most %u)", IMAGE_LIST_MAX);
			return;
		}
		b = (struct source_binding){.role = role, .place = i->place};
		if (party_read(c, i, false, &b.party))
			pool_add(c, &c->bindings, b);
	}
}

static void read_role(struct compiler *c, const struct yaml_node *k, uint32_t name)
{
	struct source_role role = {.name = name, .place = k->place};
	uint32_t index = c->roles.n;
	unsigned seen = 0;
	if (k->value->kind != YAML_MAP) {
		complain(c, &k->value->place, "such as { members: { user: alice } }",
			"a role says who holds it (members), includes or excludes");
		return;
	}
	for (const struct yaml_node *e = k->value->first; e; e = e->next) {
		switch (key_find(c, e, role_keys, ARRAY_LEN(role_keys), &seen)) {
		case 0:
			read_members(c, e->value, index);
			break;
		case 1:
			names_read(c, e->value, "a role's name", NAME_ROLE_SEEN, &role.includes);
			break;
		case 2:
			names_read(c, e->value, "a role's name", NAME_ROLE_SEEN, &role.excludes);
			break;
		default:
			break;
		}
	}
	c->names.list[name].rule = index + 1;
	pool_add(c, &c->roles, role);
}

void roles_read(struct compiler *c, const struct yaml_node *value)
{
	if (value->kind != YAML_MAP) {
		complain(c, &value->place, "such as `operator: { members: { user: alice } }`",
			"roles is a map of names");
		return;
	}
	for (const struct yaml_node *k = value->first; k; k = k->next) {
		uint32_t id;
		if (!value_name(c, k, "a role's name", &id))
			continue;
		struct source_name *n = &c->names.list[id];
		if (n->flags & NAME_ROLE_SEEN) {
			complain(c, &k->place, "keep one of them", "the role `%s` is given twice",
				k->text);
			continue;
		}
		if (c->roles.n == POLICY_ROLES_MAX) {
			complain(c, &k->place, "", "too many roles (at most %u)", POLICY_ROLES_MAX);
			return;
		}
		n->flags |= NAME_ROLE_SEEN;
		read_role(c, k, id);
	}
}

/* The role a name of includes or excludes means; -1 when it is none (complained of elsewhere). */
static int role_of(const struct compiler *c, struct image_list l, uint32_t i)
{
	const struct source_name *n = &c->names.list[c->ids.v[l.first + i]];
	return n->flags & NAME_ROLE_SEEN && n->rule ? (int)n->rule - 1 : -1;
}

static void close_sets(struct compiler *c)
{
	for (uint32_t i = 0; i < c->roles.n; i++) {
		struct source_role *r = &c->roles.v[i];
		for (uint32_t k = 0; k < r->includes.count; k++)
			if (role_of(c, r->includes, k) >= 0)
				set_add(r->gives, (uint32_t)role_of(c, r->includes, k));
		for (uint32_t k = 0; k < r->excludes.count; k++) {
			int x = role_of(c, r->excludes, k);
			if (x < 0)
				continue;
			set_add(r->excluded, (uint32_t)x);
			set_add(c->roles.v[x].excluded, i);
		}
	}
	for (uint32_t k = 0; k < c->roles.n; k++)
		for (uint32_t i = 0; i < c->roles.n; i++)
			for (uint32_t w = 0;
				set_has(c->roles.v[i].gives, k) && w < IMAGE_ROLE_WORDS; w++)
				c->roles.v[i].gives[w] |= c->roles.v[k].gives[w];
}

/* The first two roles of the set that exclude each other. */
static bool find_conflict(
	const struct compiler *c, const uint64_t *set, uint32_t *ret_a, uint32_t *ret_b)
{
	for (uint32_t a = 0; a < c->roles.n; a++)
		for (uint32_t b = a; set_has(set, a) && b < c->roles.n; b++)
			if (set_has(set, b) && set_has(c->roles.v[a].excluded, b)) {
				*ret_a = a;
				*ret_b = b;
				return true;
			}
	return false;
}

static const char *role_name(const struct compiler *c, uint32_t role)
{
	return c->names.list[c->roles.v[role].name].text;
}

/* Does holding a by one member mean holding b by another? */
static void check_bindings(struct compiler *c)
{
	uint32_t spent = 0, x, y;
	for (uint32_t i = 0; i < c->bindings.n; i++)
		for (uint32_t k = 0; k < c->bindings.n && spent < PAIRS_MAX; k++, spent++) {
			const struct source_binding *w = &c->bindings.v[k], *n = &c->bindings.v[i];
			uint64_t both[IMAGE_ROLE_WORDS];
			for (uint32_t s = 0; s < IMAGE_ROLE_WORDS; s++)
				both[s] =
					c->roles.v[w->role].gives[s] | c->roles.v[n->role].gives[s];
			if (w->role == n->role || !find_conflict(c, both, &x, &y) ||
				!party_covers(c, &w->party, &n->party, false))
				continue;
			char hint[200];
			snprintf(hint, sizeof(hint), "who fits here fits line %u too: narrow one",
				w->place.line);
			complain(c, &n->place, hint,
				"separation of duty: nobody may hold `%s` and "
				"`%s`",
				role_name(c, x), role_name(c, y));
			return;
		}
}

void roles_check(struct compiler *c)
{
	uint32_t a, b;
	close_sets(c);
	for (uint32_t i = 0; i < c->roles.n; i++) {
		struct source_role *r = &c->roles.v[i];
		if (set_has(r->gives, i)) {
			complain(c, &r->place, "delete one of `includes`",
				"the role `%s` includes itself", role_name(c, i));
			return;
		}
		set_add(r->gives, i);
		if (find_conflict(c, r->gives, &a, &b))
			complain(c, &r->place, "leave one out",
				"separation of duty: `%s` gives `%s` and `%s`, which exclude each "
				"other",
				role_name(c, i), role_name(c, a), role_name(c, b));
	}
	if (!c->d->n_errors)
		check_bindings(c);
}
