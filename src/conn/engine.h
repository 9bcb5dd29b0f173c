/*
 * The data path of `conn` (docs/protocol.md, 3 to 5): the channel key table, the data connections
 * to other nodes, and the relay between programs' sockets and them. Knows nothing of arrows: conn.c
 * and the tests drive it; one loop, one thread.
 *
 * Trust: a program's bytes are opaque; a data connection's bytes are anybody's until a frame opens;
 * orders come from the guard. An entry of the key table is written once and erased at its end.
 *
 * Cost of the data path, a message of up to 32 KiB that arrives alone: here one epoll_wait of libuv
 * and one or two of ours, recv, one seal in place, send; there the same epoll_waits, recv, one open
 * in place, send. All that is ready at one wake-up shares the epoll_waits and, for each data
 * connection, one recv and one send: with 50 busy channels two system calls a message and side
 * remain. No allocation, no copy of ours, unless a program's socket is full. Bulk is read in 64 KiB
 * records after everything small.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/addr.h"
#include "base/secret.h"
#include "wire/frame.h"
#include "wire/preamble.h"

#define ENGINE_CHANNELS_MAX 65536
#define ENGINE_PEERS_MAX 256
#define ENGINE_CARRIERS 2    /* data connections of one pair of nodes */
#define ENGINE_PROOFS_MAX 64 /* data connections under way that have proven nothing yet */
#define ENGINE_PENDING_MAX \
	(256u << 20) /* plaintext that waits for stalled programs, all together */

struct engine;

/* What a channel came to. `reason` is a constant or lives until the call returns. */
struct engine_result {
	const char *reason;
	uint64_t bytes_sent, bytes_received;
	bool tampered;
	bool complete; /* both ended, and all was delivered here */
	bool leased;   /* it was opened from a reserve (reserve.h) */
};
struct engine_ops {
	void (*closed)(
		void *data, const uint8_t id[FRAME_CHANNEL_LEN], const struct engine_result *r);
	/* The other node has opened a channel in advance (reserve.h); closed() comes for it later.
	 */
	void (*used)(void *data, const uint8_t id[FRAME_CHANNEL_LEN], const struct addr *local);
	/* What engine_relay_wait() was for. */
	void (*opened)(void *data, const uint8_t id[FRAME_CHANNEL_LEN], uint64_t ask, int error);
	/* A data connection that was up is lost; its channels were closed before. */
	void (*data_down)(void *data, const char *node, const char *why, bool tampered);
};

/* Tests make them tiny. */
struct engine_limits {
	uint32_t window; /* credit a direction starts with, bytes of plaintext */
	uint64_t rekey_bytes, rekey_frames, rekey_ms;
	uint64_t open_ms;  /* a channel without data connection or OPEN */
	uint64_t proof_ms; /* preamble */
};
extern const struct engine_limits engine_limits_default;

int engine_new(uv_loop_t *loop, const struct engine_ops *ops, void *data,
	const struct engine_limits *limits, struct engine **ret) _must_check_;
struct engine *engine_free(struct engine *e); /* resets everything, reports nothing */

struct engine_peer {
	const char *node, *self;
	const uint8_t *secret; /* SECRET_LEN */
	bool we_dial;
	struct addr data;
};
/*
 * New channels of this node use this secret's data connections from now on; those of an earlier one
 * serve their channels until the last has ended.
 */
int engine_peer_set(struct engine *e, const struct engine_peer *p) _must_check_;
/* The node is gone for good: its channels end. */
void engine_peer_drop(struct engine *e, const char *node, const char *why);
/* An accepted data connection. Takes fd. */
void engine_accept(struct engine *e, int fd);

struct engine_channel {
	uint8_t id[FRAME_CHANNEL_LEN];
	const char *node; /* NULL or empty: both ends are here, fds[1] is the accepting side */
	struct secret send, receive;
	bool initiator, datagram;
	uint64_t idle_ms;
};
/* Enters a channel, once: -EEXIST. Takes the descriptors by setting them to -1, also when it fails.
 */
int engine_channel_add(struct engine *e, const struct engine_channel *c, int fds[2]) _must_check_;
struct engine_relay {
	uint8_t id[FRAME_CHANNEL_LEN];
	const struct addr *to;
	bool datagram;
	uint64_t idle_ms;
};
/* Plain relay. fds[1] < 0: dials `to`. Takes the descriptors. */
int engine_relay_add(struct engine *e, const struct engine_relay *in, int fds[2]) _must_check_;
/*
 * Right after engine_relay_add(): true when it still dials; then opened() tells `ask` (not 0) how
 * that ended, or 0 after wait_ms.
 */
bool engine_relay_wait(
	struct engine *e, const uint8_t id[FRAME_CHANNEL_LEN], uint64_t ask, uint32_t wait_ms);
/* Ends channel or relay at both sides. closed() is called for it before this returns. */
void engine_end(struct engine *e, const uint8_t id[FRAME_CHANNEL_LEN], const char *reason);

struct engine_flow {
	const uint8_t *id;
	uint64_t bytes_sent, bytes_received, idle_ms;
};
void engine_flows(struct engine *e, void (*fn)(void *ctx, const struct engine_flow *f), void *ctx);

struct engine_counts {
	size_t channels, carriers_up, proofs, peers;
	uint64_t pending, unknown_frames, rekeys;
};
void engine_counts(const struct engine *e, struct engine_counts *ret);
