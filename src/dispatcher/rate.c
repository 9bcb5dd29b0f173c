/* Tokens a uid (rate.h). Input: uids the kernel vouches for. A scan of 256 entries a connection. */
#include "dispatcher/rate.h"

bool rate_take(struct rate *r, uint32_t uid, uint64_t now_ms)
{
	size_t at = 0;
	bool found = false;
	for (size_t i = 0; i < RATE_UIDS && !found; i++) {
		if (r->bucket[i].ms && r->bucket[i].uid == uid) {
			at = i;
			found = true;
		} else if (r->bucket[i].ms < r->bucket[at].ms) {
			at = i;
		}
	}
	if (!found) {
		r->bucket[at].uid = uid;
		r->bucket[at].tokens = RATE_BURST * 1000u;
	} else {
		uint64_t more = (now_ms - r->bucket[at].ms) * RATE_PER_SECOND;
		uint64_t sum = r->bucket[at].tokens +
			       (more > RATE_BURST * 1000u ? RATE_BURST * 1000u : more);
		r->bucket[at].tokens =
			sum > RATE_BURST * 1000u ? RATE_BURST * 1000u : (uint32_t)sum;
	}
	r->bucket[at].ms = now_ms;
	if (r->bucket[at].tokens < 1000)
		return false;
	r->bucket[at].tokens -= 1000;
	return true;
}
