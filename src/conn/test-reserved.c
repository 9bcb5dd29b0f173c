/*
 * Channels in advance between two engines: opened once, without asking; not after the lease's end,
 * not after their data connection's, not by a node they were not made for.
 */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"
#include "conn/reserve.h"
#include "test-cheat.h"

enum { LEASE = 7 };

static int listener(struct addr *ret)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sa);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, len), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &len), 0);
	*ret = (struct addr){.ip_len = 4, .ip = {127, 0, 0, 1}, .port = ntohs(sa.sin_port)};
	return fd;
}

static void one(struct engine_channel *c, int side, uint32_t number)
{
	memset(c, 0, sizeof(*c));
	memset(c->id, 0x5a, sizeof(c->id));
	memcpy(c->id, &number, sizeof(number));
	c->node = side ? "alpha" : "beta";
	c->initiator = !side;
	memset(c->send.bytes, side + 1, SECRET_LEN);
	memset(c->receive.bytes, 2 - side, SECRET_LEN);
	memcpy(c->send.bytes, &number, sizeof(number));
	memcpy(c->receive.bytes, &number, sizeof(number));
}

/* Entered at both sides, as the guards do: the accepting one first. */
static void enter(struct world *w, uint32_t number, const struct addr *to, uint8_t *ret_id)
{
	struct engine_channel c;
	one(&c, 1, number);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	assert_int_equal(engine_reserve_add(w->side[1], &c, LEASE, to, &fd), 0);
	assert_int_equal(fd, -1);
	one(&c, 0, number);
	assert_int_equal(engine_reserve_add(w->side[0], &c, LEASE, to, &fd), 0);
	memcpy(ret_id, c.id, sizeof(c.id));
}

static int take(struct world *w, const uint8_t *id)
{
	int pair[2];
	world_tcp_pair(pair);
	engine_reserve_take(w->side[0], id, &pair[1]);
	return pair[0];
}

static bool is_reset(int fd)
{
	char b;
	return recv(fd, &b, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET;
}

static void test_opened_once(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c;
	struct addr to;
	uint8_t ids[4][FRAME_CHANNEL_LEN];
	world_init(&w, NULL, false);
	world_link(&w, 1);
	int l = listener(&to);
	for (uint32_t i = 0; i < 4; i++)
		enter(&w, i, &to, ids[i]);
	for (int i = 0; i < 4; i++) {
		memcpy(c.id, ids[i], sizeof(c.id));
		c.program[0] = take(&w, ids[i]);
		assert_true(world_until(&w, 2000,
			(c.program[1] = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >=
				0));
		world_carry(&w, &c, 200000);
		assert_int_equal(w.n_used, i + 1);
		assert_int_equal(w.used_from.ip_len, 4);
		assert_true(w.used_from.port);
		/* A second time it is not there: that program is reset, the first goes on. */
		int again = take(&w, ids[i]);
		assert_true(is_reset(again));
		assert_non_null(world_ended(&w, ids[i], 0));
		close(again);
		world_carry(&w, &c, 1000);
		world_channel_close(&c);
		assert_true(world_until(&w, 2000, world_ended(&w, ids[i], 1)));
	}
	/* Nor can it be entered again while it is there. */
	struct engine_channel two;
	int fd = -1;
	enter(&w, 9, &to, ids[0]);
	one(&two, 0, 9);
	assert_int_equal(engine_reserve_add(w.side[0], &two, LEASE, &to, &fd), -EEXIST);
	close(l);
	world_deinit(&w);
}

static void test_not_after_the_end(void **state)
{
	(void)state;
	struct engine_limits limits = engine_limits_default;
	limits.open_ms = 300;
	struct world w;
	struct addr to;
	uint8_t ids[4][FRAME_CHANNEL_LEN];
	struct engine_counts k;
	world_init(&w, &limits, false);
	world_link(&w, 1);
	int l = listener(&to);
	for (uint32_t i = 0; i < 4; i++)
		enter(&w, i, &to, ids[i]);
	/* The accepting side's lease ends first: it says no, at once. */
	engine_reserve_end(w.side[1], LEASE);
	int fd = take(&w, ids[0]);
	assert_true(world_until(&w, 2000, is_reset(fd)));
	close(fd);
	assert_int_equal(accept4(l, NULL, NULL, SOCK_NONBLOCK), -1);
	assert_int_equal(w.n_used, 0);
	/* Then the connecting side's: its entries are gone at once, the other's with their time. */
	engine_reserve_end(w.side[0], LEASE + 1);
	engine_counts(w.side[0], &k);
	assert_int_equal(k.channels, 3);
	engine_reserve_end(w.side[0], LEASE);
	engine_counts(w.side[0], &k);
	assert_int_equal(k.channels, 0);
	assert_true(world_until(&w, 3000, ({
		engine_counts(w.side[1], &k);
		k.channels == 0;
	})));
	/* A listener that is gone refuses like any other. */
	close(l);
	enter(&w, 5, &to, ids[0]);
	fd = take(&w, ids[0]);
	assert_true(world_until(&w, 2000, is_reset(fd)));
	close(fd);
	world_deinit(&w);
}

static void test_it_goes_with_its_connection(void **state)
{
	(void)state;
	struct world w;
	struct addr to;
	uint8_t ids[2][FRAME_CHANNEL_LEN];
	struct engine_counts k;
	world_init(&w, NULL, true);
	world_link(&w, 1);
	int l = listener(&to);
	for (uint32_t i = 0; i < 2; i++) /* one on each data connection */
		enter(&w, i, &to, ids[i]);
	w.proxy->cut = true;
	assert_true(world_until(&w, 3000, ({
		engine_counts(w.side[1], &k);
		k.channels == 0;
	})));
	assert_true(world_until(&w, 3000, world_up(&w, 0) == 2 && world_up(&w, 1) == 2));
	for (int i = 0; i < 2; i++) {
		int fd = take(&w, ids[i]);
		assert_true(is_reset(fd));
		close(fd);
	}
	/* Without a data connection none is made. */
	struct engine_channel c;
	int none = -1;
	one(&c, 0, 3);
	c.node = "nobody";
	assert_int_equal(engine_reserve_add(w.side[0], &c, LEASE, &to, &none), -EHOSTUNREACH);
	close(l);
	world_deinit(&w);
}

static void test_a_node_that_cheats(void **state)
{
	(void)state;
	struct world w;
	struct addr to;
	struct engine_counts k;
	world_init(&w, NULL, false);
	memset(w.secret, 3, sizeof(w.secret));
	struct engine_peer alpha = {.node = "alpha", .self = "beta", .secret = w.secret};
	struct engine_peer gamma = {.node = "gamma", .self = "beta", .secret = w.secret};
	assert_int_equal(engine_peer_set(w.side[1], &alpha), 0);
	assert_int_equal(engine_peer_set(w.side[1], &gamma), 0);
	static struct cheat a, g;
	cheat_prove(&w, &a, 0, "alpha");
	cheat_prove(&w, &g, 0, "gamma");
	assert_true(world_until(&w, 2000, world_up(&w, 1) == 2));
	int l = listener(&to);
	for (uint32_t i = 0; i < 3; i++) {
		struct engine_channel c;
		one(&c, 1, 2 * i);
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
		assert_int_equal(engine_reserve_add(w.side[1], &c, LEASE, &to, &fd), 0);
		/* Another node, even if it had the very key: it is not of its connection. */
		assert_int_equal(seal_init(&g.seal, &c.receive, 0), 0);
		cheat_send(&g, FRAME_OPEN, c.id, NULL, 0);
		assert_true(world_until(&w, 2000, ({
			engine_counts(w.side[1], &k);
			k.unknown_frames == i + 1;
		})));
		seal_clear(&g.seal);
		assert_int_equal(w.n_used, i);
		/* The node it is of: before OPEN nothing else, OPEN once, under its key. */
		struct secret wrong = {{1}};
		assert_int_equal(seal_init(&a.seal, i == 0 ? &wrong : &c.receive, 0), 0);
		if (i == 1)
			cheat_send(&a, FRAME_DATA, c.id, "x", 1);
		cheat_send(&a, FRAME_OPEN, c.id, NULL, 0);
		if (i == 2)
			cheat_send(&a, FRAME_OPEN, c.id, NULL, 0);
		assert_true(world_until(&w, 2000, world_ended(&w, c.id, 1)));
		assert_true(world_ended(&w, c.id, 1)->tampered);
		seal_clear(&a.seal);
		if (i < 2)
			w.n_used++; /* were none: counted for the check above */
	}
	assert_int_equal(w.n_used, 3);
	/* What nobody gave it is nothing. */
	struct engine_channel c;
	one(&c, 1, 100);
	engine_counts(w.side[1], &k);
	uint64_t unknown = k.unknown_frames;
	assert_int_equal(seal_init(&a.seal, &c.receive, 0), 0);
	cheat_send(&a, FRAME_OPEN, c.id, NULL, 0);
	assert_true(world_until(&w, 2000, ({
		engine_counts(w.side[1], &k);
		k.unknown_frames > unknown;
	})));
	seal_clear(&a.seal);
	assert_int_equal(w.n_used, 3);
	assert_int_equal(world_up(&w, 1), 2);
	close(a.fd);
	close(g.fd);
	close(l);
	world_deinit(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_opened_once),
		cmocka_unit_test(test_not_after_the_end),
		cmocka_unit_test(test_it_goes_with_its_connection),
		cmocka_unit_test(test_a_node_that_cheats),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
