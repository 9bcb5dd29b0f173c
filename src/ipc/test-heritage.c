/* The heritage's grammar: what belayd writes is read back, and nothing else is accepted. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "ipc/heritage.h"

#include <cmocka.h>

#define GOOD "role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/x"
#define GUARD "role=guard host=0 gen=1 owner=1000 dispatcher=3 belayd=4 state=5 memory=6 "

static void test_guard(void **state)
{
	struct heritage h;
	struct error e = ERROR_INIT;
	(void)state;
	assert_int_equal(
		heritage_parse(
			"role=guard host=1 gen=17 owner=0 dispatcher=3 belayd=4 state=5 memory=6 "
			"resolver=127.0.0.9:5353 resolver=[::1]:53 dir=/run/be%20lay kept:tree-1=7 "
			"kept:tree-22=9",
			&h, &e),
		0);
	assert_int_equal(h.role, ROLE_GUARD);
	assert_true(h.host);
	assert_int_equal(h.generation, 17);
	assert_int_equal(h.state_dir, 5);
	assert_int_equal(h.memory, 6);
	assert_int_equal(h.n_resolvers, 2);
	assert_int_equal(h.resolvers[0].port, 5353);
	assert_int_equal(h.resolvers[1].ip_len, 16);
	assert_string_equal(h.dir, "/run/be lay");
	assert_int_equal(h.n_kept, 2);
	assert_string_equal(h.kept[1].name, "tree-22");
	assert_int_equal(h.kept[1].fd, 9);
	heritage_clear(&h);
}

static void test_refused(void **state)
{
	static const char *const bad[] = {"", " ", "role=", "role=conn", "role=king host=0",
		"role=none host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/x", GOOD " ",
		GOOD "\n", " " GOOD, GOOD " x", GOOD " kept:", GOOD " kept:a",
		GOOD " kept:a=", GOOD " kept:a=4", GOOD " kept:a=2", GOOD " kept:a=5x",
		GOOD " kept:A=5", GOOD " kept:a=5 kept:b=5", GOOD " kept:a=6 kept:b=5",
		GOOD " kept:a_b=5", GOOD " kept:=5", GOOD " kept:a=-5", GOOD " kept:a=5  kept:b=6",
		GOOD " kept:a=99999999999999999999", GOOD " kept:a=1048577",
		GOOD " kept:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa=5",
		"role=conn host=2 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/x",
		"role=conn host=00 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/x",
		"role=conn host=0 gen=4294967296 owner=1000 dispatcher=3 belayd=4 dir=/x",
		"role=conn host=0 gen=01 owner=1000 dispatcher=3 belayd=4 dir=/x",
		"role=conn host=0 gen= owner=1000 dispatcher=3 belayd=4 dir=/x",
		"role=conn host=0 gen=1 owner=4294967295 dispatcher=3 belayd=4 dir=/x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=2 belayd=4 dir=/x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=3 dir=/x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=4 belayd=3 dir=/x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=+3 belayd=4 dir=/x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 state=5 dir=/x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 memory=5 dir=/x",
		"role=guard host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/x",
		"role=conn gen=1 host=0 owner=1000 dispatcher=3 belayd=4 dir=/x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=x",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/%",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/%2",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/%00",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/%61",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=/a*b",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4",
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 resolver=1.1.1.1:53 "
		"dir=/x",
		GUARD "resolver=1.1.1.1 dir=/x", GUARD "resolver=1.1.1.1:0 dir=/x",
		GUARD "resolver=x:53 dir=/x", GUARD "resolver= dir=/x",
		GUARD "resolver=01.1.1.1:53 dir=/x",
		GUARD "resolver=1.1.1.1:1 resolver=1.1.1.1:2 resolver=1.1.1.1:3 "
		      "resolver=1.1.1.1:4 resolver=1.1.1.1:5 dir=/x"};
	struct heritage h;
	struct error e;
	(void)state;
	assert_int_equal(heritage_parse(GOOD, &h, NULL), 0);
	assert_int_equal(heritage_parse(GUARD "dir=/x", &h, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int r = heritage_parse(bad[i], &h, &e);
		if (r != -EINVAL)
			fail_msg("accepted: %s", bad[i]);
		assert_null(h.kept);
		assert_true(e.text[0]);
	}
}

static void test_long(void **state)
{
	char dir[HERITAGE_DIR_MAX + 8] = "/";
	char text[1024];
	struct heritage h;
	(void)state;
	memset(dir + 1, 'a', HERITAGE_DIR_MAX - 2);
	snprintf(text, sizeof(text),
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=%s", dir);
	assert_int_equal(heritage_parse(text, &h, NULL), 0);
	assert_string_equal(h.dir, dir);
	snprintf(text, sizeof(text),
		"role=conn host=0 gen=1 owner=1000 dispatcher=3 belayd=4 dir=%sb", dir);
	assert_int_equal(heritage_parse(text, &h, NULL), -EINVAL);
}

static struct heritage many(size_t n)
{
	struct heritage h = {.role = ROLE_ENFORCE,
		.generation = 3,
		.owner_uid = 7,
		.dispatcher = 3,
		.belayd = 4,
		.state_dir = -1,
		.memory = 5};
	snprintf(h.dir, sizeof(h.dir), "/tmp/\xc3\xa4 b%%");
	h.kept = calloc(n, sizeof(*h.kept));
	assert_non_null(h.kept);
	for (; h.n_kept < n; h.n_kept++) {
		snprintf(h.kept[h.n_kept].name, HERITAGE_NAME_MAX, "tree-%zu", h.n_kept);
		h.kept[h.n_kept].fd = 6 + (int)h.n_kept;
	}
	return h;
}

static void test_round_trip(void **state)
{
	struct heritage h = many(HERITAGE_KEPT_MAX), back;
	_cleanup_free_ char *text = NULL;
	(void)state;
	assert_int_equal(heritage_format(&h, &text), 0);
	assert_int_equal(heritage_parse(text, &back, NULL), 0);
	assert_string_equal(h.dir, back.dir);
	assert_int_equal(back.n_kept, HERITAGE_KEPT_MAX);
	for (size_t i = 0; i < back.n_kept; i++)
		assert_memory_equal(&back.kept[i], &h.kept[i], sizeof(h.kept[i]));
	heritage_clear(&back);
	heritage_clear(&h);
}

static void test_too_many(void **state)
{
	struct heritage h = many(HERITAGE_KEPT_MAX + 1);
	char *text = NULL;
	(void)state;
	assert_int_equal(heritage_format(&h, &text), -EINVAL);
	heritage_clear(&h);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_guard),
		cmocka_unit_test(test_refused), cmocka_unit_test(test_long),
		cmocka_unit_test(test_round_trip), cmocka_unit_test(test_too_many)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
