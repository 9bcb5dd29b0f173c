/*
 * What the compiler says, word for word: each golden/NAME.yaml must give golden/NAME.expected
 * (nothing: it is good). `test-policy-compile DIR --write` writes what it says now; read the
 * difference before keeping it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "base/fds.h"
#include "policy/compile.h"
#include "policy/policy.h"

static const char *dir;
static bool write_expected;

static int uid_of(const char *user, uint32_t *ret)
{
	*ret = 1000;
	return strcmp(user, "alice") ? -ENOENT : 0;
}

static char *shown(const void *image, size_t len)
{
	struct policy *p = NULL;
	struct error e = ERROR_INIT;
	char *out = NULL;
	size_t out_len = 0;
	if (policy_image_open(image, len, &p, &e) < 0)
		fail_msg("%s", e.text);
	FILE *f = open_memstream(&out, &out_len);
	for (uint32_t i = 0; i <= policy_rules(p); i++) {
		_cleanup_free_ char *text = NULL;
		assert_int_equal(policy_format(p, i ? i - 1 : POLICY_RULE_NONE, &text), 0);
		char *line = strstr(text, " # line ");
		if (line) /* the other text has other lines */
			memmove(line, strchr(line, '\n'), strlen(strchr(line, '\n')) + 1);
		fputs(text, f);
	}
	fclose(f);
	policy_close(p);
	return out;
}

static const struct policy_compile_options options = {.source = "p.yaml", .uid_of = uid_of};

/* What is shown compiles again, to what is shown the same. */
static void check_shown(const void *image, size_t len)
{
	_cleanup_free_ char *once = shown(image, len);
	_cleanup_diagnostics_ struct policy_diagnostics d;
	_cleanup_free_ void *again = NULL;
	size_t again_len = 0;
	if (policy_compile(once, strlen(once), &options, &d, &again, &again_len) < 0)
		fail_msg("shown, but not readable:\n%s%s", once,
			policy_diagnostics_format(&d, "shown", once, strlen(once)));
	_cleanup_free_ char *twice = shown(again, again_len);
	assert_string_equal(once, twice);
}

static void check_one(const char *name)
{
	char in[512], ref[512], source[300];
	_cleanup_free_ char *text = NULL, *expected = NULL, *said = NULL;
	_cleanup_free_ void *image = NULL;
	size_t len = 0, expected_len = 0, image_len = 0;
	_cleanup_diagnostics_ struct policy_diagnostics d;
	snprintf(in, sizeof(in), "%s/%s.yaml", dir, name);
	snprintf(ref, sizeof(ref), "%s/%s.expected", dir, name);
	snprintf(source, sizeof(source), "%s.yaml", name);
	assert_int_equal(fds_read_file(AT_FDCWD, in, 65536, &text, &len), 0);
	int r = policy_compile(text, len, &options, &d, &image, &image_len);
	said = policy_diagnostics_format(&d, source, text, len);
	assert_non_null(said);
	assert_int_equal(r, d.n_errors ? -EINVAL : 0);
	if (r == 0)
		check_shown(image, image_len);
	if (write_expected) {
		FILE *f = fopen(ref, "w");
		assert_non_null(f);
		fputs(said, f);
		fclose(f);
		return;
	}
	assert_int_equal(fds_read_file(AT_FDCWD, ref, 65536, &expected, &expected_len), 0);
	if (strcmp(said, expected))
		fail_msg("%s:\n--- expected\n%s--- said\n%s", name, expected, said);
}

static void test_golden(void **unused _unused_)
{
	struct dirent *e;
	unsigned n = 0;
	DIR *d = opendir(dir);
	assert_non_null(d);
	while ((e = readdir(d))) {
		char name[256];
		size_t len = strlen(e->d_name);
		if (len < 6 || strcmp(e->d_name + len - 5, ".yaml"))
			continue;
		snprintf(name, sizeof(name), "%.*s", (int)(len - 5), e->d_name);
		check_one(name);
		n++;
	}
	closedir(d);
	assert_true(n > 50);
}

/* More errors than are kept: the count goes on, nothing else. */
static void test_many(void **unused _unused_)
{
	_cleanup_diagnostics_ struct policy_diagnostics d;
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ void *image = NULL;
	size_t len = 0, image_len = 0;
	FILE *f = open_memstream(&text, &len);
	fputs("version: 1\nrules:\n", f);
	for (int i = 0; i < 1000; i++)
		fprintf(f, "  - name: r%d\n    allow: nothing\n", i);
	fclose(f);
	assert_int_equal(policy_compile(text, len, &options, &d, &image, &image_len), -EINVAL);
	assert_int_equal(d.n, POLICY_DIAGNOSTICS_MAX);
	assert_int_equal(d.n_errors, 1000);
	assert_null(image);
}

static void test_lists_are_bounded(void **unused _unused_)
{
	_cleanup_diagnostics_ struct policy_diagnostics d;
	_cleanup_free_ char *text = NULL;
	_cleanup_free_ void *image = NULL;
	size_t len = 0, image_len = 0;
	FILE *f = open_memstream(&text, &len);
	fputs("version: 1\nrules:\n  - name: r\n    allow: bind\n    port: [1", f);
	for (int i = 0; i < 5000; i++)
		fprintf(f, ", %d", i);
	fputs("]\n", f);
	fclose(f);
	assert_int_equal(policy_compile(text, len, &options, &d, &image, &image_len), -EINVAL);
	assert_int_equal(d.n_errors, 1);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(test_golden),
		cmocka_unit_test(test_many), cmocka_unit_test(test_lists_are_bounded)};
	dir = argc > 1 ? argv[1] : ".";
	write_expected = argc > 2;
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
