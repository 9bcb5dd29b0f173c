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
	uint32_t deny, allow; /* lowest index so far, POLICY_RULE_NONE */
	bool encrypt;
	uint64_t idle_ms;
	uint32_t connections, limit_rule;
};

static void decide_allow(struct decision *d, const struct image_rule *r, uint32_t i)
{
	if (i < d->allow)
		d->allow = i;
	d->encrypt |= r->encrypt;
	if (r->idle_ms && (!d->idle_ms || r->idle_ms < d->idle_ms))
		d->idle_ms = r->idle_ms;
	if (r->connections && (!d->connections || r->connections < d->connections ||
				      (r->connections == d->connections && i < d->limit_rule))) {
		d->connections = r->connections;
		d->limit_rule = i;
	}
}

/* Rising indices: rules that deny come first, and the first that applies ends the run. */
static void decide_run(const struct policy *p, const struct match *m, const uint32_t *rules,
	uint32_t n, void *data)
{
	struct decision *d = data;
	for (uint32_t i = 0; i < n; i++) {
		const struct image_rule *r = &p->rules[rules[i]];
		if (rules[i] >= d->deny)
			return;
		if (!(r->ops & IMAGE_OP(m->q->op)) || match_rule(p, m, r, false))
			continue;
		if (r->flags & IMAGE_RULE_DENY) {
			d->deny = rules[i];
			return;
		}
		decide_allow(d, r, rules[i]);
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

static void verdict_no_rule(
	struct policy_verdict *v, const struct policy *p, const struct policy_question *q)
{
	if (q->op != POLICY_OP_RUN)
		return;
	v->allow = q->from.enrolled || !(p->header->flags & IMAGE_RUN_ENROLLED);
	v->reason = v->allow ? POLICY_ALLOWED_RUN : POLICY_DENIED_NOT_ENROLLED;
}

void policy_eval(const struct policy *p, const struct policy_question *q, struct policy_verdict *v)
{
	struct match m _scratch_;
	*v = (struct policy_verdict){.reason = POLICY_DENIED_NO_POLICY,
		.rule = POLICY_RULE_NONE,
		.limit_rule = POLICY_RULE_NONE,
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
		.limit_rule = POLICY_RULE_NONE};
	policy_index_search(p, &m, decide_run, &d);
	v->reason = POLICY_DENIED_NO_RULE;
	if (d.deny != POLICY_RULE_NONE) {
		verdict_rule(v, p, POLICY_DENIED_RULE, d.deny);
		return;
	}
	if (d.allow == POLICY_RULE_NONE) {
		verdict_no_rule(v, p, q);
		return;
	}
	bool between = m.to_used && q->transport != POLICY_UNIX && !(q->from.self && q->to.self);
	verdict_rule(v, p, POLICY_ALLOWED_RULE, d.allow);
	v->allow = true;
	v->plain = q->op == POLICY_OP_CONNECT && q->plain;
	v->protection = v->plain               ? POLICY_PLAIN
			: d.encrypt || between ? POLICY_ENCRYPT
					       : POLICY_ISOLATE;
	v->idle_ms = d.idle_ms;
	v->connections = d.connections;
	v->limit_rule = d.limit_rule;
}
