/*
 * Who is asking: one end of a question against one party of a rule, and the names that count for
 * it: programs, the groups they are in, the roles these give.
 *
 * What a party leaves out is read narrowly in a rule that allows (enrolled programs, this node) and
 * broadly in one that denies (anything). Input: a checked image; the question's ids are checked
 * here. Pure; lists are sorted, so log n each. Roles cost one pass over their bindings, and nothing
 * where a policy has none.
 */
#include "policy/image.h"

#include <string.h>

static void add_once(uint32_t *list, uint32_t *n, uint32_t max, uint32_t id)
{
	for (uint32_t i = 0; i < *n; i++)
		if (list[i] == id)
			return;
	if (*n < max)
		list[(*n)++] = id;
}

static void match_roles(const struct policy *p, struct match_party *m);

bool match_party_prepare(
	const struct policy *p, const struct policy_party *a, struct match_party *ret)
{
	ret->party = a;
	ret->n_programs = ret->n_groups = 0;
	if (a->n_programs > POLICY_PARTY_NAMES_MAX || a->n_groups > POLICY_PARTY_NAMES_MAX)
		return false;
	for (uint32_t i = 0; i < a->n_programs; i++) {
		uint32_t id = a->programs[i];
		if (!id || id >= p->n_names)
			continue;
		add_once(ret->programs, &ret->n_programs, POLICY_PARTY_NAMES_MAX, id);
		const struct image_list *l = &p->names[id].groups;
		const uint32_t *ids = list_ids(p, l);
		for (uint32_t k = 0; k < l->count; k++)
			add_once(ret->groups, &ret->n_groups, MATCH_GROUPS_MAX, ids[k]);
	}
	for (uint32_t i = 0; i < a->n_groups; i++) {
		uint32_t id = a->groups[i];
		if (id && id < p->n_names && p->names[id].flags & IMAGE_NAME_ENROLLED)
			add_once(ret->groups, &ret->n_groups, MATCH_GROUPS_MAX, id);
	}
	match_roles(p, ret);
	return true;
}

static bool list_has(const struct policy *p, const struct image_list *l, uint32_t id)
{
	const uint32_t *ids = list_ids(p, l);
	uint32_t lo = 0, hi = l->count;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (ids[mid] == id)
			return true;
		if (ids[mid] < id)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

static bool list_has_any(
	const struct policy *p, const struct image_list *l, const uint32_t *ids, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (list_has(p, l, ids[i]))
			return true;
	return false;
}

static bool programs_match(
	const struct policy *p, const struct image_party *a, const struct match_party *m, bool deny)
{
	if ((!deny || a->flags & IMAGE_PARTY_STAR) && !m->party->enrolled)
		return false;
	if (a->programs.count && !list_has_any(p, &a->programs, m->programs, m->n_programs))
		return false;
	return !a->groups.count || list_has_any(p, &a->groups, m->groups, m->n_groups);
}

/*
 * A name means the uid it had here when the policy was compiled, for processes of this node; for
 * others the name their node reports. A name nobody could resolve matches nobody when it allows,
 * everybody when it denies.
 */
static bool user_matches(const struct image_user *u, const struct policy_party *a, bool deny)
{
	if (u->name && !a->self)
		return a->user == u->name;
	if (u->uid == IMAGE_UID_NONE)
		return deny;
	return a->uid == u->uid;
}

static bool users_match(const struct policy *p, const struct image_party *a,
	const struct policy_party *party, bool deny)
{
	for (uint32_t i = 0; i < a->users.count; i++)
		if (user_matches(&p->users[a->users.first + i], party, deny))
			return true;
	return !a->users.count;
}

bool match_node(const struct policy *p, const struct image_party *a,
	const struct policy_party *party, bool deny)
{
	if (!a->nodes.count && !(a->flags & (IMAGE_PARTY_NODE_ANY | IMAGE_PARTY_NODE_SELF)))
		return deny || party->self;
	if (a->flags & IMAGE_PARTY_NODE_ANY)
		return true;
	if (a->flags & IMAGE_PARTY_NODE_SELF && party->self)
		return true;
	return party->node && list_has(p, &a->nodes, party->node);
}

static bool units_match(
	const struct policy *p, const struct image_party *a, const struct policy_party *party)
{
	return !a->units.count || (party->unit && list_has(p, &a->units, party->unit)) ||
	       (party->unit_template && list_has(p, &a->units, party->unit_template));
}

unsigned match_party_differs(
	const struct policy *p, const struct image_party *a, const struct match_party *m, bool deny)
{
	enum match_side side = deny ? MATCH_DENY : MATCH_ALLOW;
	unsigned d = 0;
	if (!programs_match(p, a, m, deny))
		d |= POLICY_DIFFERS_FROM_PROGRAM;
	if (a->users.count && !users_match(p, a, m->party, deny))
		d |= POLICY_DIFFERS_FROM_USER;
	if (!match_node(p, a, m->party, deny))
		d |= POLICY_DIFFERS_FROM_NODE;
	if (a->roles.count && !list_has_any(p, &a->roles, m->roles[side], m->n_roles[side]))
		d |= POLICY_DIFFERS_FROM_ROLE;
	if (!units_match(p, a, m->party))
		d |= POLICY_DIFFERS_FROM_UNIT;
	return d;
}

/*
 * Roles: who fits one of a role's bindings holds it and what it includes. Roles that exclude each
 * other must not meet in one process: one that holds two such has none as far as rules allow, and
 * all as far as they deny.
 */
static bool set_has(const uint64_t *set, uint32_t i)
{
	return set[i / 64] >> (i % 64) & 1;
}

static void find_conflict(const struct policy *p, const uint64_t *held, struct match_party *m)
{
	for (uint32_t i = 0; i < p->n_roles; i++) {
		const struct image_role *r = &p->roles[i];
		for (uint32_t k = 0; set_has(held, i) && k < p->n_roles; k++)
			if (set_has(r->excludes, k) && set_has(held, k)) {
				m->conflict[0] = r->name;
				m->conflict[1] = p->roles[k].name;
				return;
			}
	}
}

static void hold(const struct policy *p, struct match_party *m, enum match_side side)
{
	uint64_t held[IMAGE_ROLE_WORDS] = {0};
	for (uint32_t i = 0; i < p->n_bindings; i++) {
		const struct image_binding *b = &p->bindings[i];
		const struct image_party *a = &p->parties[b->party];
		if (match_party_differs(p, a, m, side == MATCH_DENY))
			continue;
		for (uint32_t w = 0; w < IMAGE_ROLE_WORDS; w++)
			held[w] |= p->roles[b->role].gives[w];
	}
	if (side == MATCH_ALLOW)
		find_conflict(p, held, m);
	for (uint32_t i = 0; i < p->n_roles; i++)
		if (set_has(held, i) && !(side == MATCH_ALLOW && m->conflict[0]))
			m->roles[side][m->n_roles[side]++] = p->roles[i].name;
}

static void match_roles(const struct policy *p, struct match_party *m)
{
	m->n_roles[MATCH_ALLOW] = m->n_roles[MATCH_DENY] = 0;
	m->conflict[0] = m->conflict[1] = 0;
	if (!p->n_bindings)
		return;
	hold(p, m, MATCH_ALLOW);
	hold(p, m, MATCH_DENY);
}
