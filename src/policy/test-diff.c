/*
 * Differences between policies: whatever random questions about random policies show to differ must
 * be found, and what is found must be so. And cases: what they say is what is asked.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/cases.h"
#include "policy/compile.h"
#include "policy/diff.h"
#include "policy/test-world.h"

#define ROUNDS 100
#define QUESTIONS 300
#define RULES 5
#define RANDOM 20000

struct loaded {
	void *image;
	struct policy *p;
};

static int uid_of(const char *user, uint32_t *ret)
{
	*ret = strcmp(user, "alice") ? 2 : 1;
	return 0;
}

static const struct policy_compile_options options = {.source = "p", .uid_of = uid_of};

static struct loaded load_text(const char *text, size_t len)
{
	struct loaded l = {0};
	struct policy_diagnostics d;
	struct error e = ERROR_INIT;
	size_t image_len;
	if (policy_compile(text, len, &options, &d, &l.image, &image_len) < 0)
		fail_msg("%s", policy_diagnostics_format(&d, "p", text, len));
	policy_diagnostics_deinit(&d);
	if (policy_image_open(l.image, image_len, &l.p, &e) < 0)
		fail_msg("%s", e.text);
	return l;
}

static struct loaded load(const struct head *h, const struct rule *rules, unsigned n)
{
	static const unsigned order[] = {0, 1, 2, 3, 4, 5, 6, 7};
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	assert_non_null(f);
	print_policy(f, h, rules, order, n);
	fclose(f);
	struct loaded l = load_text(text, len);
	free(text);
	return l;
}

static void unload(struct loaded *l)
{
	policy_close(l->p);
	free(l->image);
}

/* Do the reference's answers differ anywhere random questions go? */
static bool reference_differs(
	const struct head *h, const struct rule *a, const struct rule *b, unsigned n)
{
	for (unsigned i = 0; i < QUESTIONS; i++) {
		struct asked q;
		random_question(&q);
		/* What a question in words can say. */
		q.to.groups = 0;
		q.to.unit = 0;
		q.from.enrolled = q.to.enrolled = true;
		q.from.programs = q.from.programs & 1 ? 1 : q.from.programs & 2 ? 2 : 4;
		q.to.programs = q.to.programs & 8 ? 8 : 1;
		if (reference(a, n, h, &q).allow != reference(b, n, h, &q).allow)
			return true;
	}
	return false;
}

static void check_changes(const struct policy_diff *d)
{
	for (uint32_t i = 0; i < d->n; i++) {
		const struct policy_change *c = &d->changes[i];
		struct policy_question q;
		struct policy_verdict v;
		struct error e = ERROR_INIT;
		assert_int_equal(policy_ask_question(d->a, &c->ask, &q, &e), 0);
		policy_eval(d->a, &q, &v);
		assert_int_equal(v.allow, c->before.allow);
		assert_int_equal(policy_ask_question(d->b, &c->ask, &q, &e), 0);
		policy_eval(d->b, &q, &v);
		assert_int_equal(v.allow, c->after.allow);
	}
}

/* In words this node has no name: a rule that names it is about another. */
static void speakable(struct rule *r)
{
	r->from.nodes &= ~1u;
	r->to.nodes &= ~1u;
}

static void test_finds_what_differs(void **unused _unused_)
{
	unsigned differed = 0;
	for (unsigned i = 0; i < ROUNDS; i++) {
		struct rule a[RULES], b[RULES];
		struct head h = random_head();
		for (unsigned k = 0; k < RULES; k++)
			random_rule(&a[k], k);
		memcpy(b, a, sizeof(b));
		unsigned changed = world_rnd(RULES);
		random_rule(&b[changed], changed);
		for (unsigned k = 0; k < RULES; k++) {
			speakable(&a[k]);
			speakable(&b[k]);
		}
		struct loaded la = load(&h, a, RULES), lb = load(&h, b, RULES);
		_cleanup_policy_diff_ struct policy_diff d, none;
		assert_int_equal(policy_diff(la.p, lb.p, RANDOM, &d), 0);
		if (reference_differs(&h, a, b, RULES)) {
			differed++;
			if (!d.n)
				fail_msg("round %u: a difference was missed", i);
		}
		check_changes(&d);
		assert_int_equal(policy_diff(la.p, la.p, 300, &none), 0);
		assert_int_equal(none.n, 0);
		unload(&la);
		unload(&lb);
	}
	assert_true(differed > ROUNDS / 4);
}

static void test_cases(void **unused _unused_)
{
	static const char text[] =
		"version: 1\ncases:\n"
		"  - { name: one, from: shell, to: alpha/cache, address: \"127.0.0.1:1\", user: "
		"alice, "
		"unit: a.service, group: g, at: \"2026-12-24T18:00:05\", expect: allow, rule: r, "
		"encrypt: true }\n"
		"  - { op: bind, from: cache, udp: true, user: 7, expect: deny }\n";
	_cleanup_cases_ struct policy_cases c;
	_cleanup_diagnostics_ struct policy_diagnostics d;
	assert_int_equal(policy_cases_read(text, strlen(text), &options, &d, &c), 0);
	assert_int_equal(c.n, 2);
	const struct policy_case *x = &c.list[0];
	assert_string_equal(x->name, "one");
	assert_string_equal(x->ask.to, "alpha/cache");
	assert_string_equal(x->ask.unit, "a.service");
	assert_int_equal(x->ask.uid, 1);
	assert_int_equal(x->local_s, 1798135205);
	assert_true(x->allow && x->encrypt && x->has_time && x->line == 3);
	assert_int_equal(c.list[1].ask.op, POLICY_OP_BIND);
	assert_int_equal(c.list[1].ask.uid, 7);
	assert_false(c.list[1].allow);
}

static void test_bad_cases(void **unused _unused_)
{
	static const char *const texts[] = {"", "version: 2\ncases: []\n", "cases: []\n",
		"version: 1\ncases: 5\n", "version: 1\ncases: [5]\n",
		"version: 1\ncases: [{ from: a }]\n",
		"version: 1\ncases: [{ expect: allow, at: noon }]\n",
		"version: 1\ncases: [{ expect: allow, op: fly }]\n",
		"version: 1\ncases: [{ expect: allow, expect: deny }]\n",
		"version: 1\ncases: [{ expect: allow, from: [a] }]\n"};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		_cleanup_cases_ struct policy_cases c;
		_cleanup_diagnostics_ struct policy_diagnostics d;
		int r = policy_cases_read(texts[i], strlen(texts[i]), &options, &d, &c);
		if (r != -EINVAL || !d.n_errors)
			fail_msg("taken for cases: %s", texts[i]);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(test_finds_what_differs),
		cmocka_unit_test(test_cases), cmocka_unit_test(test_bad_cases)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
