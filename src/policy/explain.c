/*
 * Why a verdict is as it is, for people: the deciding rule, and when refused the rule that comes
 * nearest to allowing it with what would have to differ. Not for the hot path: walks every rule.
 */
#include "policy/image.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* A nearer rule needs fewer things to differ; another program counts more than another port. */
static unsigned distance(unsigned differs)
{
	static const struct {
		unsigned bit, weight;
	} weights[] = {
		{POLICY_DIFFERS_FROM_PROGRAM, 5},
		{POLICY_DIFFERS_FROM_USER, 3},
		{POLICY_DIFFERS_FROM_NODE, 3},
		{POLICY_DIFFERS_FROM_ROLE, 4},
		{POLICY_DIFFERS_FROM_UNIT, 3},
		{POLICY_DIFFERS_TO_PROGRAM, 4},
		{POLICY_DIFFERS_TO_USER, 3},
		{POLICY_DIFFERS_TO_NODE, 3},
		{POLICY_DIFFERS_ADDRESS, 3},
		{POLICY_DIFFERS_PORT, 2},
		{POLICY_DIFFERS_TRANSPORT, 4},
		{POLICY_DIFFERS_PATH, 3},
		{POLICY_DIFFERS_TO_ROLE, 4},
		{POLICY_DIFFERS_TO_UNIT, 3},
		{POLICY_DIFFERS_PLAIN, 4},
		{POLICY_DIFFERS_TIME, 1},
		{POLICY_DIFFERS_LABEL, 3},
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
	const uint32_t *ids = list_ids(p, &names);
	for (uint32_t i = 0; i < names.count && i < 4; i++)
		put(l, "%s%s", i ? " or " : "", policy_text(p, ids[i]));
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

/* differs: of either end, as the bits of `from`. */
static void put_party(struct line *l, const struct policy *p, const struct image_party *a,
	const struct policy_party *party, unsigned differs, const char *who, int *n)
{
	for (unsigned bit = 1; bit & POLICY_DIFFERS_PARTY; bit <<= 1) {
		if (!(differs & bit))
			continue;
		put(l, "%s%s ", (*n)++ ? ", " : "", who);
		switch (bit) {
		case POLICY_DIFFERS_FROM_PROGRAM:
			put(l, "were ");
			put_programs(l, p, a, party);
			break;
		case POLICY_DIFFERS_FROM_USER:
			put(l, "were ");
			put_users(l, p, a);
			break;
		case POLICY_DIFFERS_FROM_NODE:
			put(l, "were ");
			put_nodes(l, p, a);
			break;
		case POLICY_DIFFERS_FROM_ROLE:
			put(l, "held the role ");
			put_names(l, p, a->roles);
			break;
		default:
			put(l, "ran in the unit ");
			put_names(l, p, a->units);
		}
	}
}

static void put_ports(struct line *l, const struct policy *p, const struct image_rule *r)
{
	const struct image_ports *ports = list_ports(p, &r->ports);
	for (uint32_t i = 0; i < r->ports.count && i < 4; i++) {
		const struct image_ports *x = &ports[i];
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
		put(l, "%sthe path were %s%s", (*n)++ ? ", " : "",
			policy_text(p, p->wheres[r->where].path),
			p->wheres[r->where].prefix ? "**" : "");
	if (differs & POLICY_DIFFERS_TRANSPORT)
		put(l, "%sthe transport were %s", (*n)++ ? ", " : "",
			r->transports & IMAGE_TRANSPORT(POLICY_TCP)   ? "TCP"
			: r->transports & IMAGE_TRANSPORT(POLICY_UDP) ? "UDP"
								      : "a path");
	if (differs & POLICY_DIFFERS_PLAIN)
		put(l, "%sthe destination were %s Belay", (*n)++ ? ", " : "",
			r->flags & IMAGE_RULE_PLAIN ? "outside" : "inside");
	if (differs & POLICY_DIFFERS_LABEL) {
		put(l, "%sthere were data of the label ", (*n)++ ? ", " : "");
		for (uint32_t i = 0; i < p->hows[r->how].labels.count; i++)
			put(l, "%s%s", i ? " or " : "",
				policy_text(p, p->tags[p->hows[r->how].labels.first + i]));
	}
	if (differs & POLICY_DIFFERS_TIME)
		put(l, "%sit were the time for it", (*n)++ ? ", " : "");
}

/* Roles that exclude each other count for nothing: without saying so, nobody would understand. */
static void put_conflict(struct line *l, const struct policy *p, const struct match *m)
{
	const struct match_party *const ends[] = {&m->from, &m->to};
	for (size_t i = 0; i < (m->to_used && m->q->half == POLICY_PAIR ? 2u : 1u); i++)
		if (ends[i]->conflict[0])
			put(l, "%s holds %s and %s, which exclude each other, so no role counts; ",
				i ? "the other side" : "the caller",
				policy_text(p, ends[i]->conflict[0]),
				policy_text(p, ends[i]->conflict[1]));
}

static void advise_nearest(const struct policy *p, const struct match *m,
	const struct policy_question *q, struct policy_explanation *x)
{
	struct line l = {x->advice, sizeof(x->advice)};
	int n = 0;
	put_conflict(&l, p, m);
	if (x->nearest == POLICY_RULE_NONE) {
		put(&l, "no rule allows %s at all; write one (docs/policy.md)",
			policy_op_name(q->op));
		return;
	}
	const struct image_rule *r = &p->rules[x->nearest];
	put(&l, "%s (%s:%u) would allow it if ", policy_rule_name(p, x->nearest), policy_source(p),
		r->line);
	put_party(&l, p, &p->parties[r->from], &q->from, x->differs, "the caller", &n);
	put_party(&l, p, &p->parties[r->to], &q->to, x->differs >> POLICY_DIFFERS_TO_SHIFT,
		"the other side", &n);
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
		advise_nearest(p, &m, q, x);
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
		[POLICY_ALLOWED_ACCEPT] =
			"allowed: accepting needs no rule; the connect was judged",
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
	case POLICY_ALLOWED_PERMISSIVE:
		snprintf(x->text, sizeof(x->text), "allowed and logged, as %s is permissive: %s%s",
			v->rule == POLICY_RULE_NONE ? "it" : "the program",
			v->rule == POLICY_RULE_NONE ? "no rule allows it" : "refused by ",
			v->rule_name);
		break;
	default:
		snprintf(x->text, sizeof(x->text), "%s", reasons[v->reason]);
	}
	if (!v->allow)
		advise(p, q, x);
}
