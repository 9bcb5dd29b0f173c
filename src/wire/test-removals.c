/* The list of removed nodes: one form for one meaning. */
#include "wire/removals.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

static struct removals a, b;
static uint8_t buf[REMOVALS_BYTES_MAX + 1];

static int encoded(void)
{
	int n = removals_encode(&a, buf);
	assert_true(n > 0 && n <= REMOVALS_BYTES_MAX);
	return n;
}

static void make(void)
{
	memset(&a, 0, sizeof(a));
	a.version = 3;
	strcpy(a.domain, "example.test");
	assert_int_equal(removals_add(&a, "gamma", 30), 0);
	assert_int_equal(removals_add(&a, "alpha", 10), 0);
	assert_int_equal(removals_add(&a, "beta", 20), 0);
}

static void test_round(void **state)
{
	(void)state;
	make();
	int n = encoded();
	assert_int_equal(removals_decode(buf, (size_t)n, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
	assert_true(removals_has(&b, "beta", 20));
	assert_false(removals_has(&b, "beta", 21));
	assert_false(removals_has(&b, "delta", 1));
	/* Never back. */
	assert_int_equal(removals_add(&b, "beta", 5), 0);
	assert_true(removals_has(&b, "beta", 20));
	removals_prune(&b, 21);
	assert_int_equal(b.n, 1);
	assert_string_equal(b.list[0].node, "gamma");
}

static void test_no_other_form(void **state)
{
	(void)state;
	make();
	int n = encoded();
	for (size_t i = 0; i < (size_t)n; i++) /* cut anywhere */
		assert_int_equal(removals_decode(buf, i, &b), -EBADMSG);
	assert_int_equal(removals_decode(buf, (size_t)n + 1, &b), -EBADMSG);
	make();
	struct removal first = a.list[0];
	a.list[0] = a.list[1];
	a.list[1] = first; /* out of order */
	n = encoded();
	assert_int_equal(removals_decode(buf, (size_t)n, &b), -EBADMSG);
	a.list[0] = a.list[1]; /* twice */
	n = encoded();
	assert_int_equal(removals_decode(buf, (size_t)n, &b), -EBADMSG);
	make();
	a.version = 0;
	n = encoded();
	assert_int_equal(removals_decode(buf, (size_t)n, &b), -EBADMSG);
	assert_int_equal(removals_add(&a, "a b", 1), -EINVAL);
	assert_int_equal(removals_add(&a, "", 1), -EINVAL);
}

static void test_full(void **state)
{
	(void)state;
	memset(&a, 0, sizeof(a));
	a.version = UINT64_MAX;
	memset(a.domain, 'd', sizeof(a.domain) - 1);
	for (unsigned i = 0; i < REMOVALS_MAX; i++) {
		char name[REMOVALS_NAME_MAX];
		snprintf(name, sizeof(name), "%0*u", REMOVALS_NAME_MAX - 1, i);
		assert_int_equal(removals_add(&a, name, UINT64_MAX), 0);
	}
	assert_int_equal(removals_add(&a, "more", 1), -E2BIG);
	int n = encoded();
	assert_true(n < 60 * 1024 - 1024); /* one message of a link */
	assert_int_equal(removals_decode(buf, (size_t)n, &b), 0);
	assert_memory_equal(&a, &b, sizeof(a));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round),
		cmocka_unit_test(test_no_other_form),
		cmocka_unit_test(test_full),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
