/*
 * Why a verdict is as it is, for people: the deciding rule, and when refused the rule that comes
 * nearest to allowing it with what would have to differ. Not for the hot path: walks every rule.
 */
#include "policy/image.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const char *const op_names[] = {"?", "run", "connect", "bind", "publish"};

/* A nearer rule needs fewer things to differ; another program counts more than another port. */
static unsigned distance(unsigned differs)
{
	static const struct {
		unsigned bit, weight;
	} weights[] = {
		{POLICY_DIFFERS_FROM_PROGRAM, 5},
		{POLICY_DIFFERS_FROM_USER, 3},
		{POLICY_DIFFERS_FROM_NODE, 3},
		{POLICY_DIFFERS_TO_PROGRAM, 4},
		{POLICY_DIFFERS_TO_USER, 3},
		{POLICY_DIFFERS_TO_NODE, 3},
		{POLICY_DIFFERS_ADDRESS, 3},
		{POLICY_DIFFERS_PORT, 2},
		{POLICY_DIFFERS_TRANSPORT, 4},
		{POLICY_DIFFERS_PATH, 3},
		{POLICY_DIFFERS_PLAIN, 4},
	};
	unsigned sum = 0;
	for (size_t i = 0; i < ARRAY_LEN(weights); i++)
		sum += differs & weights[i].bit ? weights[i].weight : 0;
	return sum;
}

static void find_nearest(
	const struct policy *p, const struct match *m, struct policy_explanation *ret)
{
	unsigned best = UINT32_MAX;
	for (uint32_t i = 0; i < p->n_rules; i++) {
		const struct image_rule *r = &p->rules[i];
		if (r->flags & IMAGE_RULE_DENY || !(r->ops & IMAGE_OP(m->q->op)))
			continue;
		unsigned differs = match_rule(p, m, r, true), d = distance(differs);
		if (d < best) {
			best = d;
			ret->nearest = i;
			ret->differs = differs;
		}
	}
}

struct line {
	char *at;
	size_t room;
};

static void put(struct line *l, const char *fmt, ...) _printf_(2, 3);
static void put(struct line *l, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = vsnprintf(l->at, l->room, fmt, ap);
	va_end(ap);
	size_t used = n < 0 ? 0 : (size_t)n < l->room ? (size_t)n : l->room ? l->room - 1 : 0;
	l->at += used;
	l->room -= used;
}

static void put_names(struct line *l, const struct policy *p, struct image_list names)
{
	for (uint32_t i = 0; i < names.count && i < 4; i++)
		put(l, "%s%s", i ? " or " : "", policy_text(p, p->ids[names.first + i]));
	if (names.count > 4)
		put(l, " or %u more", names.count - 4);
}

static void put_programs(struct line *l, const struct policy *p, const struct image_party *a,
	const struct policy_party *party)
{
	if (a->programs.count) {
		put(l, "the program ");
		put_names(l, p, a->programs);
	}
	if (a->groups.count) {
		put(l, "%sa program of group ", a->programs.count ? " and " : "");
		put_names(l, p, a->groups);
	}
	if (!a->programs.count && !a->groups.count)
		put(l, "an enrolled program");
	if (!party->enrolled)
		put(l, " (it is not enrolled)");
}

static void put_users(struct line *l, const struct policy *p, const struct image_party *a)
{
	put(l, "user ");
	for (uint32_t i = 0; i < a->users.count && i < 4; i++) {
		const struct image_user *u = &p->users[a->users.first + i];
		put(l, "%s", i ? " or " : "");
		if (u->name)
			put(l, "%s", policy_text(p, u->name));
		else
			put(l, "%u", u->uid);
	}
	if (a->users.count > 4)
		put(l, " or %u more", a->users.count - 4);
}

static void put_nodes(struct line *l, const struct policy *p, const struct image_party *a)
{
	if (!a->nodes.count) {
		put(l, "this node");
		return;
	}
	put(l, "node ");
	put_names(l, p, a->nodes);
	if (a->flags & IMAGE_PARTY_NODE_SELF)
		put(l, " or this one");
}

static void put_party(struct line *l, const struct policy *p, const struct image_party *a,
	const struct policy_party *party, unsigned differs, const char *who, int *n)
{
	static const unsigned bits[] = {
		POLICY_DIFFERS_FROM_PROGRAM, POLICY_DIFFERS_FROM_USER, POLICY_DIFFERS_FROM_NODE};
	for (int i = 0; i < 3; i++) {
		if (!(differs & bits[i]))
			continue;
		put(l, "%s%s were ", (*n)++ ? ", " : "", who);
		if (i == 0)
			put_programs(l, p, a, party);
		else if (i == 1)
			put_users(l, p, a);
		else
			put_nodes(l, p, a);
	}
}

static void put_ports(struct line *l, const struct policy *p, const struct image_rule *r)
{
	for (uint32_t i = 0; i < r->ports.count && i < 4; i++) {
		const struct image_ports *x = &p->ports[r->ports.first + i];
		put(l, "%s%u", i ? " or " : "", x->first);
		if (x->last != x->first)
			put(l, "-%u", x->last);
	}
	if (r->ports.count > 4)
		put(l, " or %u more", r->ports.count - 4);
}

static void put_where(struct line *l, const struct policy *p, const struct image_rule *r,
	unsigned differs, int *n)
{
	if (differs & POLICY_DIFFERS_PORT) {
		put(l, "%sthe port were ", (*n)++ ? ", " : "");
		put_ports(l, p, r);
	}
	if (differs & POLICY_DIFFERS_ADDRESS)
		put(l, "%sthe address were among those of the rule", (*n)++ ? ", " : "");
	if (differs & POLICY_DIFFERS_PATH)
		put(l, "%sthe socket were %s%s", (*n)++ ? ", " : "", policy_text(p, r->path),
			r->flags & IMAGE_RULE_PREFIX ? "**" : "");
	if (differs & POLICY_DIFFERS_TRANSPORT)
		put(l, "%sthe transport were %s", (*n)++ ? ", " : "",
			r->transports & IMAGE_TRANSPORT(POLICY_TCP)   ? "TCP"
			: r->transports & IMAGE_TRANSPORT(POLICY_UDP) ? "UDP"
								      : "a Unix socket");
	if (differs & POLICY_DIFFERS_PLAIN)
		put(l, "%sthe destination were %s Belay", (*n)++ ? ", " : "",
			r->flags & IMAGE_RULE_PLAIN ? "outside" : "inside");
}

static void advise_nearest(
	const struct policy *p, const struct policy_question *q, struct policy_explanation *x)
{
	struct line l = {x->advice, sizeof(x->advice)};
	int n = 0;
	if (x->nearest == POLICY_RULE_NONE) {
		put(&l, "no rule allows %s at all; write one (docs/policy.md)", op_names[q->op]);
		return;
	}
	const struct image_rule *r = &p->rules[x->nearest];
	put(&l, "%s (%s:%u) would allow it if ", policy_text(p, r->name), policy_source(p),
		r->line);
	put_party(&l, p, &r->from, &q->from, x->differs, "the caller", &n);
	put_party(&l, p, &r->to, &q->to, x->differs >> 3, "the other side", &n);
	put_where(&l, p, r, x->differs, &n);
}

static void advise(
	const struct policy *p, const struct policy_question *q, struct policy_explanation *x)
{
	struct match m;
	switch (x->verdict.reason) {
	case POLICY_DENIED_NO_POLICY:
		snprintf(x->advice, sizeof(x->advice),
			"load one: belay policy init > policy.yaml, edit it, belay policy load "
			"policy.yaml");
		break;
	case POLICY_DENIED_RULE:
		snprintf(x->advice, sizeof(x->advice),
			"whatever else allows it: a rule that denies wins; narrow %s",
			x->verdict.rule_name);
		break;
	case POLICY_DENIED_NOT_ENROLLED:
		snprintf(x->advice, sizeof(x->advice), "enroll the program, or allow run for it");
		break;
	case POLICY_DENIED_NO_RULE:
		if (!match_prepare(p, q, &m))
			break;
		find_nearest(p, &m, x);
		advise_nearest(p, q, x);
		break;
	default:
		break;
	}
}

void policy_explain(
	const struct policy *p, const struct policy_question *q, struct policy_explanation *x)
{
	static const char *const reasons[] = {
		[POLICY_ALLOWED_RUN] = "allowed: running needs no rule; whatever it does next does",
		[POLICY_DENIED_NO_RULE] = "refused: no rule allows it",
		[POLICY_DENIED_NOT_ENROLLED] =
			"refused: the policy says `run: enrolled`, and it is not",
		[POLICY_DENIED_NO_POLICY] = "refused: no policy is loaded",
		[POLICY_DENIED_QUESTION] = "refused: this is not a question a policy can answer",
	};
	memset(x, 0, sizeof(*x));
	x->nearest = POLICY_RULE_NONE;
	policy_eval(p, q, &x->verdict);
	const struct policy_verdict *v = &x->verdict;
	switch (v->reason) {
	case POLICY_ALLOWED_RULE:
	case POLICY_DENIED_RULE:
		snprintf(x->text, sizeof(x->text), "%s by %s (%s:%u)",
			v->allow ? "allowed" : "refused", v->rule_name, policy_source(p), v->line);
		break;
	default:
		snprintf(x->text, sizeof(x->text), "%s", reasons[v->reason]);
	}
	if (!v->allow)
		advise(p, q, x);
}
