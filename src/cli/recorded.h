/* Decisions the audit log recorded, as questions that can be asked again. */
#pragma once

#include <stdbool.h>

#include "policy/policy.h"

struct recorded {
	struct policy_ask ask; /* strings are good during the call only */
	bool allowed, permissive;
};

/*
 * Calls fn for each decision in the log of `dir` (NULL: of the instance that answers); a value of
 * fn other than 0 ends it. The exit status, after saying what is wrong.
 */
int recorded_each(const char *dir, int (*fn)(const struct recorded *r, void *data), void *data);
