/* What the files of `belay policy` share: a policy file, read and compiled. */
#pragma once

#include "policy/compile.h"
#include "policy/policy.h"

struct policy_file {
	const char *name; /* as given */
	char *text;
	size_t len;
	void *image; /* NULL: it has errors */
	size_t image_len;
	struct policy_diagnostics diagnostics;
};

/* EXIT_OK also when it has errors; the exit status after saying why it could not be read at all. */
int policy_read(const char *file, struct policy_file *ret);
void policy_file_deinit(struct policy_file *f);
#define _cleanup_policy_file_ _cleanup_(policy_file_deinit)
void policy_print_diagnostics(const struct policy_file *f);

/* Reads, shows what is wrong or odd, and opens: the way the guard will. The exit status. */
int policy_open(const struct policy_file *f, struct policy **ret);
int policy_read_open(const char *file, struct policy_file *f, struct policy **ret);

/* "2026-12-24T18:00" in the policy's time zone; NULL: now. -EINVAL. */
int policy_time_parse(const struct policy *p, const char *text, int64_t *ret);

/* policy-explain.c, policy-test.c, policy-diff.c, policy-learn.c */
int policy_explain_main(int argc, char **argv);
int policy_test_main(int argc, char **argv);
int policy_diff_main(int argc, char **argv);
int policy_learn_main(int argc, char **argv);
