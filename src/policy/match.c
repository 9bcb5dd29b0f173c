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

bool match_prepare(const struct policy *p, const struct policy_question *q, struct match *m)
{
	m->q = q;
	m->to_used = (q->op == POLICY_OP_CONNECT && !q->plain) || q->op == POLICY_OP_ACCEPT;
	m->to.n_programs = m->to.n_groups = m->to.n_roles[0] = m->to.n_roles[1] = 0;
	m->to.party = &q->to;
	m->week_minute = match_week_minute(p, q->now_s);
	if (q->op < POLICY_OP_RUN || q->op > POLICY_OP_ACCEPT || !(IMAGE_OPS & IMAGE_OP(q->op)) ||
		q->half > POLICY_CALLER)
		return false;
	if (q->half == POLICY_CALLER && q->op != POLICY_OP_CONNECT)
		return false;
	if (q->op != POLICY_OP_RUN) {
		if (q->transport == POLICY_UNIX) {
			if ((q->op != POLICY_OP_CONNECT && q->op != POLICY_OP_BIND) || q->plain ||
				!q->unix_path || q->unix_path[0] != '/')
				return false;
		} else if (q->transport > POLICY_UDP ||
			   (q->address.ip_len != 4 && q->address.ip_len != 16)) {
			return false;
		}
	}
	if (m->to_used && q->half == POLICY_PAIR && !match_party_prepare(p, &q->to, &m->to))
		return false;
	return match_party_prepare(p, &q->from, &m->from);
}

static unsigned from_differs(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct image_party *a = &p->parties[r->from];
	unsigned d = match_party_differs(p, a, &m->from, deny);
	/* Who may run at all is about everybody, not only about who is enrolled. */
	if (m->q->op == POLICY_OP_RUN && party_names_nobody(a))
		d &= ~(unsigned)POLICY_DIFFERS_FROM_PROGRAM;
	return d;
}

/* The other end, when it is not known which program it is. */
static unsigned to_unknown_differs(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct image_party *a = &p->parties[r->to];
	unsigned d = 0;
	if (deny && (!party_names_nobody(a) || a->users.count))
		d |= POLICY_DIFFERS_TO_PROGRAM;
	if (m->q->transport != POLICY_UNIX && !match_node(p, a, &m->q->to, deny))
		d |= POLICY_DIFFERS_TO_NODE;
	return d;
}

static unsigned to_differs(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct policy_question *q = m->q;
	if (!m->to_used) /* plain: `to` was not given by the rule, or it is not about plain */
		return r->to ? POLICY_DIFFERS_TO_PROGRAM : 0;
	if (q->half == POLICY_CALLER)
		return to_unknown_differs(p, m, r, deny);
	if (q->transport == POLICY_UNIX) {
		if (!r->to)
			return 0;
		if (!q->unix_peer)
			return POLICY_DIFFERS_TO_PROGRAM;
	}
	return match_party_differs(p, &p->parties[r->to], &m->to, deny) << POLICY_DIFFERS_TO_SHIFT;
}

static bool ports_match(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct image_ports *ports = list_ports(p, &r->ports);
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
	const struct policy *p, const struct match *m, const struct image_where *w, bool deny)
{
	const struct addr *a = &m->q->address;
	if (!w->ranges4.count && !w->ranges6.count)
		return true;
	if (deny && m->q->op != POLICY_OP_CONNECT && addr_is_any(a))
		return true;
	if (a->ip_len == 4)
		return in_ranges4(p->ranges4 + w->ranges4.first, w->ranges4.count, a->ip);
	return in_ranges6(p->ranges6 + w->ranges6.first, w->ranges6.count, a->ip);
}

static bool path_matches(const struct policy *p, const struct match *m, const struct image_where *w)
{
	if (!w->path)
		return true;
	const char *path = policy_text(p, w->path);
	if (w->prefix)
		return !strncmp(m->q->unix_path, path, strlen(path));
	return !strcmp(m->q->unix_path, path);
}

unsigned match_where(
	const struct policy *p, const struct match *m, const struct image_rule *r, bool deny)
{
	const struct policy_question *q = m->q;
	const struct image_where *w = &p->wheres[r->where];
	if (q->op == POLICY_OP_RUN)
		return 0;
	if (!(r->transports & IMAGE_TRANSPORT(q->transport)))
		return q->transport == POLICY_UNIX
			       ? POLICY_DIFFERS_TRANSPORT
			       : POLICY_DIFFERS_TRANSPORT |
					 (ports_match(p, m, r, deny) ? 0 : POLICY_DIFFERS_PORT) |
					 (address_matches(p, m, w, deny) ? 0
									 : POLICY_DIFFERS_ADDRESS);
	if (q->transport == POLICY_UNIX)
		return path_matches(p, m, w) ? 0 : POLICY_DIFFERS_PATH;
	unsigned d = ports_match(p, m, r, deny) ? 0 : POLICY_DIFFERS_PORT;
	return d | (address_matches(p, m, w, deny) ? 0 : POLICY_DIFFERS_ADDRESS);
}

/* Is this end of the question at the label's place? */
static bool place_matches(
	const struct policy *p, const struct match *m, const struct image_rule *place, bool deny)
{
	const struct policy_question *q = m->q;
	if (!(place->ops & IMAGE_OP(q->op)) || match_where(p, m, place, deny))
		return false;
	if (!place->to)
		return true;
	const struct image_party *a = &p->parties[place->to];
	if (q->op != POLICY_OP_CONNECT)
		return !match_party_differs(p, a, &m->from, deny);
	if (q->half == POLICY_CALLER)
		return !deny; /* could be */
	bool known = !q->plain && (q->transport != POLICY_UNIX || q->unix_peer);
	return known && !match_party_differs(p, a, &m->to, deny);
}

/* Labels are sorted by name; a name has as many places as it needs. */
static bool label_matches(const struct policy *p, const struct match *m, uint32_t name, bool deny)
{
	uint32_t lo = 0, hi = p->n_labels;
	while (lo < hi) {
		uint32_t mid = lo + (hi - lo) / 2;
		if (p->labels[mid].name < name)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < p->n_labels && p->labels[lo].name == name; lo++)
		if (place_matches(p, m, &p->labels[lo], deny))
			return true;
	return false;
}

static unsigned how_differs(
	const struct policy *p, const struct match *m, const struct image_how *how, bool deny)
{
	const uint32_t *labels = p->tags + how->labels.first;
	bool label = !how->labels.count;
	for (uint32_t i = 0; i < how->labels.count && !label; i++)
		label = label_matches(p, m, labels[i], deny);
	return (label ? 0 : POLICY_DIFFERS_LABEL) |
	       (match_windows(p, how->windows, m->week_minute) ? 0 : POLICY_DIFFERS_TIME);
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
	d |= match_where(p, m, r, deny);
	if (d && !all)
		return d;
	d |= from_differs(p, m, r, deny);
	if (d && !all)
		return d;
	if (r->how)
		d |= how_differs(p, m, &p->hows[r->how], deny);
	if ((d && !all) || (m->q->op != POLICY_OP_CONNECT && m->q->op != POLICY_OP_ACCEPT))
		return d;
	return d | to_differs(p, m, r, deny);
}
