/*
 * Policy text to image. Linked by the command line only: the guard never reads YAML.
 *
 * The text is a person's, trusted for nothing: size, depth, scalars, lists and rules are bounded;
 * aliases, anchors, tags and duplicates are refused. All errors are found in one go, each with its
 * place. Cost: one pass over the text holding one rule's tree at a time; about 200 bytes a rule
 * besides.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define POLICY_TEXT_MAX (256u * 1024 * 1024)
#define POLICY_DIAGNOSTICS_MAX 100u /* errors kept; the rest are counted */

struct policy_diagnostic {
	bool warning;
	uint32_t line, column, length; /* from 1; length of what the caret underlines, in bytes */
	char text[256];
	char hint[256]; /* what to do about it, or "" */
};

struct policy_diagnostics {
	struct policy_diagnostic *list; /* in the order of the text once the compiler returns */
	size_t n;
	size_t n_errors, n_warnings; /* found, also those not kept */
};

struct policy_compile_options {
	const char *source; /* what errors and verdicts call the text */
	/* 0, or -ENOENT. NULL: the host's user database. */
	int (*uid_of)(const char *user, uint32_t *ret);
};

/* 0 and a malloc'ed image, or -EINVAL with errors in d (also set on success: warnings), or -ENOMEM.
 */
int policy_compile(const char *text, size_t len, const struct policy_compile_options *options,
	struct policy_diagnostics *d, void **ret, size_t *ret_len) _must_check_;

/* "FILE:LINE:COL: error: text", the line, a caret, a hint; for each. Malloc'ed, NULL when out of
 * memory. */
char *policy_diagnostics_format(
	const struct policy_diagnostics *d, const char *source, const char *text, size_t len);
void policy_diagnostics_deinit(struct policy_diagnostics *d);
#define _cleanup_diagnostics_ _cleanup_(policy_diagnostics_deinit)
