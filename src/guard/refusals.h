/* What was refused lately, for `belay why`. A bounded ring: the audit log has the whole history. */
#pragma once

#include "guard/guard.h"

#define REFUSALS_MAX 256

struct refusal {
	uint64_t when_ms; /* wall clock */
	uint32_t pid, uid;
	char text[320], rule[NAME_MAX_LEN], advice[512];
	char from[NAME_MAX_LEN], to[NAME_MAX_LEN], address[ADDR_TEXT_MAX];
};

int refusals_init(struct guard *g) _must_check_;
void refusals_deinit(struct guard *g);
void refusals_add(struct guard *g, const struct refusal *r);
/* Newest first: the i-th that matches pid (0: any) and address (NULL or empty: any), the one asked
 * for or the visitor's, with or without port; NULL at the end. */
const struct refusal *refusals_get(struct guard *g, size_t *i, uint32_t pid, const char *address);
