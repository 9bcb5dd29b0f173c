/* The data path between two engines: what programs see, what a stall, a forger or a cut does, what
 * it costs. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"
#include "conn/seal.h"
#include "crypto/hkdf.h"
#include "crypto/hmac.h"
#include "test-cheat.h"
#include "test-world.h"

static void test_bulk_and_half_close(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	world_channel_open(&w, &c, 1, true, 0);
	world_carry(&w, &c, 24u << 20);
	/* One side ends; the other may still speak, then ends too. */
	char buf[16];
	assert_int_equal(shutdown(c.program[0], SHUT_WR), 0);
	assert_true(world_until(&w, 2000, recv(c.program[1], buf, sizeof(buf), MSG_DONTWAIT) == 0));
	assert_int_equal(send(c.program[1], "late", 4, MSG_NOSIGNAL), 4);
	assert_true(world_until(&w, 2000, recv(c.program[0], buf, sizeof(buf), MSG_DONTWAIT) == 4));
	close(take_fd(&c.program[1]));
	assert_true(world_until(&w, 2000, recv(c.program[0], buf, sizeof(buf), MSG_DONTWAIT) == 0));
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 0) && world_ended(&w, c.id, 1)));
	for (int i = 0; i < 2; i++) {
		assert_string_equal(world_ended(&w, c.id, i)->reason, "closed");
		assert_int_equal(world_ended(&w, c.id, i)->sent, (24u << 20) + (i ? 4 : 0));
	}
	world_channel_close(&c);
	world_deinit(&w);
}

static void test_reset(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	world_channel_open(&w, &c, 1, true, 0);
	world_carry(&w, &c, 1000);
	struct linger l = {.l_onoff = 1};
	setsockopt(c.program[0], SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(take_fd(&c.program[0]));
	char b;
	assert_true(world_until(
		&w, 2000, recv(c.program[1], &b, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET));
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 0) && world_ended(&w, c.id, 1)));
	assert_false(world_ended(&w, c.id, 1)->tampered);
	world_channel_close(&c);

	world_channel_open(&w, &c, 2, true, 0); /* and when the guard ends it */
	world_carry(&w, &c, 1000);
	engine_end(w.side[1], c.id, "revoked");
	assert_string_equal(world_ended(&w, c.id, 1)->reason, "revoked");
	for (int i = 0; i < 2; i++)
		assert_true(world_until(&w, 2000,
			recv(c.program[i], &b, 1, MSG_DONTWAIT) < 0 && errno == ECONNRESET));
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 0)));
	world_channel_close(&c);
	world_deinit(&w);
}

/* A reader that never reads: its channel fills its window and no more; its neighbour on the same
 * connection goes on. */
static void test_stall(void **state)
{
	(void)state;
	struct world w;
	struct world_channel stalled, busy;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	world_channel_open(&w, &stalled, 2, true, 0);
	world_channel_open(&w, &busy, 4, true, 0);
	static uint8_t junk[65536];
	uint64_t sent = 0, quiet = clock_mono_ms();
	while (clock_mono_ms() - quiet < 300) {
		ssize_t n =
			send(stalled.program[0], junk, sizeof(junk), MSG_DONTWAIT | MSG_NOSIGNAL);
		if (n > 0) {
			sent += (uint64_t)n;
			quiet = clock_mono_ms();
		}
		uv_run(&w.loop, UV_RUN_ONCE);
	}
	struct engine_counts c;
	engine_counts(w.side[1], &c);
	assert_in_range(c.pending, 1, engine_limits_default.window);
	engine_counts(w.side[0], &c);
	assert_int_equal(c.pending, 0);
	world_carry(&w, &busy, 8u << 20);
	/* It wakes up again: everything arrives. */
	uint64_t got = 0;
	assert_true(world_until(&w, 10000, ({
		ssize_t n;
		while ((n = recv(stalled.program[1], junk, sizeof(junk), MSG_DONTWAIT)) > 0)
			got += (uint64_t)n;
		got == sent;
	})));
	engine_counts(w.side[1], &c);
	assert_int_equal(c.pending, 0);
	world_channel_close(&stalled);
	world_channel_close(&busy);
	world_deinit(&w);
}

static void test_rekey(void **state)
{
	(void)state;
	struct engine_limits l = engine_limits_default;
	l.rekey_frames = 5;
	l.rekey_bytes = 100000;
	l.window = 65536;
	struct world w;
	struct world_channel c;
	world_init(&w, &l, false);
	world_link(&w, 1);
	world_channel_open(&w, &c, 1, true, 0);
	world_carry(&w, &c, 4u << 20);
	engine_end(w.side[0], c.id, "enough");
	struct engine_counts n;
	engine_counts(w.side[0], &n);
	assert_in_range(n.rekeys, 40, 60000);
	world_channel_close(&c);
	world_deinit(&w);
}

static void test_tamper(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c[2];
	world_init(&w, NULL, true);
	world_link(&w, 1);
	/* Both on one data connection. */
	world_channel_open(&w, &c[0], 2, true, 0);
	world_channel_open(&w, &c[1], 4, true, 0);
	world_carry(&w, &c[0], 1000);
	world_carry(&w, &c[1], 1000);
	/* The next frame of this connection: turn a bit in its body. What went before: preamble,
	 * OPENs, data. */
	long before = 8 + 9 + 32 + 32 + 2 * FRAME_OVERHEAD + 2 * (1000 + FRAME_OVERHEAD);
	w.proxy->flip_at = before + FRAME_HEADER_LEN + 3;
	assert_int_equal(send(c[0].program[0], "untouched?", 10, MSG_NOSIGNAL), 10);
	assert_true(
		world_until(&w, 2000, world_ended(&w, c[0].id, 0) && world_ended(&w, c[0].id, 1)));
	assert_int_equal(w.proxy->flipped, 1);
	assert_true(world_ended(&w, c[0].id, 1)->tampered);
	char b[16];
	for (int i = 0; i < 2; i++)
		assert_true(recv(c[0].program[i], b, sizeof(b), MSG_DONTWAIT) < 0 &&
			    errno == ECONNRESET);
	assert_null(world_ended(&w, c[1].id, 1));
	world_carry(&w, &c[1], 100000);
	assert_int_equal(w.n_down, 0);
	world_channel_close(&c[0]);
	world_channel_close(&c[1]);
	world_deinit(&w);
}

/* The framing itself is hit: the data connection ends, comes back, and new channels work. */
static void test_framing_and_cut(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c;
	char b[16];
	world_init(&w, NULL, true);
	world_link(&w, 1);
	world_channel_open(&w, &c, 2, true, 0);
	w.proxy->flip_at = 8 + 9 + 32 + 32 + FRAME_OVERHEAD + 1; /* flags of the first DATA */
	assert_int_equal(send(c.program[0], "hello", 5, MSG_NOSIGNAL), 5);
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 0) && world_ended(&w, c.id, 1)));
	assert_true(recv(c.program[1], b, sizeof(b), MSG_DONTWAIT) < 0 && errno == ECONNRESET);
	world_channel_close(&c);
	assert_true(world_until(&w, 3000, world_up(&w, 0) == 2 && world_up(&w, 1) == 2));
	world_channel_open(&w, &c, 6, true, 0);
	world_carry(&w, &c, 100000);
	w.proxy->cut = true;
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 0) && world_ended(&w, c.id, 1)));
	assert_true(recv(c.program[0], b, sizeof(b), MSG_DONTWAIT) < 0 && errno == ECONNRESET);
	world_channel_close(&c);
	assert_true(world_until(&w, 3000, world_up(&w, 0) == 2 && world_up(&w, 1) == 2));
	world_channel_open(&w, &c, 8, true, 0);
	world_carry(&w, &c, 100000);
	world_channel_close(&c);
	world_deinit(&w);
}

/* ---- a node that holds the secret and keeps no other rule ---- */

struct step {
	enum frame_type type;
	uint32_t len;
};
static const struct {
	const char *what, *reason;
	struct step step[24];
} cheats[] = {
	{"data before opening", "used before", {{FRAME_DATA, 10}}},
	{"fin before opening", "used before", {{FRAME_FIN, 0}}},
	{"opened twice", "opened twice", {{FRAME_OPEN, 0}, {FRAME_OPEN, 0}}},
	{"data after the end", "data after", {{FRAME_OPEN, 0}, {FRAME_FIN, 0}, {FRAME_DATA, 1}}},
	{"two ends", "ended twice", {{FRAME_OPEN, 0}, {FRAME_FIN, 0}, {FRAME_FIN, 0}}},
	{"credit out of nothing", "more credit", {{FRAME_OPEN, 0}, {FRAME_WINDOW, 4}}},
	{"more than credit", "more data", {{FRAME_OPEN, 0}, {FRAME_DATA, 40001}}},
};

static void test_cheater(void **state)
{
	(void)state;
	struct engine_limits l = engine_limits_default;
	l.window = 40000;
	struct world w;
	world_init(&w, &l, false);
	memset(w.secret, 3, sizeof(w.secret));
	struct engine_peer p = {.node = "alpha", .self = "beta", .secret = w.secret};
	assert_int_equal(engine_peer_set(w.side[1], &p), 0);
	struct cheat c = {0}, replay = {0};
	cheat_prove(&w, &c, 0, "alpha");
	assert_true(world_until(&w, 2000, world_up(&w, 1) == 1));
	for (size_t i = 0; i < ARRAY_LEN(cheats); i++) {
		struct engine_channel in = {.node = "alpha"};
		int program[2];
		memset(in.id, 2 * (int)i, sizeof(in.id)); /* even: data connection 0 */
		memset(in.receive.bytes, 50 + (int)i, SECRET_LEN);
		world_tcp_pair(program);
		int fds[2] = {program[1], -1};
		assert_int_equal(engine_channel_add(w.side[1], &in, fds), 0);
		assert_int_equal(seal_init(&c.seal, &in.receive, 0), 0);
		static const uint8_t junk[65536] = {0xff, 0xff, 0xff, 0xff};
		for (const struct step *s = cheats[i].step; s->type; s++)
			cheat_send(&c, s->type, in.id, junk, s->len);
		if (!world_until(&w, 2000, world_ended(&w, in.id, 1)))
			fail_msg("%s: not noticed", cheats[i].what);
		assert_true(world_ended(&w, in.id, 1)->tampered);
		assert_non_null(strstr(world_ended(&w, in.id, 1)->reason, cheats[i].reason));
		seal_clear(&c.seal);
		close(program[0]);
	}
	assert_int_equal(world_up(&w, 1), 1); /* its other channels would live on */
	/* Both of a recording's messages again: the acceptor's nonce is another, so the proof is
	 * none. */
	cheat_dial(&w, &replay);
	assert_int_equal(send(replay.fd, c.said, c.len, MSG_NOSIGNAL), c.len);
	uint8_t back[PREAMBLE_REPLY_LEN + 1];
	size_t got = 0;
	assert_true(world_until(&w, 2000, ({
		ssize_t r = recv(replay.fd, back, sizeof(back), MSG_DONTWAIT);
		got += r > 0 ? (size_t)r : 0;
		r == 0 || (r < 0 && errno == ECONNRESET);
	})));
	assert_in_range(got, 0, PREAMBLE_REPLY_LEN);
	assert_int_equal(world_up(&w, 1), 1);
	close(replay.fd);
	close(c.fd);
	world_deinit(&w);
}

static void test_entered_once(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	world_channel_open(&w, &c, 1, true, 0);
	world_carry(&w, &c, 100);
	for (int i = 0; i < 2; i++) {
		int fds[2], none[2];
		world_tcp_pair(fds);
		none[0] = fds[1];
		none[1] = -1;
		struct engine_channel again = {.node = i ? "alpha" : "beta", .initiator = !i};
		memcpy(again.id, c.id, sizeof(c.id));
		assert_int_equal(engine_channel_add(w.side[i], &again, none), -EEXIST);
		assert_int_equal(none[0], -1);
		close(fds[0]);
	}
	struct engine_channel other = {.node = "nobody"};
	int fds[2] = {-1, -1};
	assert_int_equal(engine_channel_add(w.side[0], &other, fds), -EHOSTUNREACH);
	world_carry(&w, &c, 100); /* unharmed */
	world_channel_close(&c);
	world_deinit(&w);
}

static void test_strangers(void **state)
{
	(void)state;
	struct engine_limits l = engine_limits_default;
	l.proof_ms = 300;
	struct world w;
	world_init(&w, &l, false);
	/* Another secret: never up. */
	world_join(&w, 1);
	uint8_t wrong[SECRET_LEN] = {9};
	struct engine_peer b = {.node = "alpha", .self = "beta", .secret = wrong};
	assert_int_equal(engine_peer_set(w.side[1], &b), 0);
	assert_false(world_until(&w, 400, world_up(&w, 0) || world_up(&w, 1)));
	/* Silent strangers: bounded, and gone after their time; then the right one still gets in.
	 */
	int fds[ENGINE_PROOFS_MAX + 8];
	for (size_t i = 0; i < ARRAY_LEN(fds); i++) {
		int pair[2];
		world_tcp_pair(pair);
		fds[i] = pair[0];
		engine_accept(w.side[1], pair[1]);
	}
	struct engine_counts c;
	engine_counts(w.side[1], &c);
	assert_in_range(c.proofs, 1, ENGINE_PROOFS_MAX);
	assert_int_equal(send(fds[3], "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), 18);
	assert_true(world_until(&w, 2000, (engine_counts(w.side[1], &c), c.proofs == 0)));
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		close(fds[i]);
	world_link(&w, 2);
	world_deinit(&w);
}

/* A new link: channels of the old secret live on, new ones use the new one, then the old
 * connections go. */
static void test_new_secret(void **state)
{
	(void)state;
	struct world w;
	struct world_channel old, new;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	world_channel_open(&w, &old, 2, true, 0);
	world_carry(&w, &old, 1000);
	world_join(&w, 2);
	assert_true(world_until(&w, 2000, world_up(&w, 0) == 4 && world_up(&w, 1) == 4));
	world_channel_open(&w, &new, 4, true, 0);
	world_carry(&w, &new, 100000);
	world_carry(&w, &old, 100000);
	world_channel_close(&old);
	assert_true(world_until(&w, 2000, world_up(&w, 0) == 2 && world_up(&w, 1) == 2));
	world_carry(&w, &new, 1000);
	engine_peer_drop(w.side[0], "beta", "node removed");
	assert_string_equal(world_ended(&w, new.id, 0)->reason, "node removed");
	assert_true(world_until(&w, 2000, world_ended(&w, new.id, 1) != NULL));
	assert_string_equal(world_ended(&w, new.id, 1)->reason, "ended by the other node");
	world_channel_close(&new);
	world_deinit(&w);
}

static void test_local_and_relay(void **state)
{
	(void)state;
	struct world w;
	world_init(&w, NULL, false);
	struct engine_channel in = {.initiator = true, .idle_ms = 0};
	memset(in.id, 3, sizeof(in.id));
	memset(in.send.bytes, 1, SECRET_LEN);
	memset(in.receive.bytes, 2, SECRET_LEN);
	int a[2], b[2];
	world_tcp_pair(a);
	world_tcp_pair(b);
	int fds[2] = {a[1], b[1]};
	assert_int_equal(engine_channel_add(w.side[0], &in, fds), 0);
	struct world_channel c = {.program = {a[0], b[0]}};
	memcpy(c.id, in.id, sizeof(c.id));
	world_carry(&w, &c, 8u << 20);
	world_channel_close(&c);
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 0) != NULL));
	assert_string_equal(world_ended(&w, c.id, 0)->reason, "closed");
	assert_int_equal(world_ended(&w, c.id, 0)->sent, 8u << 20);
	assert_int_equal(w.n_ends, 1);

	memset(c.id, 4, sizeof(c.id));
	world_tcp_pair(a);
	world_tcp_pair(b);
	int relay[2] = {a[1], b[1]};
	struct engine_relay plain = {0};
	memcpy(plain.id, c.id, sizeof(plain.id));
	assert_int_equal(engine_relay_add(w.side[0], &plain, relay), 0);
	c.program[0] = a[0];
	c.program[1] = b[0];
	world_carry(&w, &c, 8u << 20);
	world_channel_close(&c);
	assert_true(world_until(&w, 2000, world_ended(&w, c.id, 0) != NULL));

	memset(c.id, 5, sizeof(c.id)); /* a destination that refuses */
	world_tcp_pair(a);
	struct addr nobody = {.ip_len = 4, .ip = {127, 0, 0, 1}, .port = 1};
	int dial[2] = {a[1], -1};
	plain.to = &nobody;
	memcpy(plain.id, c.id, sizeof(plain.id));
	int r = engine_relay_add(w.side[0], &plain, dial);
	assert_true(r == -ECONNREFUSED ||
		    (r == 0 && world_until(&w, 2000, world_ended(&w, c.id, 0) != NULL)));
	close(a[0]);
	world_deinit(&w);
}

static void test_idle(void **state)
{
	(void)state;
	struct world w;
	struct world_channel c;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	world_channel_open(&w, &c, 1, true, 200);
	world_carry(&w, &c, 1000);
	assert_false(world_until(&w, 100, w.n_ends > 0));
	assert_true(world_until(&w, 1000, world_ended(&w, c.id, 0) && world_ended(&w, c.id, 1)));
	assert_true(strstr(world_ended(&w, c.id, 0)->reason, "idle") != NULL);
	world_channel_close(&c);
	world_deinit(&w);
}

static size_t rss_kib(void)
{
	size_t total = 0, resident = 0;
	FILE *f = fopen("/proc/self/statm", "re");
	assert_non_null(f);
	assert_int_equal(fscanf(f, "%zu %zu", &total, &resident), 2);
	fclose(f);
	return resident * 4;
}

static void test_many(void **state)
{
	(void)state;
	struct rlimit l;
	getrlimit(RLIMIT_NOFILE, &l);
	l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
	size_t n = l.rlim_cur > 41000 ? 10000 : (size_t)l.rlim_cur / 4 - 100;
	struct world w;
	world_init(&w, NULL, false);
	world_link(&w, 1);
	struct world_channel *c = calloc(n, sizeof(*c)), first;
	world_channel_open(&w, &first, 1, false, 0);
	world_carry(&w, &first, 1u << 20);
	size_t before = rss_kib();
	for (size_t i = 0; i < n; i++) {
		world_channel_open(&w, &c[i], (uint32_t)i + 2, false, 0);
		if (i % 100 == 0)
			uv_run(&w.loop, UV_RUN_NOWAIT);
	}
	for (size_t i = 0; i < n; i += 97)
		world_carry(&w, &c[i], 3000);
	size_t per = (rss_kib() - before) * 1024 / n / 2;
	print_message("%zu channels: %zu bytes of a conn's memory each\n", n, per);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
	assert_in_range(per, 0, 6 * 1024);
#endif
	world_carry(&w, &first, 1u << 20);
	for (size_t i = 0; i < n; i++)
		world_channel_close(&c[i]);
	assert_true(world_until(&w, 5000, ({
		struct engine_counts k[2];
		engine_counts(w.side[0], &k[0]);
		engine_counts(w.side[1], &k[1]);
		k[0].channels == 1 && k[1].channels == 1;
	})));
	world_channel_close(&first);
	free(c);
	world_deinit(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_bulk_and_half_close),
		cmocka_unit_test(test_reset),
		cmocka_unit_test(test_stall),
		cmocka_unit_test(test_rekey),
		cmocka_unit_test(test_tamper),
		cmocka_unit_test(test_framing_and_cut),
		cmocka_unit_test(test_cheater),
		cmocka_unit_test(test_entered_once),
		cmocka_unit_test(test_strangers),
		cmocka_unit_test(test_new_secret),
		cmocka_unit_test(test_local_and_relay),
		cmocka_unit_test(test_idle),
		cmocka_unit_test(test_many),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
