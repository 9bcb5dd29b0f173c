/* The reference: docs/policy.md, word by word, without an index and without a thought of speed. */
#include <stddef.h>
#include <string.h>

#include "policy/test-world.h"

bool party_empty(const struct party *a)
{
	return !a->programs && !a->groups && !a->users && !a->nodes && !a->roles && !a->units &&
	       !a->star;
}

static bool ref_programs(const struct party *a, const struct side *s, bool deny)
{
	unsigned in = s->groups & 4;
	for (unsigned g = 0; g < 2; g++)
		in |= s->programs & world_members[g] ? 1u << g : 0;
	if (!deny && !s->enrolled)
		return false;
	if (a->star && !s->enrolled)
		return false;
	if (a->programs && !(a->programs & s->programs))
		return false;
	return !a->groups || a->groups & in;
}

static bool ref_nodes(const struct party *a, const struct side *s, bool deny)
{
	if (!a->nodes)
		return deny || s->node == 0;
	return a->nodes & 1u << NODE_ANY || (a->nodes & 1u << NODE_SELF && s->node == 0) ||
	       a->nodes & 1u << s->node;
}

static unsigned ref_roles(const struct side *s, bool deny);

static bool ref_party(const struct party *a, const struct side *s, bool deny)
{
	unsigned unit = s->unit == 1 ? 1 : s->unit == 2 ? 2 : 0;
	return ref_programs(a, s, deny) && ref_nodes(a, s, deny) &&
	       (!a->users || a->users & 1u << s->user) && (!a->units || a->units & unit) &&
	       (!a->roles || a->roles & ref_roles(s, deny));
}

/* As print_head() says it: admin includes operator; auditor and admin exclude each other. */
static unsigned ref_roles(const struct side *s, bool deny)
{
	const struct party operators = {.groups = 1}, bob = {.users = 2},
			   cache = {.programs = 1, .units = 1},
			   web = {.programs = 8, .nodes = 1u << NODE_ANY};
	bool admin = ref_party(&bob, s, deny) || ref_party(&cache, s, deny);
	unsigned held = (ref_party(&operators, s, deny) || admin ? 1u : 0) | (admin ? 2u : 0) |
			(ref_party(&web, s, deny) ? 4u : 0);
	return !deny && (held & 6) == 6 ? 0 : held;
}

static bool ref_time(const struct rule *r, const struct policy_question *q)
{
	unsigned hour = (unsigned)(q->now_s / 3600 % 24),
		 day = (unsigned)(q->now_s / 86400 + 3) % 7;
	for (unsigned i = 0; i < 4; i++) {
		const struct window *w = &world_windows[i];
		bool today = w->days >> day & 1, yesterday = w->days >> (day + 6) % 7 & 1;
		bool in = w->from < w->to
				  ? today && w->from <= hour && hour < w->to
				  : (today && hour >= w->from) || (yesterday && hour < w->to);
		if (r->windows & 1u << i && in)
			return true;
	}
	return !r->windows;
}

static bool ref_where(const struct rule *r, const struct policy_question *q)
{
	bool tied = r->nets || r->ranges || r->transport >= 0 || r->plain >= 0, net = !r->nets,
	     port = !r->ranges;
	if (q->transport == POLICY_UNIX) {
		if (r->unix_path < 0)
			return r->deny && !tied;
		size_t n = strlen(world_paths[r->unix_path]);
		bool prefix = world_paths[r->unix_path][n - 1] == '*';
		return prefix ? !strncmp(q->unix_path, world_paths[r->unix_path], n - 2)
			      : !strcmp(q->unix_path, world_paths[r->unix_path]);
	}
	int transport = r->transport >= 0 ? r->transport : r->deny ? 2 : 0;
	if (r->unix_path >= 0 || (transport != 2 && transport != (int)q->transport))
		return false;
	for (unsigned i = 0; i < 7; i++)
		net |= r->nets & 1u << i && addr_in(&q->address, world_nets[i].ip,
						    world_nets[i].len, world_nets[i].bits);
	net |= r->deny && q->op != POLICY_OP_CONNECT && addr_is_any(&q->address);
	for (unsigned i = 0; i < 5; i++) {
		uint16_t p = q->address.port;
		port |= r->ranges & 1u << i && world_ranges[i][0] <= p && p <= world_ranges[i][1];
		port |= r->deny && q->op == POLICY_OP_BIND && !p && r->ranges & 1u << i &&
			world_ranges[i][1] >= 32768;
	}
	return net && port;
}

static bool ref_label(const struct rule *r, const struct asked *a)
{
	const struct policy_question *q = &a->q;
	const struct party cache = {.programs = 1};
	uint16_t port = q->address.port;
	bool inet = q->transport != POLICY_UNIX, eighty, local, here;
	if (!r->labels)
		return true;
	if (!inet)
		return r->labels & 1 && !strncmp(q->unix_path, "/run/a/", 7);
	eighty = port >= 80 && port <= 90;
	local = q->transport == POLICY_TCP &&
		(addr_in(&q->address, (const uint8_t[]){127}, 4, 8) ||
			(r->deny && q->op != POLICY_OP_CONNECT && addr_is_any(&q->address)));
	if (q->op != POLICY_OP_CONNECT)
		here = ref_party(&cache, &a->from, r->deny);
	else if (q->half == POLICY_CALLER)
		here = !r->deny;
	else
		here = !q->plain && ref_party(&cache, &a->to, r->deny);
	return (r->labels & 1 && (eighty || (port == 443 && here))) || (r->labels & 2 && local);
}

static bool ref_to(const struct rule *r, const struct asked *a)
{
	const struct policy_question *q = &a->q;
	bool unix_socket = q->transport == POLICY_UNIX;
	if (q->plain)
		return party_empty(&r->to);
	if (q->half == POLICY_CALLER) {
		bool who = r->to.programs || r->to.groups || r->to.users || r->to.star ||
			   r->to.roles || r->to.units;
		return !(r->deny && who) && (unix_socket || ref_nodes(&r->to, &a->to, r->deny));
	}
	if (unix_socket && party_empty(&r->to))
		return true;
	if (unix_socket && !q->unix_peer)
		return false;
	return ref_party(&r->to, &a->to, r->deny);
}

static bool ref_applies(const struct rule *r, const struct asked *a)
{
	const struct policy_question *q = &a->q;
	if (!(r->ops & 1u << q->op) || !ref_time(r, q))
		return false;
	if (q->op == POLICY_OP_RUN && !r->from.programs && !r->from.groups && !r->from.star &&
		!r->from.roles && !r->from.units)
		return ref_nodes(&r->from, &a->from, r->deny) &&
		       (!r->from.users || r->from.users & 1u << a->from.user);
	if (!ref_party(&r->from, &a->from, r->deny))
		return false;
	if (q->op == POLICY_OP_RUN)
		return true;
	if (!ref_label(r, a) || (q->op == POLICY_OP_ACCEPT && !ref_to(r, a)))
		return false;
	if (q->op == POLICY_OP_CONNECT) {
		if (r->plain >= 0 ? r->plain != q->plain : (!r->deny && q->plain))
			return false;
		if (!ref_to(r, a))
			return false;
	}
	return ref_where(r, q);
}

static unsigned least(unsigned a, unsigned b)
{
	return !a || (b && b < a) ? b : a;
}

static bool ref_permissive(const struct head *h, const struct side *s)
{
	return h->permissive_any || (s->enrolled && h->permissive & s->programs);
}

struct expected reference(
	const struct rule *rules, unsigned n, const struct head *h, const struct asked *a)
{
	struct expected x = {0};
	unsigned deny = 0, would = 0;
	for (unsigned i = 0; i < n; i++) {
		if (!ref_applies(&rules[i], a))
			continue;
		if (rules[i].permissive) {
			would |= 1u << i;
			continue;
		}
		if (rules[i].deny) {
			deny |= 1u << i;
			continue;
		}
		x.allow = true;
		x.applies |= 1u << i;
		x.encrypt |= rules[i].encrypt;
		x.idle = least(x.idle, rules[i].idle);
		x.connections = least(x.connections, rules[i].connections);
		x.rate = least(x.rate, rules[i].rate);
	}
	bool across = a->q.op == POLICY_OP_CONNECT && !a->q.plain &&
		      a->q.transport != POLICY_UNIX && (a->from.node || a->to.node);
	x.encrypt |= across;
	x.permissive = x.allow && would && !deny;
	if (!x.allow && a->q.op == POLICY_OP_RUN)
		x.allow = a->from.enrolled || !h->run_enrolled;
	if (!x.allow && a->q.op == POLICY_OP_ACCEPT)
		x.allow = !h->accept_listed;
	if (deny)
		x = (struct expected){.applies = deny, .encrypt = across};
	if (!x.allow && ref_permissive(h, &a->from))
		x.allow = x.permissive = true;
	return x;
}
