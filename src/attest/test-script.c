/*
 * Scripts: which count as what started a process, and every way to seem to be one. What needs root
 * (files others cannot write) is skipped without it.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "attest/test-children.h"

static struct asked *ask_script(const char *path)
{
	char *const argv[] = {(char *)path, NULL};
	pid_t pid = start_stopped(path, argv, NULL);
	struct asked *a = ask(pid, true);
	assert_int_equal(a->error, 0);
	assert_true(a->e.interpreter);
	struct digest at_exec = a->e.script_sha256;
	go(pid);
	a = ask(pid, false);
	assert_memory_equal(&a->e.script_sha256, &at_exec, sizeof(at_exec));
	end(pid);
	return a;
}

static void test_scripts(void **state)
{
	(void)state;
	char path[160], link[160];
	snprintf(path, sizeof(path), "%s/script", dir);
	write_file(path, "#!/bin/sh\nkill -STOP $$\n", 0755);
	/* In /tmp somebody else can put another file in its place: it does not count, whoever owns
	 * it. */
	assert_true(digest_is_none(&ask_script(path)->e.script_sha256));
	if (geteuid() != 0) {
		print_message("# not root: scripts that count are not tried\n");
		return;
	}
	snprintf(path, sizeof(path), "/usr/lib/belay-test-%d", getpid());
	write_file(path, "#!/bin/sh\nkill -STOP $$\n", 0755);
	struct asked *a = ask_script(path);
	assert_is_file(&a->e.script_sha256, path);
	assert_string_equal(a->e.script_path, path);
	/* Reached over a link that others could turn elsewhere, before the interpreter opens it. */
	snprintf(link, sizeof(link), "%s/link", dir);
	assert_int_equal(symlink(path, link), 0);
	assert_true(digest_is_none(&ask_script(link)->e.script_sha256));
	/* Writable by others. */
	chmod(path, 0757);
	assert_true(digest_is_none(&ask_script(path)->e.script_sha256));
	chmod(path, 0755);
	assert_int_equal(chown(path, 12345, 12345), 0);
	assert_true(digest_is_none(&ask_script(path)->e.script_sha256));
	unlink(path);
	/* Named to the interpreter instead of started. */
	char *const argv[] = {(char *)"sh", (char *)"/usr/bin/ldd", NULL};
	pid_t pid = start_stopped("/bin/sh", argv, NULL);
	a = ask(pid, true);
	assert_true(a->e.interpreter && digest_is_none(&a->e.script_sha256));
	end(pid);
}

/* ---- over env ---- */

static char script[96];

static bool place(const char *text)
{
	if (geteuid() != 0) {
		print_message("# not root: scripts that count are not tried\n");
		return false;
	}
	snprintf(script, sizeof(script), "/usr/lib/belay-test-%d", getpid());
	write_file(script, text, 0755);
	return true;
}

/* Lets it run on to its next exec, where it stands again. */
static void next_exec(pid_t pid)
{
	int status;
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status) && status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8)));
}

/* The script of what `argv` comes to after two execs, env's and that of what it found. */
static struct digest over_env(const char *file, char *const argv[], const char *preload)
{
	pid_t pid = start_stopped(file, argv, preload);
	struct asked *a = ask(pid, true);
	assert_int_equal(a->error, 0);
	assert_true(a->e.interpreter);
	next_exec(pid);
	a = ask(pid, true);
	assert_int_equal(a->error, 0);
	assert_true(a->e.interpreter && !a->e.starting);
	struct digest d = a->e.script_sha256;
	go(pid);
	a = ask(pid, false);
	assert_memory_equal(&a->e.script_sha256, &d, sizeof(d));
	end(pid);
	return d;
}

static void test_over_env(void **state)
{
	(void)state;
	if (!place("#!/usr/bin/env sh\nkill -STOP $$\n"))
		return;
	char *argv[] = {script, (char *)"argument", NULL};
	pid_t pid = start_stopped(script, argv, NULL);
	assert_true(ask(pid, true)->e.starting);
	end(pid);
	struct digest d = over_env(script, argv, NULL);
	assert_is_file(&d, script);
	/* A path with dots: where the kernel goes, the walk goes. */
	char dots[160];
	snprintf(dots, sizeof(dots), "/usr/bin/../lib/./%s", script + strlen("/usr/lib/"));
	d = over_env(dots, argv, NULL);
	assert_is_file(&d, script);
	unlink(script); /* attest holds a lease on it, and would have to run */
	write_file(script, "#!/usr/bin/env -S sh -e\nkill -STOP $$\n", 0755);
	d = over_env(script, argv, NULL);
	assert_is_file(&d, script);
	unlink(script);
}

static void test_env_by_hand(void **state)
{
	(void)state;
	if (!place("#!/usr/bin/env sh\nkill -STOP $$\n"))
		return;
	/* The very arguments, but nobody executed the script. */
	char *const argv[] = {(char *)"/usr/bin/env", (char *)"sh", script, NULL};
	struct digest d = over_env("/usr/bin/env", argv, NULL);
	assert_true(digest_is_none(&d));
	/* The interpreter's own exec looks just as after env. */
	char *const direct[] = {(char *)"sh", script, NULL};
	pid_t pid = start_stopped("/bin/sh", direct, NULL);
	assert_true(digest_is_none(&ask(pid, true)->e.script_sha256));
	end(pid);
	unlink(script);
}

static void test_env_told_more(void **state)
{
	(void)state;
	if (!place("#!/usr/bin/env -S BASH_ENV=/tmp/x sh\nkill -STOP $$\n"))
		return;
	char *const argv[] = {script, NULL};
	struct digest d = over_env(script, argv, NULL);
	assert_true(digest_is_none(&d));
	/* Options of its own are not understood either. */
	unlink(script); /* attest holds a lease on it, and would have to run */
	write_file(script, "#!/usr/bin/env -iS sh\nkill -STOP $$\n", 0755);
	d = over_env(script, argv, NULL);
	assert_true(digest_is_none(&d));
	unlink(script);
}

/* A library in env's process executes something else than env would. */
static void test_env_with_a_foreign_library(void **state)
{
	(void)state;
	static const char *const bodies[] = {
		"execl(\"/bin/sh\", \"sh\", \"-c\", \"kill -STOP $$\", path, (char *)0);",
		"execl(\"/bin/sh\", \"sh\", \"-s\", path, (char *)0);",
		"execl(\"/bin/sh\", \"sh\", \"/usr/bin/ldd\", path, (char *)0);",
		"chdir(\"/tmp\"); execl(\"/bin/sh\", \"sh\", strrchr(path, 47) + 1, (char *)0);"};
	char lib[128], source[160];
	if (!place("#!/usr/bin/env sh\nkill -STOP $$\n"))
		return;
	snprintf(lib, sizeof(lib), "%s/instead.so", dir);
	snprintf(source, sizeof(source), "%s/instead.c", dir);
	for (size_t i = 0; i < ARRAY_LEN(bodies); i++) {
		char text[1024];
		snprintf(text, sizeof(text),
			"#define _GNU_SOURCE\n#include <string.h>\n#include <unistd.h>\n#include "
			"<stdlib.h>\n"
			"__attribute__((constructor)) static void f(int n, char **v) {\n"
			"char *path = v[n - 1]; unsetenv(\"LD_PRELOAD\"); (void)path;\n%s }\n",
			bodies[i]);
		write_file(source, text, 0644);
		shell("cc -w -shared -fPIC -o %s %s", lib, source);
		char *const argv[] = {script, NULL};
		struct digest d = over_env(script, argv, lib);
		assert_true(digest_is_none(&d));
	}
	unlink(script);
}

static void test_script_changed_between(void **state)
{
	(void)state;
	if (!place("#!/usr/bin/env sh\nkill -STOP $$\n"))
		return;
	char *const argv[] = {script, NULL};
	pid_t pid = start_stopped(script, argv, NULL);
	assert_true(ask(pid, true)->e.starting);
	unlink(script); /* attest holds a lease on it, and would have to run */
	write_file(script, "#!/usr/bin/env sh\n# other\nkill -STOP $$\n", 0755);
	next_exec(pid);
	struct asked *a = ask(pid, true);
	assert_int_equal(a->error, 0);
	assert_true(digest_is_none(&a->e.script_sha256) && !a->e.script_path[0]);
	end(pid);
	unlink(script);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_scripts),
		cmocka_unit_test(test_over_env),
		cmocka_unit_test(test_env_by_hand),
		cmocka_unit_test(test_env_told_more),
		cmocka_unit_test(test_env_with_a_foreign_library),
		cmocka_unit_test(test_script_changed_between),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
