/*
 * A bucket of tokens a uid: who connects faster than it refills is turned away, others are not. A
 * fixed table; the bucket longest unused makes room, and starts full, so a uid among hundreds of
 * active ones may get more, never less. Pure: the time is the caller's.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define RATE_UIDS 256
#define RATE_BURST 2048u
#define RATE_PER_SECOND 1024u

struct rate {
	struct {
		uint32_t uid;
		uint32_t tokens; /* in thousandths */
		uint64_t ms;     /* when last counted; 0: free */
	} bucket[RATE_UIDS];
};

/* True when uid may have one more at now_ms (monotonic, not 0). */
bool rate_take(struct rate *r, uint32_t uid, uint64_t now_ms);
