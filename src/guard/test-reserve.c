/* The reserve of a lease: each channel leaves it once, in order or by name, over the ring's end. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "guard/reserve.h"

static const uint8_t *id(uint32_t n)
{
	static uint8_t out[CHANNEL_ID_LEN];
	memset(out, 7, sizeof(out));
	memcpy(out + 3, &n, sizeof(n));
	return out;
}

static uint32_t pop(struct reserve *r)
{
	uint8_t out[CHANNEL_ID_LEN];
	uint32_t n;
	assert_true(reserve_pop(r, out));
	memcpy(&n, out + 3, sizeof(n));
	assert_memory_equal(out, id(n), sizeof(out));
	return n;
}

static void test_each_leaves_once(void **state)
{
	(void)state;
	static struct reserve r;
	uint8_t out[CHANNEL_ID_LEN];
	assert_false(reserve_pop(&r, out));
	assert_false(reserve_take(&r, id(1)));
	for (uint32_t i = 0; i < 10; i++)
		assert_true(reserve_add(&r, id(i)));
	assert_false(reserve_add(&r, id(3)));
	assert_int_equal(pop(&r), 0);
	assert_true(reserve_take(&r, id(5)));
	assert_false(reserve_take(&r, id(5)));
	assert_false(reserve_take(&r, id(0)));
	assert_int_equal(r.n, 8);
	bool seen[10] = {[0] = true, [5] = true};
	while (r.n) {
		uint32_t n = pop(&r);
		assert_in_range(n, 0, 9);
		assert_false(seen[n]);
		seen[n] = true;
	}
	assert_false(reserve_take(&r, id(7)));
}

static void test_it_is_bounded_and_goes_round(void **state)
{
	(void)state;
	static struct reserve r;
	uint32_t next = 0;
	while (reserve_add(&r, id(next)))
		next++;
	assert_int_equal(next, RESERVE_MAX);
	for (uint32_t i = 0; i < 5 * RESERVE_MAX; i++) {
		/* One leaves by order or by name, another comes. */
		if (i % 3)
			(void)pop(&r);
		else
			assert_true(reserve_take(&r, r.id[(r.at + i % r.n) % RESERVE_MAX]));
		assert_int_equal(r.n, RESERVE_MAX - 1);
		assert_true(reserve_add(&r, id(next++)));
	}
	bool seen[6 * RESERVE_MAX] = {0};
	for (size_t i = 0; i < RESERVE_MAX; i++) {
		uint32_t n = pop(&r);
		assert_false(seen[n]);
		seen[n] = true;
	}
	assert_int_equal(r.n, 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_each_leaves_once),
		cmocka_unit_test(test_it_is_bounded_and_goes_round),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
