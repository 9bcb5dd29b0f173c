/* Channels of datagrams between two engines: bounds, loss instead of waiting, strangers, rules. */
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "conn/internal.h"
#include "conn/test-world.h"

#define FLOOD 20000
#define FLOOD_LEN 1000

static int udp_new(struct sockaddr_in *name)
{
	socklen_t len = sizeof(*name);
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	*name = (struct sockaddr_in){.sin_family = AF_INET};
	name->sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(bind(fd, (struct sockaddr *)name, sizeof(*name)), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)name, &len), 0);
	return fd;
}

/* [0] the program's, [1] the engine's, to which a stranger has written before it was connected. */
static void udp_pair(int fds[2])
{
	struct sockaddr_in a, b, stranger;
	fds[0] = udp_new(&a);
	fds[1] = udp_new(&b);
	_cleanup_close_ int s = udp_new(&stranger);
	assert_int_equal(sendto(s, "forged", 6, 0, (struct sockaddr *)&b, sizeof(b)), 6);
	assert_int_equal(connect(fds[0], (struct sockaddr *)&b, sizeof(b)), 0);
	assert_int_equal(connect(fds[1], (struct sockaddr *)&a, sizeof(a)), 0);
}

static void open_side(struct world *w, struct world_channel *c, int i, bool datagram)
{
	struct engine_channel in = {.node = i ? "alpha" : "beta",
		.initiator = !i,
		.datagram = datagram,
		.idle_ms = 60000};
	int pair[2];
	if (datagram)
		udp_pair(pair);
	else
		world_tcp_pair(pair);
	memcpy(in.id, c->id, sizeof(in.id));
	memset(in.send.bytes, i + 1, SECRET_LEN);
	memset(in.receive.bytes, 2 - i, SECRET_LEN);
	int fds[2] = {pair[1], -1};
	c->program[i] = pair[0];
	assert_int_equal(engine_channel_add(w->side[i], &in, fds), 0);
}

static void open_channel(struct world *w, struct world_channel *c, uint8_t n)
{
	memset(c->id, n, sizeof(c->id));
	open_side(w, c, 1, true);
	open_side(w, c, 0, true);
}

static ssize_t receive(struct world *w, int fd, void *buf, size_t len)
{
	ssize_t n = -1;
	(void)world_until(w, 2000, (n = recv(fd, buf, len, MSG_DONTWAIT)) >= 0);
	return n;
}

static void test_bounds_are_kept(void **state)
{
	(void)state;
	static const size_t sizes[] = {0, 1, 1400, 65507, 0, 3};
	static uint8_t out[65536], in[65536];
	struct world w;
	struct world_channel c;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	open_channel(&w, &c, 2);
	memset(out, 'x', sizeof(out));
	for (int from = 0; from < 2; from++)
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
			out[0] = (uint8_t)i;
			assert_int_equal(send(c.program[from], out, sizes[i], 0), sizes[i]);
			assert_int_equal(receive(&w, c.program[!from], in, sizeof(in)), sizes[i]);
			assert_memory_equal(in, out, sizes[i]);
		}
	/* Several at once stay several. */
	for (int i = 0; i < 10; i++)
		assert_int_equal(send(c.program[0], out, 10, 0), 10);
	for (int i = 0; i < 10; i++)
		assert_int_equal(receive(&w, c.program[1], in, sizeof(in)), 10);
	assert_int_equal(recv(c.program[0], in, sizeof(in), MSG_DONTWAIT), -1);
	engine_end(w.side[0], c.id, "ended");
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 1) != NULL));
	assert_int_equal(world_ended(&w, c.id, 0)->received, world_ended(&w, c.id, 1)->sent);
	world_channel_close(&c);
	world_deinit(&w);
}

/* The far program reads nothing; the near one never waits, a stream beside it goes on. */
static void test_a_flood_is_dropped(void **state)
{
	(void)state;
	static uint8_t out[FLOOD_LEN], in[65536];
	struct world w;
	struct world_channel c, stream;
	struct engine_counts counts;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	open_channel(&w, &c, 2);
	world_channel_open(&w, &stream, 2, true, 0);
	size_t sent = 0, got = 0;
	for (int i = 0; i < FLOOD; i++) {
		sent += send(c.program[0], out, sizeof(out), MSG_DONTWAIT) > 0;
		if (i % 100 == 0)
			uv_run(&w.loop, UV_RUN_NOWAIT);
		if (i % 5000 == 0)
			world_carry(&w, &stream, 1u << 20);
	}
	assert_int_equal(sent, FLOOD);
	for (int side = 0; side < 2; side++) {
		engine_counts(w.side[side], &counts);
		assert_int_equal(counts.pending, 0);
	}
	while (receive(&w, c.program[1], in, sizeof(in)) == FLOOD_LEN && got < FLOOD)
		got++;
	assert_true(got > 0 && got < FLOOD);
	/* And afterwards the channel is as it was. */
	assert_int_equal(send(c.program[1], "back", 4, 0), 4);
	assert_int_equal(receive(&w, c.program[0], in, sizeof(in)), 4);
	world_channel_close(&stream);
	world_channel_close(&c);
	world_deinit(&w);
}

/* A node that sends datagrams in a channel that is a stream here, or the other way round. */
static void test_kinds_do_not_mix(void **state)
{
	(void)state;
	for (int datagram = 0; datagram < 2; datagram++) {
		struct world w;
		struct world_channel c;
		world_init(&w, NULL, false);
		world_link(&w, 1);
		memset(c.id, 2, sizeof(c.id));
		open_side(&w, &c, 1, datagram);
		open_side(&w, &c, 0, !datagram);
		assert_int_equal(send(c.program[0], "x", 1, 0), 1);
		assert_true(world_until(&w, 2000, world_ended(&w, c.id, 1) != NULL));
		assert_true(world_ended(&w, c.id, 1)->tampered);
		world_channel_close(&c);
		world_deinit(&w);
	}
}

/* Its program's socket is gone: both sides end. */
static void test_a_gone_socket_ends_the_channel(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	open_channel(&w, &c, 2);
	assert_true(world_until(&w, 200, false) == false);
	close(take_fd(&c.program[1]));
	for (int i = 0; i < 3 && !world_ended(&w, c.id, 0); i++) {
		(void)!send(c.program[0], "x", 1, MSG_NOSIGNAL);
		(void)world_until(&w, 300, world_ended(&w, c.id, 0) != NULL);
	}
	assert_non_null(world_ended(&w, c.id, 0));
	assert_non_null(world_ended(&w, c.id, 1));
	assert_false(world_ended(&w, c.id, 0)->tampered);
	world_channel_close(&c);
	world_deinit(&w);
}

static void test_plain(void **state)
{
	(void)state;
	struct world w;
	struct sockaddr_in outside_name, from;
	socklen_t from_len = sizeof(from);
	uint8_t buf[64];
	int pair[2];
	world_init(&w, NULL, false);
	_cleanup_close_ int outside = udp_new(&outside_name);
	udp_pair(pair);
	_cleanup_close_ int program = pair[0];
	struct addr to;
	assert_int_equal(addr_from_sockaddr(&outside_name, sizeof(outside_name), &to), 0);
	struct engine_relay in = {.to = &to, .datagram = true, .idle_ms = 100};
	int fds[2] = {pair[1], -1};
	assert_int_equal(engine_relay_add(w.side[0], &in, fds), 0);
	assert_int_equal(send(program, "ask", 3, 0), 3);
	assert_int_equal(receive(&w, outside, buf, sizeof(buf)), 3);
	assert_memory_equal(buf, "ask", 3);
	assert_int_equal(send(program, "", 0, 0), 0);
	ssize_t n = -1;
	(void)world_until(&w, 2000,
		(n = recvfrom(outside, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from,
			 &from_len)) >= 0);
	assert_int_equal(n, 0);
	/* Nobody but the one who was asked is heard. */
	struct sockaddr_in other_name;
	_cleanup_close_ int other = udp_new(&other_name);
	assert_int_equal(sendto(other, "forged", 6, 0, (struct sockaddr *)&from, sizeof(from)), 6);
	assert_int_equal(
		sendto(outside, "answer", 6, 0, (struct sockaddr *)&from, sizeof(from)), 6);
	assert_int_equal(receive(&w, program, buf, sizeof(buf)), 6);
	assert_memory_equal(buf, "answer", 6);
	assert_true(world_until(&w, 2000, world_ended(&w, in.id, 0) != NULL));
	assert_string_equal(world_ended(&w, in.id, 0)->reason, "idle");
	assert_int_equal(recv(program, buf, sizeof(buf), MSG_DONTWAIT), -1);
	world_deinit(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bounds_are_kept),
		cmocka_unit_test(test_a_flood_is_dropped),
		cmocka_unit_test(test_kinds_do_not_mix),
		cmocka_unit_test(test_a_gone_socket_ends_the_channel),
		cmocka_unit_test(test_plain),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
