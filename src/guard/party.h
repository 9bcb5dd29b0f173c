/* Subjects as the policy's parties; inside the guard's deciding only. */
#pragma once

#include "guard/guard.h"
#include "policy/policy.h"

/* -E2BIG: it matches more names than can be judged, so it must be refused. */
int party_fill(const struct guard *g, const struct policy *p, const struct subject *s,
	struct policy_party *ret) _must_check_;
int decide_question(struct guard *g, const struct policy *p, const struct endpoint_question *q,
	struct policy_question *ret) _must_check_;
