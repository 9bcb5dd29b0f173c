/*
 * Cases: what a policy's owner says it decides, as YAML (docs/policy.md, Trying a policy out). Read
 * by the command line only. Input: a person's text, bounded and checked as a policy's is.
 */
#pragma once

#include "policy/compile.h"
#include "policy/policy.h"

#define POLICY_CASES_MAX 100000u

struct policy_case {
	struct policy_ask ask; /* its strings belong to the case */
	const char *name;      /* "" when it has none */
	const char *rule;      /* must decide; NULL: any */
	int64_t local_s;       /* when has_time: as the clocks of the policy's zone show it */
	bool has_time, allow, permissive, encrypt;
	uint32_t line;
};

struct policy_cases {
	struct policy_case *list;
	uint32_t n, room;
};

/* 0, or -EINVAL with errors in d, or -ENOMEM. Cases end with policy_cases_deinit() either way. */
int policy_cases_read(const char *text, size_t len, const struct policy_compile_options *options,
	struct policy_diagnostics *d, struct policy_cases *ret) _must_check_;
void policy_cases_deinit(struct policy_cases *c);
#define _cleanup_cases_ _cleanup_(policy_cases_deinit)
/* "2026-12-24T18:00" or with ":30" to seconds, counted as if UTC. -EINVAL. */
int policy_time_read(const char *text, int64_t *ret);
