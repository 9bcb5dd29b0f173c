/* What belayd decides by itself: how long to wait, and which names may be kept. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "belayd/belayd.h"

#include <cmocka.h>

static void test_backoff(void **state)
{
	static const uint32_t want[] = {0, 50, 100, 200, 400, 800, 1600, 3200, 5000, 5000};
	struct backoff b = {0};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_int_equal(backoff_next(&b, 3, false), want[i]);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(backoff_next(&b, BACKOFF_HEALTHY_MS - 1, false), BACKOFF_MAX_MS);
	assert_int_equal(backoff_next(&b, BACKOFF_HEALTHY_MS, false), 0);
	assert_int_equal(backoff_next(&b, 0, false), BACKOFF_STEP_MS);
	/* Killed from outside costs nothing, unless it happens at once. */
	assert_int_equal(backoff_next(&b, BACKOFF_KILLED_MS, true), 0);
	assert_int_equal(backoff_next(&b, BACKOFF_KILLED_MS - 1, true), 0);
	assert_int_equal(backoff_next(&b, BACKOFF_KILLED_MS - 1, true), BACKOFF_STEP_MS);
	for (int i = 0; i < 20; i++)
		assert_true(backoff_next(&b, 0, true) <= BACKOFF_KILLED_MAX_MS);
}

static void test_names(void **state)
{
	(void)state;
	assert_true(keep_allowed(ROLE_ENFORCE, "tree-7"));
	assert_true(keep_allowed(ROLE_DISPATCHER, "publish-3"));
	assert_false(keep_allowed(ROLE_DISPATCHER, "control"));
	assert_false(keep_allowed(ROLE_CONN, "tree-7"));
	assert_false(keep_allowed(ROLE_ENFORCE, "tree-7=9"));
	assert_false(keep_allowed(ROLE_ENFORCE, "tree-../x"));
	assert_false(keep_allowed(ROLE_ENFORCE, ""));
	assert_false(keep_allowed(ROLE_ENFORCE,
		"tree-aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"));
}

static bool closed(int fd)
{
	return fcntl(fd, F_GETFD) < 0;
}

static void test_keep(void **state)
{
	struct child c = {.role = ROLE_ENFORCE};
	int a = open("/dev/null", O_RDONLY), b = dup(a), d = dup(a);
	int fd = a;
	(void)state;
	assert_int_equal(keep_set(&c, "tree-1", &fd), 0);
	assert_int_equal(fd, -1);
	fd = b;
	assert_int_equal(keep_set(&c, "tree-1", &fd), 0); /* replaces */
	assert_true(closed(a));
	fd = d;
	assert_int_equal(keep_set(&c, "tree-2", &fd), 0);
	assert_int_equal(c.n_kept, 2);
	keep_drop(&c, "tree-1");
	keep_drop(&c, "tree-3");
	assert_true(closed(b));
	assert_false(closed(d));
	assert_int_equal(c.n_kept, 1);
	keep_drop(&c, "tree-2");
	assert_int_equal(c.n_kept, 0);
	free(c.kept);
}

static void test_quota(void **state)
{
	struct child c = {.role = ROLE_ENFORCE};
	int fd = 0;
	(void)state;
	for (int i = 0; i < HERITAGE_KEPT_MAX; i++) {
		char name[HERITAGE_NAME_MAX];
		fd = 1000000 + i; /* numbers only: nothing is closed here */
		snprintf(name, sizeof(name), "tree-%d", i);
		assert_int_equal(keep_set(&c, name, &fd), 0);
	}
	fd = 1;
	assert_int_equal(keep_set(&c, "tree-more", &fd), -ENOBUFS);
	assert_int_equal(fd, 1);
	free(c.kept);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_backoff),
		cmocka_unit_test(test_names), cmocka_unit_test(test_keep),
		cmocka_unit_test(test_quota)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
