/* Making the questions, asking both, and sorting what differs (diff.h says how). */
#include "policy/diff.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "policy/diff-facts.h"

#define CLASSES_MAX 1000u
#define RULES_DIRECTED_MAX 20000u /* of each policy */

static bool same_terms(const struct policy_verdict *a, const struct policy_verdict *b)
{
	return a->protection == b->protection && a->idle_ms == b->idle_ms &&
	       a->connections == b->connections && a->rate == b->rate && a->rate_s == b->rate_s;
}

static bool same(const struct policy_verdict *a, const struct policy_verdict *b)
{
	return a->allow == b->allow && a->permissive == b->permissive &&
	       (!a->allow || same_terms(a, b));
}

static struct policy_change *find_class(
	struct policy_diff *d, const struct policy_verdict *a, const struct policy_verdict *b)
{
	for (uint32_t i = 0; i < d->n; i++) {
		struct policy_change *c = &d->changes[i];
		if (c->before.rule == a->rule && c->after.rule == b->rule &&
			c->before.reason == a->reason && c->after.reason == b->reason &&
			same(&c->before, a) && same(&c->after, b))
			return c;
	}
	return NULL;
}

static const char *keep(const char *text, bool *ok)
{
	char *copy = text && text[0] ? strdup(text) : NULL;
	*ok &= copy || !text || !text[0];
	return copy;
}

static int new_class(struct policy_diff *d, const struct policy_ask *q,
	const struct policy_verdict *a, const struct policy_verdict *b)
{
	bool ok = true;
	if (d->n == CLASSES_MAX)
		return 0;
	if (d->n == d->room) {
		uint32_t room = d->room ? d->room * 2 : 16;
		void *v = reallocarray(d->changes, room, sizeof(*d->changes));
		if (!v)
			return -ENOMEM;
		d->changes = v;
		d->room = room;
	}
	struct policy_change *c = &d->changes[d->n++];
	*c = (struct policy_change){.ask = *q, .before = *a, .after = *b, .n = 1};
	c->ask.from = keep(q->from, &ok);
	c->ask.to = keep(q->to, &ok);
	c->ask.address = keep(q->address, &ok);
	c->ask.user = keep(q->user, &ok);
	c->ask.group = keep(q->group, &ok);
	c->ask.unit = keep(q->unit, &ok);
	c->ask.to_user = keep(q->to_user, &ok);
	c->ask.to_group = keep(q->to_group, &ok);
	c->ask.to_unit = keep(q->to_unit, &ok);
	return ok ? 0 : -ENOMEM;
}

int policy_diff_ask(struct policy_diff *d, const struct policy_ask *q)
{
	struct policy_question a, b;
	struct policy_verdict va, vb;
	struct error e = ERROR_INIT;
	if (policy_ask_question(d->a, q, &a, &e) < 0 || policy_ask_question(d->b, q, &b, &e) < 0)
		return 0;
	policy_eval(d->a, &a, &va);
	policy_eval(d->b, &b, &vb);
	d->asked++;
	if (same(&va, &vb))
		return 0;
	d->differed++;
	struct policy_change *c = find_class(d, &va, &vb);
	if (!c)
		return new_class(d, q, &va, &vb);
	c->n++;
	return 0;
}

static int ask_values(struct policy_diff *d, const struct value *v[_DIM_N])
{
	struct scratch s;
	struct policy_ask q = facts_question(v, &s);
	return policy_diff_ask(d, &q);
}

/* The rule's own question, and all that differ from it in one or two things. */
static int ask_rule(struct policy_diff *d, const struct policy *p, const struct image_rule *r)
{
	struct facts f;
	const struct value *v[_DIM_N];
	int k = 0;
	rule_facts(p, r, &f);
	for (int i = 0; i < _DIM_N; i++)
		v[i] = &f.dim[i].v[0];
	for (int i = 0; i < _DIM_N && k == 0; i++) {
		const struct value *was = v[i];
		for (uint32_t x = 0; x < f.dim[i].n && k == 0; x++) {
			v[i] = &f.dim[i].v[x];
			k = ask_values(d, v);
			for (int j = i + 1; j < _DIM_N && k == 0; j++) {
				const struct value *other = v[j];
				for (uint32_t y = 1; y < f.dim[j].n && k == 0; y++) {
					v[j] = &f.dim[j].v[y];
					k = ask_values(d, v);
				}
				v[j] = other;
			}
		}
		v[i] = was;
	}
	return k;
}

/* Rules that could make a difference. */
struct suspect {
	const struct policy *p;
	const struct image_rule *r;
};

struct suspects {
	struct suspect *list;
	uint32_t n;
};

/* A rule's text without its first line, which says only its name and place. */
static bool same_text(const struct policy *a, uint32_t i, const struct policy *b, uint32_t k)
{
	_cleanup_free_ char *ta = NULL, *tb = NULL;
	if (policy_format(a, i, &ta) < 0 || policy_format(b, k, &tb) < 0)
		return false;
	const char *la = i == POLICY_RULE_NONE ? ta : strchr(ta, '\n'),
		   *lb = k == POLICY_RULE_NONE ? tb : strchr(tb, '\n');
	return la && lb && !strcmp(la, lb);
}

/* Those of a that b does not have word for word; all, when what they refer to changed. */
static void find_suspects(
	const struct policy *a, const struct policy *b, bool all, struct suspects *s, uint32_t max)
{
	uint32_t found = 0;
	for (uint32_t i = 0; i < a->n_rules && found < max; i++) {
		uint32_t k = all ? POLICY_RULE_NONE : policy_rule_find(b, policy_rule_name(a, i));
		if (k != POLICY_RULE_NONE && same_text(a, i, b, k))
			continue;
		s->list[s->n++] = (struct suspect){a, &a->rules[i]};
		found++;
	}
}

static uint32_t rnd(uint64_t *state, uint32_t n)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return (uint32_t)((*state >> 33) % n);
}

/* Around one suspect, with what two other rules of either policy name mixed in. */
static int ask_random(struct policy_diff *d, const struct suspects *s, uint64_t n)
{
	const struct policy *const both[] = {d->a, d->b};
	uint64_t state = 0x243f6a8885a308d3ull;
	struct facts f[3];
	int k = 0;
	for (uint64_t i = 0; i < n && k == 0; i++) {
		const struct value *v[_DIM_N];
		for (int x = 0; x < 3 && i % 16 == 0; x++) {
			const struct suspect *one = &s->list[rnd(&state, s->n)];
			const struct policy *p = both[rnd(&state, 2)];
			if (x && p->n_rules)
				rule_facts(p, &p->rules[rnd(&state, p->n_rules)], &f[x]);
			else
				rule_facts(one->p, one->r, &f[x]);
		}
		for (int dim = 0; dim < _DIM_N; dim++) {
			const struct values *l =
				&f[rnd(&state, 2) ? 0 : 1 + rnd(&state, 2)].dim[dim];
			v[dim] = &l->v[rnd(&state, l->n)];
		}
		k = ask_values(d, v);
	}
	return k;
}

int policy_diff(
	const struct policy *a, const struct policy *b, uint64_t random, struct policy_diff *ret)
{
	struct suspects s = {.list = calloc(2 * RULES_DIRECTED_MAX, sizeof(*s.list))};
	*ret = (struct policy_diff){.a = a, .b = b};
	if (!s.list)
		return -ENOMEM;
	bool all = !same_text(a, POLICY_RULE_NONE, b, POLICY_RULE_NONE);
	find_suspects(a, b, all, &s, RULES_DIRECTED_MAX);
	find_suspects(b, a, all, &s, RULES_DIRECTED_MAX);
	int r = 0;
	for (uint32_t i = 0; i < s.n && r == 0; i++)
		r = ask_rule(ret, s.list[i].p, s.list[i].r);
	if (r == 0 && s.n)
		r = ask_random(ret, &s, random);
	free(s.list);
	return r;
}

void policy_diff_deinit(struct policy_diff *d)
{
	for (uint32_t i = 0; i < d->n; i++) {
		const struct policy_ask *q = &d->changes[i].ask;
		const char *const texts[] = {q->from, q->to, q->address, q->user, q->group, q->unit,
			q->to_user, q->to_group, q->to_unit};
		for (size_t k = 0; k < ARRAY_LEN(texts); k++)
			free((void *)(uintptr_t)texts[k]);
	}
	free(d->changes);
	d->changes = NULL;
	d->n = 0;
}
