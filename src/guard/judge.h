/* Judging again what is open, after the policy or the registry changed. */
#pragma once

#include "guard/guard.h"

/* Everything open is held against the facts of now; what no longer holds ends, with that reason. */
void judge_all(struct guard *g, const char *reason);
/*
 * The program behind a listener, or behind one end of a channel, is another principal than it was:
 * its own right to it, or the end for that reason.
 */
void judge_binder(struct guard *g, struct bind *b, struct subject *now, uint32_t pid, uint64_t tree,
	const char *reason);
void judge_holder(struct guard *g, struct channel *c, bool accepting, struct subject *now,
	uint64_t tree, const char *reason);
/* *s (may be NULL) becomes what it is by the facts of now. Subjects of other nodes stay. */
void judge_subject(struct guard *g, struct subject **s);
