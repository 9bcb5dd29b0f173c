/* Fair shares: whoever fills a table leaves room for others, and for more of them after those. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard/bind.h"
#include "guard/share.h"

static struct guard guard;

static int setup(void **state)
{
	(void)state;
	return shares_init(&guard) || binds_init(&guard);
}

static int teardown(void **state)
{
	(void)state;
	binds_deinit(&guard);
	shares_deinit(&guard);
	return 0;
}

static size_t fill(enum share what, share_who who)
{
	size_t n = 0;
	for (; share_free(&guard, what, who); n++)
		share_add(&guard, what, who);
	return n;
}

static void test_each_leaves_room(void **state)
{
	(void)state;
	for (int what = 0; what < _SHARE_N; what++) {
		size_t before = SIZE_MAX;
		for (uint32_t uid = 1000; uid < 1006; uid++) {
			size_t n = fill((enum share)what, share_user(uid));
			assert_true(n > 0 && n <= before);
			before = n;
		}
		/* A node that a rule lets in, and visitors, find a place still. */
		assert_true(fill((enum share)what, share_node(&guard, "beta")) > 0);
		assert_true(fill((enum share)what, share_subject(&guard, NULL)) > 0);
	}
}

static void test_one_alone_gets_half(void **state)
{
	(void)state;
	assert_int_equal(fill(SHARE_CHANNELS, share_user(1)), CHANNELS_MAX / 2);
	assert_int_equal(fill(SHARE_CHANNELS, share_user(2)), CHANNELS_MAX / 4);
	/* What he gives back is there for others. */
	for (size_t i = 0; i < 1000; i++)
		share_drop(&guard, SHARE_CHANNELS, share_user(1));
	assert_int_equal(
		share_count(&guard, SHARE_CHANNELS, share_user(1)), CHANNELS_MAX / 2 - 1000);
	assert_true(fill(SHARE_CHANNELS, share_user(3)) >= 1000);
}

static void test_the_floor_is_there_until_the_table_is_full(void **state)
{
	(void)state;
	/* So many that all of them together take everything. */
	size_t all = 0;
	for (uint32_t uid = 1; uid < 4096; uid++)
		all += fill(SHARE_BINDS, share_user(uid));
	assert_int_equal(all, BINDS_MAX);
	assert_false(share_free(&guard, SHARE_BINDS, share_user(9999)));
	share_drop(&guard, SHARE_BINDS, share_user(1));
	assert_true(share_free(&guard, SHARE_BINDS, share_user(9999)));
	/* Dropping what was never taken counts nothing. */
	share_drop(&guard, SHARE_BINDS, share_user(123456));
	assert_int_equal(share_count(&guard, SHARE_BINDS, share_user(123456)), 0);
}

static void test_a_bound_address_is_counted_while_it_is_one(void **state)
{
	(void)state;
	struct subject *s = calloc(1, sizeof(*s));
	s->refs = 1;
	struct bind b = {.addr = {.ip_len = 4, .port = 80}, .subject = s, .slot = -1};
	share_who who = share_tree(&guard, 0);
	struct bind *r = bind_insert(&guard, &b);
	assert_int_equal(share_count(&guard, SHARE_BINDS, who), 1);
	bind_remove(&guard, r);
	assert_int_equal(share_count(&guard, SHARE_BINDS, who), 0);
	subject_unref(s);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_each_leaves_room),
		CASE(test_one_alone_gets_half),
		CASE(test_the_floor_is_there_until_the_table_is_full),
		CASE(test_a_bound_address_is_counted_while_it_is_one),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
