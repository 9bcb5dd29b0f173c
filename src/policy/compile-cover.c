/*
 * Does one rule, or one party, apply wherever another does? Used to find rules that a denial hides
 * and roles that meet. Answers no when in doubt: what it says yes to is so.
 */
#include "policy/compile-source.h"

#include <string.h>

bool source_party_empty(const struct source_party *a)
{
	return !a->programs.count && !a->groups.count && !a->roles.count && !a->units.count &&
	       !a->users.count && !a->nodes.count && !a->flags;
}

bool ids_have(const struct compiler *c, struct image_list l, uint32_t id)
{
	for (uint32_t i = 0; i < l.count; i++)
		if (c->ids.v[l.first + i] == id)
			return true;
	return false;
}

static bool ids_cover(const struct compiler *c, struct image_list wide, struct image_list narrow)
{
	for (uint32_t i = 0; i < narrow.count; i++)
		if (!ids_have(c, wide, c->ids.v[narrow.first + i]))
			return false;
	return true;
}

static bool nodes_cover(
	const struct compiler *c, const struct source_party *w, const struct source_party *n)
{
	const uint32_t any = IMAGE_PARTY_NODE_ANY, self = IMAGE_PARTY_NODE_SELF;
	bool n_self = n->flags & self || (!n->nodes.count && !(n->flags & any));
	if ((!w->nodes.count && !(w->flags & (any | self))) || w->flags & any)
		return true;
	return !(n->flags & any) && (!n_self || w->flags & self) &&
	       ids_cover(c, w->nodes, n->nodes);
}

static bool users_cover(
	const struct compiler *c, const struct source_party *w, const struct source_party *n)
{
	if (!w->users.count)
		return true;
	for (uint32_t i = 0; i < n->users.count; i++) {
		bool found = false;
		for (uint32_t k = 0; k < w->users.count && !found; k++)
			found = !memcmp(&c->users.v[n->users.first + i],
				&c->users.v[w->users.first + k], sizeof(struct image_user));
		if (!found)
			return false;
	}
	return n->users.count > 0;
}

bool party_covers(const struct compiler *c, const struct source_party *w,
	const struct source_party *n, bool run)
{
	bool nobody = !n->programs.count && !n->groups.count && !n->roles.count &&
		      !n->units.count && !(n->flags & IMAGE_PARTY_STAR);
	if (w->flags & IMAGE_PARTY_STAR && run && nobody)
		return false;
	if (w->programs.count && (!n->programs.count || !ids_cover(c, w->programs, n->programs)))
		return false;
	if (w->groups.count && (!n->groups.count || !ids_cover(c, w->groups, n->groups)))
		return false;
	if (w->roles.count && (!n->roles.count || !ids_cover(c, w->roles, n->roles)))
		return false;
	if (w->units.count && (!n->units.count || !ids_cover(c, w->units, n->units)))
		return false;
	return users_cover(c, w, n) && nodes_cover(c, w, n);
}

static bool ranges_cover(
	const struct compiler *c, const struct source_body *w, const struct source_body *n)
{
	uint32_t i, k;
	if (!w->ranges4.count && !w->ranges6.count)
		return true;
	if (!n->ranges4.count && !n->ranges6.count)
		return false;
	for (i = 0; i < n->ranges4.count; i++) {
		const struct image_range4 *a = &c->ranges4.v[n->ranges4.first + i], *b = NULL;
		for (k = 0; k < w->ranges4.count; k++) {
			b = &c->ranges4.v[w->ranges4.first + k];
			if (b->first <= a->first && a->last <= b->last)
				break;
		}
		if (k == w->ranges4.count)
			return false;
	}
	return !n->ranges6.count;
}

static bool ports_cover(
	const struct compiler *c, const struct source_body *w, const struct source_body *n)
{
	uint32_t k;
	if (!w->ports.count)
		return true;
	for (uint32_t i = 0; i < n->ports.count; i++) {
		const struct image_ports *a = &c->ports.v[n->ports.first + i];
		for (k = 0; k < w->ports.count; k++) {
			const struct image_ports *b = &c->ports.v[w->ports.first + k];
			if (b->first <= a->first && a->last <= b->last)
				break;
		}
		if (k == w->ports.count)
			return false;
	}
	return n->ports.count > 0;
}

static bool path_covers(
	const struct compiler *c, const struct source_body *w, const struct source_body *n)
{
	if (!w->path || (w->path == n->path && (w->prefix || !n->prefix)))
		return true;
	if (!n->path || !w->prefix)
		return false;
	const char *prefix = c->names.list[w->path].text;
	return !strncmp(c->names.list[n->path].text, prefix, strlen(prefix));
}

bool rule_covers(const struct compiler *c, const struct source_body *w, const struct source_body *n)
{
	unsigned plain = IMAGE_RULE_PLAIN | IMAGE_RULE_NOT_PLAIN;
	bool run = n->ops & IMAGE_OP(POLICY_OP_RUN);
	if (n->ops & ~w->ops || n->transports & ~w->transports || w->windows.count ||
		w->flags & IMAGE_RULE_PERMISSIVE)
		return false;
	if (w->labels.count && (!n->labels.count || !ids_cover(c, w->labels, n->labels)))
		return false;
	if (w->flags & plain && (w->flags & plain) != (n->flags & plain) &&
		n->ops & IMAGE_OP(POLICY_OP_CONNECT))
		return false;
	if (!source_party_empty(&w->to) &&
		(n->path || n->flags & IMAGE_RULE_PLAIN || !party_covers(c, &w->to, &n->to, false)))
		return false;
	return party_covers(c, &w->from, &n->from, run) && ports_cover(c, w, n) &&
	       ranges_cover(c, w, n) && path_covers(c, w, n);
}
