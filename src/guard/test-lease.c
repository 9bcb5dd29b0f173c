/* Leases as the guard gives, cuts and reads them, with an enforce that is the test: also a hostile
 * one. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard/lease.h"
#include "guard/test-play.h"

#define AT "127.0.0.1:7000"

static const char unlimited[] =
	"version: 1\n"
	"rules:\n"
	"  - { name: listens, allow: bind, from: { program: server }, port: 7000 }\n"
	"  - { name: connects, allow: connect, from: { program: client },\n"
	"      to: { program: server }, port: 7000 }\n";

static void lease(void)
{
	load(unlimited);
	listening(AT);
	w->lease = true;
	connected("127.0.0.1:40000", AT);
	assert_true(w->leased.generation);
	assert_true(w->leased.mark >= MARK_MIN);
	assert_true(lease_holds(w->book, w->leased.lease, w->leased.generation));
}

/* As enforce does when it has connected. */
static void used(const char *from, const char *to, uint32_t generation)
{
	struct lease_use u = {.lease = w->leased.lease, .generation = generation};
	assert_int_equal(addr_parse(from, &u.a), 0);
	assert_int_equal(addr_parse(to, &u.b), 0);
	assert_true(lease_use_room(w->book));
	lease_use_put(w->book, &u);
}

static void bell(void)
{
	Belay__LeasesUsed u = BELAY__LEASES_USED__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	m.body_case = BELAY__FROM_ENFORCE__BODY_LEASES_USED;
	m.leases_used = &u;
	say(w->enforce, &m);
}

static struct channel *channel_from(const char *from)
{
	struct addr a, b;
	assert_int_equal(addr_parse(from, &a), 0);
	assert_int_equal(addr_parse(AT, &b), 0);
	return channel_find_names(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a, &b);
}

static void test_only_who_asks_has_one(void **state)
{
	(void)state;
	listening(AT);
	w->lease = true;
	connected("127.0.0.1:40000", AT);
	/* Its rule counts connections: each is asked about. */
	assert_int_equal(w->leased.generation, 0);
	load(unlimited);
	expect(BELAY__TO_FABRIC__BODY_REVOKE);
	w->lease = false;
	connected("127.0.0.1:40003", AT);
	assert_int_equal(w->leased.generation, 0);
	w->lease = true;
	connected("127.0.0.1:40001", AT);
	uint32_t generation = w->leased.generation;
	assert_true(generation);
	/* Asked again it is the same one, renewed. */
	connected("127.0.0.1:40002", AT);
	assert_int_equal(w->leased.generation, generation);
}

static void test_a_use_becomes_a_channel(void **state)
{
	(void)state;
	lease();
	used("127.0.0.1:41000", AT, w->leased.generation);
	used("127.0.0.1:41001", AT, w->leased.generation);
	bell();
	assert_int_equal(channels_count(&w->g), 3);
	struct channel *c = channel_from("127.0.0.1:41001");
	assert_non_null(c);
	assert_true(c->leased);
	assert_string_equal(subject_name(c->from), "client");
	assert_string_equal(subject_name(c->to), "server");
	assert_int_equal(lease_uses(w->book), 0);
	expect_nothing();
}

static void test_a_use_is_read_before_its_end_is_heard(void **state)
{
	(void)state;
	lease();
	used("127.0.0.1:41000", AT, w->leased.generation);
	struct addr from, to;
	assert_int_equal(addr_parse("127.0.0.1:41000", &from), 0);
	assert_int_equal(addr_parse(AT, &to), 0);
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	Belay__FabricClosed c = BELAY__FABRIC_CLOSED__INIT, *list[] = {&c};
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	Belay__Addr a = pb_addr(&from), b = pb_addr(&to);
	f.a = &a;
	f.b = &b;
	c.flow = &f;
	m.closed = list;
	m.n_closed = 1;
	say(w->fabric, &m);
	assert_null(channel_from("127.0.0.1:41000"));
	assert_memory_equal(&channel_ended_get(&w->g, 0)->copy.a, &from, sizeof(from));
}

static void test_a_use_that_crosses_the_cut_is_judged(void **state)
{
	(void)state;
	struct error e = ERROR_INIT;
	lease();
	assert_int_equal(registry_revoke(w->g.registry, REVOKED_PROGRAM, "client", "", &e), 0);
	judge_all(&w->g, "revoked");
	assert_false(lease_holds(w->book, w->leased.lease, w->leased.generation));
	expect(BELAY__TO_FABRIC__BODY_REVOKE);
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
	used("127.0.0.1:41000", AT, w->leased.generation);
	bell();
	assert_string_equal(channel_from("127.0.0.1:41000")->why_ending, "policy");
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
}

static void test_exec_and_end_of_the_listener_cut(void **state)
{
	(void)state;
	lease();
	lease_cut_process(&w->g, CLIENT);
	assert_false(lease_holds(w->book, w->leased.lease, w->leased.generation));
	connected("127.0.0.1:40001", AT);
	assert_true(lease_holds(w->book, w->leased.lease, w->leased.generation));
	struct addr a;
	assert_int_equal(addr_parse(AT, &a), 0);
	bind_drop(&w->g, bind_at(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a, true));
	assert_false(lease_holds(w->book, w->leased.lease, w->leased.generation));
}

static void test_what_is_no_use_is_no_channel(void **state)
{
	(void)state;
	lease();
	size_t n = channels_count(&w->g);
	used("127.0.0.1:41000", AT, w->leased.generation + 7); /* a lease nobody gave */
	bell();
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
	used("127.0.0.1:41000", "127.0.0.1:7001", w->leased.generation); /* not its place */
	bell();
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
	struct lease_use u = {.lease = UINT32_MAX, .generation = 1, .a = {.ip_len = 200}};
	lease_use_put(w->book, &u);
	bell();
	expect_nothing();
	assert_int_equal(channels_count(&w->g), n);
	assert_true(arrow_up(&w->g, ROLE_ENFORCE));
	/* More than there is room for: whoever wrote that is none of ours. */
	atomic_fetch_add(&w->book->head, LEASE_USES_MAX + 1);
	bell();
	assert_false(arrow_up(&w->g, ROLE_ENFORCE));
	assert_int_equal(channels_count(&w->g), n);
	assert_false(lease_holds(w->book, w->leased.lease, w->leased.generation));
}

static void test_a_successor_reads_what_is_unread(void **state)
{
	(void)state;
	lease();
	uint32_t generation = w->leased.generation;
	guard_stop();
	used("127.0.0.1:41000", AT, generation);
	guard_start();
	assert_false(lease_holds(w->book, w->leased.lease, generation));
	struct channel *c = channel_from("127.0.0.1:41000");
	assert_non_null(c);
	assert_string_equal(subject_name(c->from), "client");
	/* It is confirmed like any other, and its number is not given twice. */
	const char *const flows[][2] = {
		{AT, NULL}, {"127.0.0.1:40000", AT}, {"127.0.0.1:41000", AT}};
	fabric_up(flows, ARRAY_LEN(flows));
	assert_non_null(channel_from("127.0.0.1:41000"));
	connected("127.0.0.1:40001", AT);
	assert_true(w->leased.generation > generation);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_only_who_asks_has_one, setup, teardown),
		cmocka_unit_test_setup_teardown(test_a_use_becomes_a_channel, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_use_is_read_before_its_end_is_heard, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_use_that_crosses_the_cut_is_judged, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_exec_and_end_of_the_listener_cut, setup, teardown),
		cmocka_unit_test_setup_teardown(test_what_is_no_use_is_no_channel, setup, teardown),
		cmocka_unit_test_setup_teardown(
			test_a_successor_reads_what_is_unread, setup, teardown),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
