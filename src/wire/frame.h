/*
 * Frames of a data connection between two nodes (docs/protocol.md, 5): header codec and the
 * incremental reading of frames from a receive buffer. Pure: no I/O, no keys, no state but the
 * caller's cursor.
 *
 * The input is another node's bytes, or an attacker's on the network: a header says only how many
 * bytes to collect and whose key to try. The caller authenticates header and body before it acts on
 * either.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define FRAME_HEADER_LEN 24u
#define FRAME_TAG_LEN 16u
#define FRAME_OVERHEAD (FRAME_HEADER_LEN + FRAME_TAG_LEN)
#define FRAME_DATA_MAX 65536u
#define FRAME_MAX (FRAME_OVERHEAD + FRAME_DATA_MAX)
#define FRAME_CHANNEL_LEN 16u
#define FRAME_DATAGRAM_MAX 65527u /* what UDP carries over IPv6; over IPv4 20 less */

enum frame_type {
	FRAME_NONE,
	FRAME_OPEN,     /* initiator's first frame: the entry is there; body empty */
	FRAME_DATA,     /* 1…FRAME_DATA_MAX bytes */
	FRAME_WINDOW,   /* 4 bytes: credit in bytes */
	FRAME_FIN,      /* this direction is complete; body empty */
	FRAME_RESET,    /* 1 byte: enum frame_reset */
	FRAME_DATAGRAM, /* 0…FRAME_DATAGRAM_MAX bytes: one datagram, whole */
	_FRAME_N
};

enum frame_reset {
	FRAME_RESET_NONE,
	FRAME_RESET_PROGRAM, /* the program's socket was reset */
	FRAME_RESET_ENDED,   /* the guard ended it: policy, revocation, node removed */
	FRAME_RESET_IDLE,
	FRAME_RESET_TAMPERED, /* a frame did not open, or broke the rules */
	FRAME_RESET_LIMIT,    /* memory or counters */
	_FRAME_RESET_N
};

struct frame_header {
	enum frame_type type;
	uint16_t epoch;
	uint32_t length; /* of the sealed body, tag included */
	uint8_t channel[FRAME_CHANNEL_LEN];
};

void frame_header_encode(const struct frame_header *h, uint8_t out[FRAME_HEADER_LEN]);
/* -EBADMSG unless type, flags and length are ones this version sends. */
int frame_header_decode(const uint8_t in[FRAME_HEADER_LEN], struct frame_header *ret) _must_check_;

/* Reads frames from buf[0, len). `at` starts at 0; what lies behind it afterwards is the start of
 * the next frame. */
struct frame_cursor {
	uint8_t *buf;
	size_t len, at;
};

/*
 * 1: *ret is set and *ret_frame points to the whole frame, header first, in the buffer. 0: more
 * bytes are needed. -EBADMSG: this is not our framing; the connection is of no further use.
 */
int frame_next(struct frame_cursor *c, struct frame_header *ret, uint8_t **ret_frame) _must_check_;

void frame_credit_encode(uint32_t credit, uint8_t out[4]);
uint32_t frame_credit_decode(const uint8_t in[4]);
const char *frame_reset_name(uint8_t reason);
