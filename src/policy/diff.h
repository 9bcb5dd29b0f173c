/*
 * What changes from one policy to another: questions made from what both say are put to both.
 *
 * Only rules that one has and the other has not, word for word, can make a difference (all of them,
 * when groups, roles or labels changed). Directed first: such a rule's own values and their
 * neighbours, two dimensions at a time, because verdicts change at the edges of what rules name.
 * Then random ones around them, mixed with what other rules name, to catch what the edges of single
 * rules do not show. A class of changes is what decided before
 * and what decides now; each is reported once, with its first question. What is never asked is not
 * seen: no difference found is strong evidence, not a proof. This node has no
 * name in words: a rule that names it is asked about as another node's.
 */
#pragma once

#include "policy/policy.h"

struct policy_change {
	struct policy_ask ask; /* an example; its strings are the diff's */
	struct policy_verdict before, after;
	uint64_t n; /* questions of this class that were asked */
};

struct policy_diff {
	const struct policy *a, *b;
	struct policy_change *changes; /* in the order they were found */
	uint32_t n, room;
	uint64_t asked, differed;
};

/* random: how many questions besides the directed ones. -ENOMEM. */
int policy_diff(const struct policy *a, const struct policy *b, uint64_t random,
	struct policy_diff *ret) _must_check_;
/* One more question, say from a log; counted and classed like the others. */
int policy_diff_ask(struct policy_diff *d, const struct policy_ask *ask) _must_check_;
void policy_diff_deinit(struct policy_diff *d);
#define _cleanup_policy_diff_ _cleanup_(policy_diff_deinit)
