/* The buckets (rate.h): bursts, refill, and that one uid does not spend another's. */
#include <setjmp.h>
#include <stdarg.h>

#include "dispatcher/rate.h"

#include <cmocka.h>

static unsigned drain(struct rate *r, uint32_t uid, uint64_t ms)
{
	unsigned n = 0;
	while (n < 10 * RATE_BURST && rate_take(r, uid, ms))
		n++;
	return n;
}

static void test_burst(void **state)
{
	static struct rate r;
	(void)state;
	assert_int_equal(drain(&r, 1000, 5), RATE_BURST);
	assert_false(rate_take(&r, 1000, 5));
	assert_true(rate_take(&r, 1001, 5));
	assert_int_equal(drain(&r, 1000, 1005), RATE_PER_SECOND);
	/* However long it slept, a burst is a burst. */
	assert_int_equal(drain(&r, 1000, UINT64_MAX / 2), RATE_BURST);
}

static void test_many(void **state)
{
	static struct rate r;
	(void)state;
	for (uint32_t uid = 0; uid < 10 * RATE_UIDS; uid++)
		assert_true(rate_take(&r, uid, 1 + uid));
	/* The most recent are still counted. */
	assert_int_equal(drain(&r, 10 * RATE_UIDS - 1, 10 * RATE_UIDS), RATE_BURST - 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_burst), cmocka_unit_test(test_many)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
