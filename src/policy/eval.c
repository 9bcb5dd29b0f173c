/*
 * The verdict. Input: a checked image, and a question whose facts the guard vouches for. Default
 * deny; any rule that denies beats all that allow; of several that allow, the strictest protection,
 * the shortest idle time and the smallest limit hold. The deciding rule is the one of the lowest
 * index, so neither the order of the source nor the order of the search can matter.
 *
 * Cost: see index.c; nothing is allocated, no system call is made.
 */
#include "policy/image.h"

#include <string.h>

struct decision {
	uint32_t deny, allow, would_deny; /* lowest index so far, POLICY_RULE_NONE */
	bool encrypt;
	uint64_t idle_ms;
	uint32_t connections, limit_rule;
	uint32_t rate, rate_s, rate_rule;
};

static bool slower(const struct image_how *how, uint32_t i, const struct decision *d)
{
	uint64_t a = (uint64_t)how->rate * d->rate_s, b = (uint64_t)d->rate * how->rate_s;
	return !d->rate || a < b || (a == b && i < d->rate_rule);
}

static void decide_how(struct decision *d, const struct image_how *how, uint32_t i)
{
	d->encrypt |= how->encrypt;
	if (how->idle_ms && (!d->idle_ms || how->idle_ms < d->idle_ms))
		d->idle_ms = how->idle_ms;
	if (how->connections &&
		(!d->connections || how->connections < d->connections ||
			(how->connections == d->connections && i < d->limit_rule))) {
		d->connections = how->connections;
		d->limit_rule = i;
	}
	if (how->rate && slower(how, i, d)) {
		d->rate = how->rate;
		d->rate_s = how->rate_s;
		d->rate_rule = i;
	}
}

static void decide_rule(
	const struct policy *p, struct decision *d, const struct image_rule *r, uint32_t i)
{
	if (r->flags & IMAGE_RULE_PERMISSIVE) {
		d->would_deny = i < d->would_deny ? i : d->would_deny;
		return;
	}
	if (r->flags & IMAGE_RULE_DENY) {
		d->deny = i;
		return;
	}
	d->allow = i < d->allow ? i : d->allow;
	if (r->how)
		decide_how(d, &p->hows[r->how], i);
}

/* Rising indices: rules that deny come first, and the first that applies ends the run. */
static void decide_run(const struct policy *p, const struct match *m, const uint32_t *rules,
	uint32_t n, void *data)
{
	struct decision *d = data;
	for (uint32_t i = 0; i < n && rules[i] < d->deny; i++) {
		const struct image_rule *r = &p->rules[rules[i]];
		if (r->ops & IMAGE_OP(m->q->op) && !match_rule(p, m, r, false))
			decide_rule(p, d, r, rules[i]);
	}
}

static void verdict_rule(
	struct policy_verdict *v, const struct policy *p, enum policy_reason reason, uint32_t rule)
{
	v->reason = reason;
	v->rule = rule;
	v->rule_name = policy_rule_name(p, rule);
	v->line = policy_rule_line(p, rule);
}

/* What needs no rule, unless the policy says so. */
static void verdict_no_rule(
	struct policy_verdict *v, const struct policy *p, const struct policy_question *q)
{
	uint32_t flags = p->header->flags;
	v->reason = POLICY_DENIED_NO_RULE;
	if (q->op == POLICY_OP_RUN) {
		v->allow = q->from.enrolled || !(flags & IMAGE_RUN_ENROLLED);
		v->reason = v->allow ? POLICY_ALLOWED_RUN : POLICY_DENIED_NOT_ENROLLED;
	} else if (q->op == POLICY_OP_ACCEPT && !(flags & IMAGE_ACCEPT_LISTED)) {
		v->allow = true;
		v->reason = POLICY_ALLOWED_ACCEPT;
	}
}

static bool is_permissive(const struct policy *p, const struct match *m)
{
	if (p->header->flags & IMAGE_PERMISSIVE_ANY)
		return true;
	for (uint32_t i = 0; i < m->from.n_programs; i++)
		if (p->names[m->from.programs[i]].flags & IMAGE_NAME_PERMISSIVE)
			return m->q->from.enrolled;
	return false;
}

/* Refused, but only to be seen: the verdict turns, and says what it would have been. */
static void verdict_permit(struct policy_verdict *v, const struct policy *p, const struct match *m)
{
	if (v->allow || !is_permissive(p, m))
		return;
	v->allow = v->permissive = true;
	v->permissive_rule = v->rule;
	v->reason = POLICY_ALLOWED_PERMISSIVE;
}

static void decide(
	const struct policy *p, const struct match *m, struct decision *d, struct policy_verdict *v)
{
	const struct policy_question *q = m->q;
	if (d->deny != POLICY_RULE_NONE) {
		verdict_rule(v, p, POLICY_DENIED_RULE, d->deny);
		return;
	}
	if (d->allow == POLICY_RULE_NONE) {
		verdict_no_rule(v, p, q);
		return;
	}
	verdict_rule(v, p, POLICY_ALLOWED_RULE, d->allow);
	v->allow = true;
	v->permissive = d->would_deny != POLICY_RULE_NONE;
	v->permissive_rule = d->would_deny;
	v->idle_ms = d->idle_ms;
	v->connections = d->connections;
	v->limit_rule = d->limit_rule;
	v->rate = d->rate;
	v->rate_s = d->rate_s;
	v->rate_rule = d->rate_rule;
}

void policy_eval(const struct policy *p, const struct policy_question *q, struct policy_verdict *v)
{
	struct match m _scratch_;
	*v = (struct policy_verdict){.reason = POLICY_DENIED_NO_POLICY,
		.rule = POLICY_RULE_NONE,
		.limit_rule = POLICY_RULE_NONE,
		.rate_rule = POLICY_RULE_NONE,
		.permissive_rule = POLICY_RULE_NONE,
		.rule_name = ""};
	if (!p) {
		v->allow = q->op == POLICY_OP_RUN;
		if (v->allow)
			v->reason = POLICY_ALLOWED_RUN;
		return;
	}
	v->reason = POLICY_DENIED_QUESTION;
	if (!match_prepare(p, q, &m))
		return;
	struct decision d = {.deny = POLICY_RULE_NONE,
		.allow = POLICY_RULE_NONE,
		.would_deny = POLICY_RULE_NONE,
		.limit_rule = POLICY_RULE_NONE,
		.rate_rule = POLICY_RULE_NONE};
	policy_index_search(p, &m, decide_run, &d);
	decide(p, &m, &d, v);
	verdict_permit(v, p, &m);
	if (!v->allow)
		return;
	bool between = q->op == POLICY_OP_CONNECT && m.to_used && q->transport != POLICY_UNIX &&
		       !(q->from.self && q->to.self);
	v->plain = q->op == POLICY_OP_CONNECT && q->plain;
	v->protection = v->plain               ? POLICY_PLAIN
			: d.encrypt || between ? POLICY_ENCRYPT
					       : POLICY_ISOLATE;
}
