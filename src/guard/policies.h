/* The policy in force: policies.c has the essay. */
#pragma once

#include "guard/guard.h"
#include "policy/policy.h"

/* Opens what a predecessor persisted; a broken file is reported and nothing is in force. */
int policies_init(struct guard *g) _must_check_;
void policies_deinit(struct guard *g);
/*
 * The image in the sealed memfd becomes the policy: checked, persisted, swapped, audited, then
 * everything open is judged anew. On failure the old one stays in force and e says why.
 */
int policies_load(
	struct guard *g, int memfd, const char *source, uint32_t uid, struct error *e) _must_check_;
/* NULL: none is loaded. Valid until the next load. */
const struct policy *policies_current(const struct guard *g);
uint64_t policies_loaded_ms(const struct guard *g); /* wall clock */
/* "NAME (sha256 …)"; empty if none is loaded. */
void policies_describe(const struct guard *g, char *text, size_t len);
