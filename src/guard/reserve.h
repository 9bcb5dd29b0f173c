/*
 * The reserve of a lease: channels both nodes have keys for and nobody has opened yet. Each leaves
 * it once. Pure.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "crypto/channel_keys.h"

#define RESERVE_MAX 192  /* of one lease: what is left, and two batches on their way */
#define RESERVE_BATCH 64 /* agreed on in one message: one descriptor each */

struct reserve {
	size_t at, n; /* a ring: the oldest, how many */
	uint8_t id[RESERVE_MAX][CHANNEL_ID_LEN];
};

/* False: it is full, or has it already. */
bool reserve_add(struct reserve *r, const uint8_t id[CHANNEL_ID_LEN]) _must_check_;
/* The oldest leaves it. False: there is none. */
bool reserve_pop(struct reserve *r, uint8_t ret[CHANNEL_ID_LEN]) _must_check_;
/* That one leaves it. False: it is not there, or not any more. */
bool reserve_take(struct reserve *r, const uint8_t id[CHANNEL_ID_LEN]) _must_check_;
