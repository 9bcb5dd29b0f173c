/*
 * Sealing and opening frames of one direction of one channel: key, epoch and counter. Whoever holds
 * a struct seal uses every counter once; it is entered once and erased, never restored.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/secret.h"
#include "crypto/aead.h"
#include "wire/frame.h"

struct seal {
	struct aead *aead;
	struct secret traffic;
	uint8_t iv[AEAD_NONCE_LEN];
	uint16_t epoch;
	uint64_t counter; /* of the direction: goes on over epochs, so that an epoch's lost tail is
			     seen */
	uint64_t frames, bytes, since_ms; /* of this epoch */
};

struct seal_limits {
	uint64_t bytes, frames, ms;
};

int seal_init(struct seal *s, const struct secret *traffic, uint64_t now_ms) _must_check_;
void seal_clear(struct seal *s);
/*
 * frame has room for header, len bytes of body (in place already) and the tag. Steps the epoch when
 * a limit is reached. Return: length of the whole frame, -EOVERFLOW when no epoch is left.
 */
int seal_frame(struct seal *s, const struct seal_limits *l, uint64_t now_ms, enum frame_type type,
	const uint8_t channel[FRAME_CHANNEL_LEN], uint8_t *frame, uint32_t len) _must_check_;
/*
 * Opens a whole frame in place. -EBADMSG: altered, replayed, out of order, of another channel or
 * direction, or not this or the next epoch. The state is then of no further use.
 */
int seal_open(struct seal *s, const struct frame_header *h, uint8_t *frame) _must_check_;
