/*
 * Two engines in one process, joined over loopback, directly or through a thread that forwards
 * bytes and can alter, stop or cut them; and programs' sockets. For the tests and the bench of the
 * data path.
 */
#pragma once

#include <pthread.h>
#include <stdatomic.h>

#include "conn/engine.h"

#define WORLD_ENDS 64

struct world_end {
	uint8_t id[FRAME_CHANNEL_LEN];
	char reason[96];
	bool tampered;
	uint64_t sent, received;
	int side;
};

struct world_proxy {
	pthread_t thread;
	int listener, to_port, port;
	atomic_long flip_at; /* offset in the dialer's bytes of a connection where one bit is
				turned, -1: none */
	atomic_bool quit, cut;
	atomic_long flipped;
};

struct world {
	uv_loop_t loop;
	uv_timer_t beat;
	uv_poll_t accept;
	int listener, port;
	struct engine *side[2]; /* 0 dials, 1 accepts */
	struct world_end ends[WORLD_ENDS];
	size_t n_ends, n_down, n_used; /* n_used: channels in advance that were opened */
	struct addr used_from;
	struct world_proxy *proxy;
	uint8_t secret[SECRET_LEN];
};

struct world_channel {
	uint8_t id[FRAME_CHANNEL_LEN];
	int program[2]; /* what the programs hold */
};

/* through_proxy: the data connections go through world->proxy. Aborts on failure: it is a test. */
void world_init(struct world *w, const struct engine_limits *limits, bool through_proxy);
void world_deinit(struct world *w);
void world_join(struct world *w, uint8_t secret);
/* tcp: sockets with TCP's semantics, else socketpairs. number[0] % 2 chooses the data connection.
 */
void world_channel_open(
	struct world *w, struct world_channel *c, uint32_t number, bool tcp, uint64_t idle_ms);
void world_channel_close(struct world_channel *c);
void world_tcp_pair(int fds[2]);
const struct world_end *world_ended(const struct world *w, const uint8_t *id, int side);

size_t world_up(struct world *w, int side);
/* Joins both and waits until every data connection stands. */
void world_link(struct world *w, uint8_t secret);
/* So many bytes both ways, every one checked. */
void world_carry(struct world *w, struct world_channel *c, uint64_t total);

/* Turns the loop until the condition holds or the time is over; says which. */
#define world_until(w, ms, condition)                                     \
	({                                                                \
		uint64_t until_ = clock_mono_ms() + (ms);                 \
		bool met_;                                                \
		while (!(met_ = (condition)) && clock_mono_ms() < until_) \
			uv_run(&(w)->loop, UV_RUN_ONCE);                  \
		met_;                                                     \
	})
