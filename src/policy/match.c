/*
 * Does one rule apply to one question? Used by the evaluator for the few rules its index yields,
 * and by explain for all of them. What a rule leaves out is read narrowly when it allows (enrolled
 * programs, this node, TCP, inside Belay) and broadly when it denies (anything), so that an
 * omission never lets more pass.
 *
 * Input: a checked image; the question's ids are checked here. Pure; lists are sorted, so log n
 * each.
 */
#include "policy/image.h"

#include <string.h>

/* The kernel chooses from these when a program binds port 0 (the fabric's ip_local_port_range lies
 * inside). */
#define PORT_CHOSEN_FIRST 32768

static void add_once(uint32_t *list, uint32_t *n, uint32_t max, uint32_t id)
{
	for (uint32_t i = 0; i < *n; i++)
		if (list[i] == id)
			return;
	if (*n < max)
		list[(*n)++] = id;
}

static bool party_prepare(
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
		struct image_list l = p->names[id].groups;
		for (uint32_t k = 0; k < l.count; k++)
			add_once(
				ret->groups, &ret->n_groups, MATCH_GROUPS_MAX, p->ids[l.first + k]);
	}
	for (uint32_t i = 0; i < a->n_groups; i++) {
		uint32_t id = a->groups[i];
		if (id && id < p->n_names && p->names[id].flags & IMAGE_NAME_ENROLLED)
			add_once(ret->groups, &ret->n_groups, MATCH_GROUPS_MAX, id);
	}
	return true;
}

bool match_prepare(const struct policy *p, const struct policy_question *q, struct match *m)
{
	m->q = q;
	m->to_used = q->op == POLICY_OP_CONNECT && !q->plain;
	m->to.n_programs = m->to.n_groups = 0;
	m->to.party = &q->to;
	if (q->op < POLICY_OP_RUN || q->op > POLICY_OP_PUBLISH || q->half > POLICY_CALLER)
		return false;
	if (q->half == POLICY_CALLER && q->op != POLICY_OP_CONNECT)
		return false;
	if (q->op != POLICY_OP_RUN) {
		if (q->transport == POLICY_UNIX) {
			if (q->op != POLICY_OP_CONNECT || q->plain || !q->unix_path ||
				q->unix_path[0] != '/')
				return false;
		} else if (q->transport > POLICY_UDP ||
			   (q->address.ip_len != 4 && q->address.ip_len != 16)) {
			return false;
		}
	}
	if (m->to_used && q->half == POLICY_PAIR && !party_prepare(p, &q->to, &m->to))
		return false;
	return party_prepare(p, &q->from, &m->from);
}

static bool list_has(const struct policy *p, struct image_list l, uint32_t id)
{
	const uint32_t *ids = p->ids + l.first;
	uint32_t lo = 0, hi = l.count;
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
	const struct policy *p, struct image_list l, const uint32_t *ids, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (list_has(p, l, ids[i]))
			return true;
	return false;
}

static bool party_names_nobody(const struct image_party *a)
{
	return !a->programs.count && !a->groups.count && !(a->flags & IMAGE_PARTY_STAR);
}

static bool programs_match(
	const struct policy *p, const struct image_party *a, const struct match_party *m, bool deny)
{
	if (!deny && !m->party->enrolled)
		return false;
	if (a->flags & IMAGE_PARTY_STAR && !m->party->enrolled)
		return false;
	if (a->programs.count && !list_has_any(p, a->programs, m->programs, m->n_programs))
		return false;
	return !a->groups.count || list_has_any(p, a->groups, m->groups, m->n_groups);
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

static bool nodes_match(const struct policy *p, const struct image_party *a,
	const struct policy_party *party, bool deny)
{
	if (!a->nodes.count && !(a->flags & (IMAGE_PARTY_NODE_ANY | IMAGE_PARTY_NODE_SELF)))
		return deny || party->self;
	if (a->flags & IMAGE_PARTY_NODE_ANY)
		return true;
	if (a->flags & IMAGE_PARTY_NODE_SELF && party->self)
		return true;
	return party->node && list_has(p, a->nodes, party->node);
}

static unsigned from_differs(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	unsigned d = 0;
	bool open = m->q->op == POLICY_OP_RUN && party_names_nobody(&r->from);
	if (!open && !programs_match(p, &r->from, &m->from, deny))
		d |= POLICY_DIFFERS_FROM_PROGRAM;
	if (!users_match(p, &r->from, &m->q->from, deny))
		d |= POLICY_DIFFERS_FROM_USER;
	if (!nodes_match(p, &r->from, &m->q->from, deny))
		d |= POLICY_DIFFERS_FROM_NODE;
	return d;
}

static bool party_is_empty(const struct image_party *a)
{
	return party_names_nobody(a) && !a->users.count && !a->nodes.count && !a->flags;
}

/* The other end, when it is not known which program it is. */
static unsigned to_unknown_differs(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	unsigned d = 0;
	if (deny && (!party_names_nobody(&r->to) || r->to.users.count))
		d |= POLICY_DIFFERS_TO_PROGRAM;
	if (m->q->transport != POLICY_UNIX && !nodes_match(p, &r->to, &m->q->to, deny))
		d |= POLICY_DIFFERS_TO_NODE;
	return d;
}

static unsigned to_differs(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct policy_question *q = m->q;
	if (!m->to_used) /* plain: `to` was not given by the rule, or it is not about plain */
		return party_is_empty(&r->to) ? 0 : POLICY_DIFFERS_TO_PROGRAM;
	if (q->half == POLICY_CALLER)
		return to_unknown_differs(p, m, r, deny);
	if (q->transport == POLICY_UNIX) {
		if (party_is_empty(&r->to))
			return 0;
		if (!q->unix_peer)
			return POLICY_DIFFERS_TO_PROGRAM;
	}
	unsigned d = 0;
	if (!programs_match(p, &r->to, &m->to, deny))
		d |= POLICY_DIFFERS_TO_PROGRAM;
	if (!users_match(p, &r->to, &q->to, deny))
		d |= POLICY_DIFFERS_TO_USER;
	if (!nodes_match(p, &r->to, &q->to, deny))
		d |= POLICY_DIFFERS_TO_NODE;
	return d;
}

static bool ports_match(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct image_ports *ports = p->ports + r->ports.first;
	uint16_t port = m->q->address.port;
	uint32_t lo = 0, hi = r->ports.count;
	if (!hi)
		return true;
	if (deny && m->q->op == POLICY_OP_BIND && port == 0 &&
		ports[hi - 1].last >= PORT_CHOSEN_FIRST)
		return true;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (port < ports[mid].first)
			hi = mid;
		else if (port > ports[mid].last)
			lo = mid + 1;
		else
			return true;
	}
	return false;
}

static uint64_t be64(const uint8_t *b)
{
	uint64_t v = 0;
	for (int i = 0; i < 8; i++)
		v = v << 8 | b[i];
	return v;
}

static bool in_ranges4(const struct image_range4 *r, uint32_t n, const uint8_t *ip)
{
	uint32_t a = (uint32_t)ip[0] << 24 | (uint32_t)ip[1] << 16 | (uint32_t)ip[2] << 8 | ip[3];
	uint32_t lo = 0, hi = n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (a < r[mid].first)
			hi = mid;
		else if (a > r[mid].last)
			lo = mid + 1;
		else
			return true;
	}
	return false;
}

static bool in_ranges6(const struct image_range6 *r, uint32_t n, const uint8_t *ip)
{
	uint64_t h = be64(ip), l = be64(ip + 8);
	uint32_t lo = 0, hi = n;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		const struct image_range6 *x = &r[mid];
		if (h < x->first.hi || (h == x->first.hi && l < x->first.lo))
			hi = mid;
		else if (h > x->last.hi || (h == x->last.hi && l > x->last.lo))
			lo = mid + 1;
		else
			return true;
	}
	return false;
}

/* A wildcard a program binds to answers on every address, of both families perhaps. */
static bool address_matches(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct addr *a = &m->q->address;
	if (!r->ranges4.count && !r->ranges6.count)
		return true;
	if (deny && m->q->op != POLICY_OP_CONNECT && addr_is_any(a))
		return true;
	if (a->ip_len == 4)
		return in_ranges4(p->ranges4 + r->ranges4.first, r->ranges4.count, a->ip);
	return in_ranges6(p->ranges6 + r->ranges6.first, r->ranges6.count, a->ip);
}

static bool path_matches(const struct policy *p, const struct match *m, const struct image_rule *r)
{
	if (!r->path)
		return true;
	const char *path = policy_text(p, r->path);
	if (r->flags & IMAGE_RULE_PREFIX)
		return !strncmp(m->q->unix_path, path, strlen(path));
	return !strcmp(m->q->unix_path, path);
}

static unsigned where_differs(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct policy_question *q = m->q;
	if (q->op == POLICY_OP_RUN)
		return 0;
	unsigned d = 0;
	if (!(r->transports & IMAGE_TRANSPORT(q->transport)))
		d |= POLICY_DIFFERS_TRANSPORT;
	else if (q->transport == POLICY_UNIX)
		return path_matches(p, m, r) ? 0 : POLICY_DIFFERS_PATH;
	if (q->transport == POLICY_UNIX)
		return d;
	if (!ports_match(p, m, r, deny))
		d |= POLICY_DIFFERS_PORT;
	if (!address_matches(p, m, r, deny))
		d |= POLICY_DIFFERS_ADDRESS;
	return d;
}

unsigned match_rule(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool all)
{
	bool deny = r->flags & IMAGE_RULE_DENY;
	unsigned d = 0;
	if (m->q->op == POLICY_OP_CONNECT &&
		r->flags & (m->q->plain ? IMAGE_RULE_NOT_PLAIN : IMAGE_RULE_PLAIN))
		d |= POLICY_DIFFERS_PLAIN;
	if (d && !all)
		return d;
	d |= where_differs(p, m, r, deny);
	if (d && !all)
		return d;
	d |= from_differs(p, m, r, deny);
	if ((d && !all) || m->q->op != POLICY_OP_CONNECT)
		return d;
	return d | to_differs(p, m, r, deny);
}
