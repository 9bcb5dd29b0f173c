/*
 * The compiled evaluator against a reference that reads docs/policy.md word by word: random
 * policies go through text, compiler, image and index; random questions must get the same verdict
 * from both, and the same again when the rules stand in another order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/compile.h"
#include "policy/test-world.h"

#define POLICIES 1500
#define QUESTIONS 200
#define RULES_MAX 12

static int uid_of(const char *user, uint32_t *ret)
{
	*ret = strcmp(user, "alice") ? 2 : 1;
	return 0;
}

struct loaded {
	void *image;
	struct policy *p;
};

static struct loaded compile(
	const struct rule *rules, const unsigned *order, unsigned n, const struct head *head)
{
	char *text = NULL;
	size_t len = 0, image_len = 0;
	struct loaded l = {0};
	struct policy_diagnostics d;
	struct policy_compile_options o = {.source = "random", .uid_of = uid_of};
	struct error e = ERROR_INIT;
	FILE *f = open_memstream(&text, &len);
	assert_non_null(f);
	print_policy(f, head, rules, order, n);
	fclose(f);
	if (policy_compile(text, len, &o, &d, &l.image, &image_len) < 0) {
		char *why = policy_diagnostics_format(&d, "random", text, len);
		fail_msg("%s\n%s", why, text);
	}
	if (policy_image_open(l.image, image_len, &l.p, &e) < 0)
		fail_msg("%s", e.text);
	policy_diagnostics_deinit(&d);
	free(text);
	return l;
}

static void unload(struct loaded *l)
{
	policy_close(l->p);
	free(l->image);
}

static void bind_side(const struct policy *p, const struct side *s, struct policy_party *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; i < 5; i++)
		if (s->programs & 1u << i)
			assert_int_equal(policy_party_program(p, ret, world_programs[i]), 0);
	for (unsigned i = 0; i < 3; i++)
		if (s->groups & 1u << i)
			assert_int_equal(policy_party_group(p, ret, world_groups[i]), 0);
	/* A name means another number elsewhere; a number is a number. */
	ret->uid = s->node == 0 || s->user == 2 ? world_uids[s->user] : world_uids[2 - s->user - 1];
	ret->user = policy_intern(p, world_users[s->user]);
	ret->node = policy_intern(p, world_nodes[s->node]);
	policy_party_unit(p, ret, world_side_units[s->unit]);
	ret->self = s->node == 0;
	ret->enrolled = s->enrolled;
}

static void compare(const struct loaded *l, const struct rule *rules, const struct asked *a,
	const struct expected *x, struct policy_verdict *v)
{
	struct policy_question q = a->q;
	bind_side(l->p, &a->from, &q.from);
	bind_side(l->p, &a->to, &q.to);
	policy_eval(l->p, &q, v);
	assert_int_equal(v->allow, x->allow);
	if (v->allow)
		assert_int_equal(v->permissive, x->permissive);
	if (v->rule != POLICY_RULE_NONE) {
		unsigned i = 0;
		while (strcmp(rules[i].name, v->rule_name))
			i++;
		assert_true(x->applies & 1u << i);
	} else {
		assert_int_equal(x->applies, 0);
	}
	if (v->reason != POLICY_ALLOWED_RULE)
		return;
	enum policy_protection want = q.plain      ? POLICY_PLAIN
				      : x->encrypt ? POLICY_ENCRYPT
						   : POLICY_ISOLATE;
	assert_int_equal(v->protection, want);
	assert_int_equal(v->idle_ms, x->idle * 60000ull);
	assert_int_equal(v->connections, x->connections);
	assert_int_equal(v->limit_rule != POLICY_RULE_NONE, x->connections != 0);
	assert_int_equal(v->rate, x->rate);
	assert_int_equal(v->rate_s, x->rate ? 60 : 0);
}

static void one_policy(unsigned *allowed)
{
	struct rule rules[RULES_MAX];
	unsigned n = 1 + world_rnd(RULES_MAX), order[RULES_MAX];
	struct head head = random_head();
	for (unsigned i = 0; i < n; i++) {
		random_rule(&rules[i], i);
		order[i] = i;
	}
	struct loaded a = compile(rules, order, n, &head);
	for (unsigned i = n; i > 1; i--) {
		unsigned k = world_rnd(i), t = order[i - 1];
		order[i - 1] = order[k];
		order[k] = t;
	}
	struct loaded b = compile(rules, order, n, &head);
	for (unsigned i = 0; i < QUESTIONS; i++) {
		struct asked q;
		struct policy_verdict va, vb;
		random_question(&q);
		struct expected x = reference(rules, n, &head, &q);
		compare(&a, rules, &q, &x, &va);
		compare(&b, rules, &q, &x, &vb);
		assert_string_equal(va.rule_name, vb.rule_name);
		assert_string_equal(
			policy_rule_name(a.p, va.limit_rule), policy_rule_name(b.p, vb.limit_rule));
		*allowed += va.allow;
	}
	unload(&a);
	unload(&b);
}

static void test_agrees(void **unused _unused_)
{
	unsigned allowed = 0;
	for (unsigned i = 0; i < POLICIES; i++)
		one_policy(&allowed);
	/* Questions that nothing allows would prove little. */
	assert_in_range(allowed, POLICIES * QUESTIONS / 20, POLICIES * QUESTIONS * 9 / 10);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(test_agrees)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
