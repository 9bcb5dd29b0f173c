/* How long to wait before a component that ended is started again. Pure. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#define BACKOFF_STEP_MS 50u
#define BACKOFF_MAX_MS 5000u
#define BACKOFF_HEALTHY_MS 10000u  /* who lived this long starts afresh */
#define BACKOFF_KILLED_MS 100u     /* who lived this long and was killed was well */
#define BACKOFF_KILLED_MAX_MS 200u /* who is killed again and again is not waited for longer */

struct backoff {
	unsigned failures; /* in a row */
};

/*
 * The process ended after lived_ms; killed: by SIGKILL, which is not its own doing (unless it comes
 * so soon that the cause may be). Return: milliseconds to wait; 0 the first time.
 */
static inline uint32_t backoff_next(struct backoff *b, uint64_t lived_ms, bool killed)
{
	if (killed && lived_ms >= BACKOFF_KILLED_MS) {
		b->failures = 0;
		return 0;
	}
	if (lived_ms >= BACKOFF_HEALTHY_MS)
		b->failures = 0;
	unsigned n = b->failures;
	if (b->failures < 16)
		b->failures++;
	if (n == 0)
		return 0;
	uint32_t wait = BACKOFF_STEP_MS << (n - 1);
	uint32_t most = killed ? BACKOFF_KILLED_MAX_MS : BACKOFF_MAX_MS;
	return wait > most ? most : wait;
}
