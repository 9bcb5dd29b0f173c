/*
 * The guard in scenarios (test-play.h): each asks enforce's questions and plays the others'
 * answers.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard/policies.h"
#include "guard/state.h"
#include "guard/test-play.h"
#include "guard/tree.h"

/* ---- scenarios ---- */

static void say_closed(Belay__FabricClosed *c)
{
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.closed = &c;
	m.n_closed = 1;
	say(w->fabric, &m);
}

static void test_a_connection_from_question_to_end(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	assert_int_equal(channels_count(&w->g), 1);
	struct channel *c = channel_first(&w->g);
	assert_string_equal(c->rule, "connects");
	assert_string_equal(subject_name(c->from), "client");
	assert_string_equal(subject_name(c->to), "server");
	/* The fabric says it is gone. */
	Belay__FabricClosed closed = BELAY__FABRIC_CLOSED__INIT;
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	Belay__Addr a = pb_addr(&c->a), b = pb_addr(&c->b);
	f.a = &a;
	f.b = &b;
	f.bytes_a_to_b = 5;
	closed.flow = &f;
	say_closed(&closed);
	assert_int_equal(channels_count(&w->g), 0);
	assert_int_equal(channel_ended_get(&w->g, 0)->copy.bytes_ab, 5);
}

static void test_who_is_refused_and_how(void **state)
{
	(void)state;
	/* Nobody listens: refused by the kernel's word where policy could allow it, else by ours.
	 */
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7001");
	assert_int_equal(answer(), -ECONNREFUSED);
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, STRANGER, "127.0.0.1:7001");
	assert_int_equal(answer(), -EACCES);
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:8001");
	assert_int_equal(answer(), -EACCES);
	ask(BELAY__QUESTION__CALL__CALL_BIND, CLIENT, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	ask(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "10.9.9.9:7000");
	assert_int_equal(answer(), -EADDRNOTAVAIL);
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "192.0.2.1:7000");
	assert_int_equal(answer(), -EACCES);
	listening("127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, STRANGER, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	expect_nothing();
	size_t i = 0;
	const struct refusal *r = refusals_get(&w->g, &i, STRANGER, NULL);
	assert_non_null(r);
	assert_non_null(strstr(r->text, "127.0.0.1:7000"));
}

static void test_the_rules_limit_of_connections(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	connected("127.0.0.1:40001", "127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	/* Before it refuses, the guard hears what has ended. */
	fabric_says(expect(BELAY__TO_FABRIC__BODY_STATS), 0, NULL, 0);
	assert_int_equal(answer(), -EACCES);
	expect_nothing();
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_STATS);
	struct channel *c = channel_first(&w->g);
	Belay__FabricClosed closed = BELAY__FABRIC_CLOSED__INIT;
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	struct addr from = c->a, to = c->b;
	Belay__Addr a = pb_addr(&from), b = pb_addr(&to);
	f.a = &a;
	f.b = &b;
	closed.flow = &f;
	say_closed(&closed);
	fabric_says(id, 0, NULL, 0);
	fabric_says(expect(BELAY__TO_FABRIC__BODY_CONNECT), 0, "127.0.0.1:40002", 0);
	assert_int_equal(answer(), 0);
}

static void test_connections_on_their_way_count(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_CONNECT), first = w->question;
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	fabric_says(expect(BELAY__TO_FABRIC__BODY_STATS), 0, NULL, 0);
	assert_int_equal(answer(), -EACCES);
	uint64_t second = w->question;
	w->question = first;
	fabric_says(id, -ECONNREFUSED, NULL, 0);
	assert_int_equal(answer(), -ECONNREFUSED);
	/* Its place is free again. */
	w->question = second;
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	id = expect(BELAY__TO_FABRIC__BODY_CONNECT);
	fabric_says(id, -ECONNREFUSED, NULL, 0);
	assert_int_equal(answer(), -ECONNREFUSED);
	expect_nothing();
}

static void test_revocation_ends_what_is_open(void **state)
{
	(void)state;
	struct error e = ERROR_INIT;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	assert_int_equal(registry_revoke(w->g.registry, REVOKED_PROGRAM, "client", "", &e), 0);
	judge_all(&w->g, "revoked");
	expect(BELAY__TO_FABRIC__BODY_REVOKE);
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_DESTROY);
	fabric_says(id, 0, NULL, 0);
	assert_int_equal(channels_count(&w->g), 0);
	assert_string_equal(channel_ended_get(&w->g, 0)->reason, "revoked");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	expect_nothing();
}

static void test_a_policy_that_takes_the_listeners_right_ends_it(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	load("version: 1\nrules: []\n");
	Belay__ToFabric *m;
	int destroyed = 0;
	while ((m = order())) {
		destroyed += m->body_case == BELAY__TO_FABRIC__BODY_DESTROY;
		fabric_says(m->id, 0, NULL, 0);
		ipc_free(m);
	}
	assert_int_equal(destroyed, 2);
	assert_int_equal(channels_count(&w->g), 0);
	struct addr a;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void test_a_lost_fabric_comes_back_and_is_asked_again(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	expect(BELAY__TO_FABRIC__BODY_CONNECT);
	close(w->fabric);
	assert_int_equal(answer(), NO_ANSWER); /* nobody refused it */
	/* What the dead one connected without our knowing is destroyed; what we know stays. */
	const char *const flows[][2] = {{"127.0.0.1:7000", NULL},
		{"127.0.0.1:40000", "127.0.0.1:7000"}, {"127.0.0.1:40001", "127.0.0.1:7000"},
		{"127.0.0.1:7009", NULL}};
	fabric_up(flows, 4);
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
	/* Asked again only when those have been carried out. */
	usleep(30000);
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_STATS);
	assert_int_equal(answer(), NO_ANSWER);
	fabric_says(id, 0, NULL, 0);
	Belay__ToEnforce *m = next(w->enforce, &belay__to_enforce__descriptor);
	assert_true(m && m->id == w->question && m->answer->again && !m->answer->error);
	ipc_free(m);
	expect_nothing();
	assert_int_equal(channels_count(&w->g), 1);
	connected("127.0.0.1:40002", "127.0.0.1:7000");
}

static void test_a_lost_attest_is_asked_again(void **state)
{
	(void)state;
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7001");
	close(w->attest);
	turn();
	assert_null(next(w->enforce, &belay__to_enforce__descriptor));
	w->attest = arrow_to(ROLE_ATTEST);
	assert_int_equal(answer(), -ECONNREFUSED);
}

static void test_a_successor_takes_over(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	connected("127.0.0.1:40001", "127.0.0.1:7000");
	guard_stop();
	guard_start();
	assert_true(tree_known(&w->g, w->tree));
	assert_int_equal(channels_count(&w->g), 2);
	/* Before the fabric has spoken nothing is answered. */
	w->question = 0;
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, STRANGER, "127.0.0.1:7000");
	assert_null(next(w->enforce, &belay__to_enforce__descriptor));
	const char *const flows[][2] = {
		{"127.0.0.1:7000", NULL}, {"127.0.0.1:40001", "127.0.0.1:7000"}};
	fabric_up(flows, 2);
	assert_int_equal(answer(), -EACCES);
	assert_int_equal(channels_count(&w->g), 1);
	assert_string_equal(channel_ended_get(&w->g, 0)->reason, "lost");
	/* The listener restored: its principal is still its own. */
	connected("127.0.0.1:40002", "127.0.0.1:7000");
	assert_string_equal(subject_name(channel_next(channel_first(&w->g))->to), "server");
}

/* Answers every order there is; how many ended sockets. */
static int orders_done(void)
{
	int destroyed = 0;
	for (Belay__ToFabric *m; (m = order());) {
		destroyed += m->body_case == BELAY__TO_FABRIC__BODY_DESTROY;
		fabric_says(m->id, 0, NULL, 0);
		ipc_free(m);
	}
	return destroyed;
}

static void test_a_listener_that_ends_while_its_order_is_out(void **state)
{
	(void)state;
	_cleanup_close_ int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct addr a;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	ask_on(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "127.0.0.1:7000", sock);
	fabric_says(expect(BELAY__TO_FABRIC__BODY_BIND), 0, "127.0.0.1:7000", 0);
	assert_int_equal(answer(), 0);
	ask_on(BELAY__QUESTION__CALL__CALL_LISTEN, SERVER, NULL, sock);
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_LISTEN);
	load("version: 1\nrules: []\n");
	fabric_says(id, 0, "127.0.0.1:7000", 0);
	assert_int_equal(orders_done(), 1);
	assert_int_equal(answer(), -EACCES);
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void test_a_bind_is_judged_by_the_policy_in_force_when_it_is_done(void **state)
{
	(void)state;
	struct addr a;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	ask(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "127.0.0.1:7000");
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_BIND);
	load("version: 1\nrules: []\n");
	fabric_says(id, 0, "127.0.0.1:7000", 0);
	orders_done();
	assert_int_equal(answer(), -EACCES);
	assert_null(bind_at(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a, false));
}

static void test_a_listener_that_was_replaced_is_not_reached(void **state)
{
	(void)state;
	struct addr a;
	listening("127.0.0.1:7000");
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	w->g.facts++; /* no lease holds */
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	assert_true(attest_one()); /* the client; the listener is attested next, and meanwhile: */
	struct bind *b = bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a);
	b->inode++;
	assert_int_equal(answer(), -ECONNREFUSED);
	expect_nothing();
}

static void test_a_name_that_is_used_again_is_a_new_channel(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	uint8_t first[CHANNEL_ID_LEN];
	memcpy(first, channel_first(&w->g)->id, sizeof(first));
	/* The kernel gave the port again before the news of the first one's end got here. */
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	assert_int_equal(channels_count(&w->g), 1);
	struct channel *c = channel_first(&w->g);
	assert_memory_not_equal(c->id, first, sizeof(first));
	Belay__FabricClosed closed = BELAY__FABRIC_CLOSED__INIT;
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	struct addr from = c->a, to = c->b;
	Belay__Addr a = pb_addr(&from), b = pb_addr(&to);
	f.a = &a;
	f.b = &b;
	closed.flow = &f;
	say_closed(&closed); /* of the first */
	assert_int_equal(channels_count(&w->g), 1);
	say_closed(&closed);
	assert_int_equal(channels_count(&w->g), 0);
}

static void test_a_successor_remembers_the_libraries(void **state)
{
	(void)state;
	struct addr a;
	struct error e = ERROR_INIT;
	struct enrollment lib = {
		.name = "lib", .path = "/tmp/x.so", .size = 4096, .flags = PROGRAM_LIBRARY};
	memset(lib.sha256.bytes, 0x77, 32);
	assert_int_equal(registry_enroll(w->g.registry, &lib, &e), 0);
	w->foreign = true;
	listening("127.0.0.1:7000");
	w->foreign = false;
	guard_stop();
	guard_start();
	const char *const flows[][2] = {{"127.0.0.1:7000", NULL}};
	fabric_up(flows, 1);
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	assert_non_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
	judge_all(&w->g, "registry");
	assert_non_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
	assert_int_equal(registry_unenroll(w->g.registry, "lib", NULL, &e), 0);
	judge_all(&w->g, "registry");
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void closes(Belay__Transport transport, const char *at)
{
	Belay__FabricClosed closed = BELAY__FABRIC_CLOSED__INIT;
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	struct addr addr;
	assert_int_equal(addr_parse(at, &addr), 0);
	Belay__Addr a = pb_addr(&addr);
	f.a = &a;
	f.transport = closed.transport = transport;
	closed.flow = &f;
	closed.listener = true;
	say_closed(&closed);
}

static void test_the_end_of_a_bound_socket_ends_its_entry_alone(void **state)
{
	(void)state;
	struct addr a, b;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	assert_int_equal(addr_parse("127.0.0.1:7001", &b), 0);
	listening("127.0.0.1:7000");
	/* A datagram socket of the same name is not the listener. */
	closes(BELAY__TRANSPORT__TRANSPORT_UDP, "127.0.0.1:7000");
	assert_non_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
	/* One that never listened has an entry, too. The kernel tells no inode at the end. */
	ask(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "127.0.0.1:7001");
	fabric_says(expect(BELAY__TO_FABRIC__BODY_BIND), 0, "127.0.0.1:7001", 5);
	assert_int_equal(answer(), 0);
	closes(BELAY__TRANSPORT__TRANSPORT_TCP, "127.0.0.1:7001");
	assert_null(bind_at(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &b, false));
	closes(BELAY__TRANSPORT__TRANSPORT_TCP, "127.0.0.1:7000");
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void test_lost_news_are_made_good_by_a_dump(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	connected("127.0.0.1:40001", "127.0.0.1:7000");
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.overrun = true;
	say(w->fabric, &m);
	say(w->fabric, &m); /* while the first dump is still to come */
	assert_true(arrow_up(&w->g, ROLE_FABRIC));
	for (int i = 0; i < 2; i++) {
		uint64_t id = expect(BELAY__TO_FABRIC__BODY_DUMP);
		expect_nothing();
		Belay__FabricFlow f[2] = {BELAY__FABRIC_FLOW__INIT, BELAY__FABRIC_FLOW__INIT};
		Belay__FabricFlow *flows[] = {&f[0], &f[1]};
		struct addr from, to;
		assert_int_equal(addr_parse("127.0.0.1:40001", &from), 0);
		assert_int_equal(addr_parse("127.0.0.1:7000", &to), 0);
		Belay__Addr a = pb_addr(&from), b = pb_addr(&to);
		f[0].a = &b;
		f[1].a = &a;
		f[1].b = &b;
		m = (Belay__FromFabric)BELAY__FROM_FABRIC__INIT;
		m.id = id;
		m.flows = flows;
		m.n_flows = 2;
		say(w->fabric, &m);
		assert_int_equal(channels_count(&w->g), 1);
	}
	expect_nothing();
	assert_int_equal(channel_first(&w->g)->a.port, 40001);
}

static void test_an_image_that_inherits_is_held_to_its_own_rule(void **state)
{
	(void)state;
	static const char text[] = "version: 1\nrules:\n"
				   "  - name: a\n"
				   "    allow: bind\n"
				   "    from: { program: [server, client] }\n"
				   "  - name: b\n"
				   "    allow: connect\n"
				   "    from: { program: client }\n"
				   "    port: 7000\n"
				   "  - name: c\n"
				   "    allow: connect\n"
				   "    from: { program: server }\n"
				   "    port: 7000\n"
				   "    protection: encrypt\n";
	load(text);
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	struct channel *c = channel_first(&w->g);
	Belay__Question q = BELAY__QUESTION__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	Belay__Inherited i = BELAY__INHERITED__INIT, *list[] = {&i};
	Belay__Addr a = pb_addr(&c->a), b = pb_addr(&c->b);
	i.local = &a;
	i.remote = &b;
	q.call = BELAY__QUESTION__CALL__CALL_EXEC;
	q.tree = w->tree;
	q.pid = SERVER;
	q.n_inherited = 1;
	q.inherited = list;
	m.id = ++w->question;
	m.body_case = BELAY__FROM_ENFORCE__BODY_QUESTION;
	m.question = &q;
	assert_int_equal(ipc_send_fd(w->enforce, &m.base, &w->pidfd, 1), 0);
	turn();
	assert_int_equal(orders_done(), 1);
	assert_int_equal(answer(), 0);
	assert_int_equal(channels_count(&w->g), 0);
}

static void test_what_another_node_says_is_shown_clean(void **state)
{
	(void)state;
	char *programs[] = {pb_text("client")};
	uint8_t sha[32] = {1};
	Belay__Evidence e = BELAY__EVIDENCE__INIT;
	e.pid = 7;
	e.exe_path = pb_text("/tmp/\033]0;owned\007\033[2Jx");
	e.exe_sha256 = pb_bytes(sha, sizeof(sha));
	for (int bad = 0; bad < 2; bad++) {
		uint8_t buf[512];
		e.exe_sha256.len = bad ? 31 : 32;
		size_t len = protobuf_c_message_pack(&e.base, buf);
		struct subject *s =
			subject_remote(&w->g, ipc_unpack(&belay__evidence__descriptor, buf, len),
				"far", programs, (size_t)bad, NULL, 0, "");
		assert_int_equal(s != NULL, !bad);
		if (s) {
			assert_null(strpbrk(s->evidence->exe_path, "\033\007"));
			assert_null(strpbrk(subject_name(s), "\033\007"));
		}
		subject_unref(s);
	}
}

static void test_one_user_does_not_take_all_runs(void **state)
{
	(void)state;
	uint64_t id;
	size_t n = 0;
	int r;
	w->g.component.heritage.host = true;
	uint8_t token[TREE_TOKEN_LEN] = {0};
	uint64_t first, again;
	while ((r = tree_start(&w->g, 1, 4711, "", token, &id)) == 0 && n < TREES_MAX)
		memcpy(token, &(uint64_t){++n}, sizeof(uint64_t));
	assert_int_equal(r, -EDQUOT);
	assert_int_equal(n, TREES_MAX / 4);
	assert_int_equal(tree_start(&w->g, 1, 4712, "", token, &first), 0);
	/* The same request is the same tree; another process's, though it says the same, is not. */
	n = trees_count(&w->g);
	assert_int_equal(tree_start(&w->g, 1, 4712, "", token, &again), 0);
	assert_int_equal(again, first);
	assert_int_equal(trees_count(&w->g), n);
	assert_int_equal(tree_start(&w->g, 2, 4712, "", token, &again), 0);
	assert_int_not_equal(again, first);
}

static void test_a_surprise_closes_the_arrow(void **state)
{
	(void)state;
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.id = 12345;
	say(w->fabric, &m);
	assert_false(arrow_up(&w->g, ROLE_FABRIC));
	assert_true(arrow_up(&w->g, ROLE_ATTEST));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_connection_from_question_to_end),
		T(who_is_refused_and_how),
		T(the_rules_limit_of_connections),
		T(connections_on_their_way_count),
		T(revocation_ends_what_is_open),
		T(a_policy_that_takes_the_listeners_right_ends_it),
		T(a_lost_fabric_comes_back_and_is_asked_again),
		T(a_lost_attest_is_asked_again),
		T(a_successor_takes_over),
		T(a_listener_that_ends_while_its_order_is_out),
		T(a_bind_is_judged_by_the_policy_in_force_when_it_is_done),
		T(a_listener_that_was_replaced_is_not_reached),
		T(a_name_that_is_used_again_is_a_new_channel),
		T(a_successor_remembers_the_libraries),
		T(the_end_of_a_bound_socket_ends_its_entry_alone),
		T(lost_news_are_made_good_by_a_dump),
		T(an_image_that_inherits_is_held_to_its_own_rule),
		T(what_another_node_says_is_shown_clean),
		T(one_user_does_not_take_all_runs),
		T(a_surprise_closes_the_arrow),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
