/* The table of bound addresses: who reaches whom, and that two principals never meet. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "guard/bind.h"
#include "guard/share.h"

static struct guard guard;

static struct subject *principal(uint64_t p)
{
	struct subject *s = calloc(1, sizeof(*s));
	s->refs = 1;
	s->principal = p;
	return s;
}

static struct addr at(const char *text)
{
	struct addr a;
	assert_int_equal(addr_parse(text, &a), 0);
	return a;
}

static struct bind *listen_at(const char *text, bool v6only, uint64_t p)
{
	struct bind b = {.addr = at(text),
		.transport = BELAY__TRANSPORT__TRANSPORT_TCP,
		.v6only = v6only,
		.listening = true,
		.subject = principal(p),
		.slot = -1};
	struct bind *r = bind_insert(&guard, &b);
	subject_unref(b.subject);
	assert_non_null(r);
	return r;
}

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

static struct bind *find(const char *text)
{
	struct addr a = at(text);
	return bind_find(&guard, BELAY__TRANSPORT__TRANSPORT_TCP, &a);
}

static void test_the_nearest_listener_is_reached(void **state)
{
	(void)state;
	struct bind *six = listen_at("[::]:80", false, 1);
	assert_ptr_equal(find("127.0.0.1:80"), six);
	assert_ptr_equal(find("[::1]:80"), six);
	struct bind *any = listen_at("0.0.0.0:80", false, 1);
	assert_ptr_equal(find("127.0.0.1:80"), any);
	struct bind *exact = listen_at("127.0.0.1:80", false, 1);
	assert_ptr_equal(find("127.0.0.1:80"), exact);
	assert_ptr_equal(find("127.0.0.2:80"), any);
	assert_ptr_equal(find("[::1]:80"), six);
	assert_null(find("127.0.0.1:81"));
	exact->listening = false;
	assert_ptr_equal(find("127.0.0.1:80"), any);
	any->pending = true;
	assert_ptr_equal(find("127.0.0.1:80"), six);
	six->v6only = true;
	assert_null(find("127.0.0.1:80"));
	assert_ptr_equal(find("[::1]:80"), six);
}

static void test_overlap(void **state)
{
	(void)state;
	static const struct {
		const char *a;
		bool a6;
		const char *b;
		bool b6, want;
	} t[] = {
		{"127.0.0.1:80", 0, "127.0.0.1:80", 0, true},
		{"127.0.0.1:80", 0, "127.0.0.1:81", 0, false},
		{"127.0.0.1:80", 0, "127.0.0.2:80", 0, false},
		{"127.0.0.1:80", 0, "0.0.0.0:80", 0, true},
		{"0.0.0.0:80", 0, "0.0.0.0:80", 0, true},
		{"127.0.0.1:80", 0, "[::]:80", 0, true},
		{"127.0.0.1:80", 0, "[::]:80", 1, false},
		{"127.0.0.1:80", 0, "[::1]:80", 0, false},
		{"[::1]:80", 0, "[::]:80", 1, true},
		{"0.0.0.0:80", 0, "[::]:80", 0, true},
		{"0.0.0.0:80", 0, "[::]:80", 1, false},
		{"0.0.0.0:0", 0, "0.0.0.0:0", 0, false},
	};
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct addr a = at(t[i].a), b = at(t[i].b);
		assert_int_equal(bind_overlap(&a, t[i].a6, &b, t[i].b6), t[i].want);
		assert_int_equal(bind_overlap(&b, t[i].b6, &a, t[i].a6), t[i].want);
	}
}

static struct addr random_address(void)
{
	static const char *const some[] = {"0.0.0.0:7", "127.0.0.1:7", "127.0.0.2:7", "10.1.1.1:7",
		"[::]:7", "[::1]:7", "[fd00::1]:7", "0.0.0.0:8", "127.0.0.1:8", "[::]:8"};
	return at(some[(unsigned)rand() % ARRAY_LEN(some)]);
}

/*
 * Whatever is bound in whatever order, as long as the conflict rule is kept: a connection to any
 * address reaches one principal only, however the kernel chose among the listeners that could take
 * it.
 */
static void test_no_two_principals_are_ever_reachable_at_one_address(void **state)
{
	(void)state;
	srand(4711);
	teardown(NULL);
	for (int round = 0; round < 2000; round++) {
		setup(NULL);
		struct bind *all[24];
		size_t n = 0;
		for (int i = 0; i < 24; i++) {
			struct addr a = random_address();
			bool v6only = rand() & 1;
			uint64_t p = 1 + (unsigned)rand() % 3;
			struct subject *s = principal(p);
			if (!bind_conflict(
				    &guard, BELAY__TRANSPORT__TRANSPORT_TCP, &a, v6only, p)) {
				struct bind b = {.addr = a,
					.v6only = v6only,
					.listening = true,
					.subject = s,
					.slot = -1};
				all[n++] = bind_insert(&guard, &b);
			}
			subject_unref(s);
		}
		for (int i = 0; i < 20; i++) {
			struct addr to = random_address();
			uint64_t reached = 0;
			for (size_t k = 0; k < n; k++) {
				/* Could the kernel hand `to` to this listener? */
				if (!bind_overlap(&to, true, &all[k]->addr, all[k]->v6only) ||
					addr_is_any(&to))
					continue;
				uint64_t p = all[k]->subject->principal;
				assert_true(reached == 0 || reached == p);
				reached = p;
			}
			struct bind *found =
				bind_find(&guard, BELAY__TRANSPORT__TRANSPORT_TCP, &to);
			if (!addr_is_any(&to))
				assert_int_equal(found ? found->subject->principal : 0, reached);
		}
		teardown(NULL);
	}
	setup(NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(
			test_the_nearest_listener_is_reached, setup, teardown),
		cmocka_unit_test_setup_teardown(test_overlap, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_no_two_principals_are_ever_reachable_at_one_address, setup, teardown),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
