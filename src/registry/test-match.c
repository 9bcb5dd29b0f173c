/* registry_match(): a table of processes against a table of programs, and the property that names
 * only narrow. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "registry/registry.h"

static char dir[64];
static struct registry *reg;

static void enroll(const char *name, int digest, uint32_t flags, int script, const char *argv0)
{
	struct enrollment n = {.name = name, .size = 100, .flags = flags, .group = ""};
	memset(n.sha256.bytes, digest, DIGEST_LEN);
	memset(n.script_sha256.bytes, script, DIGEST_LEN);
	n.argv0 = &argv0;
	n.n_argv0 = argv0 ? 1 : 0;
	struct error e = ERROR_INIT;
	if (registry_enroll(reg, &n, &e) < 0)
		fail_msg("%s", e.text);
}

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/belay-match-XXXXXX");
	if (!mkdtemp(dir) || registry_open_path(dir, &reg, NULL) < 0)
		return -1;
	enroll("plain", 1, 0, 0, NULL);
	enroll("server", 2, 0, 0, "redis-server");
	enroll("check", 2, 0, 0, "redis-check-rdb");
	enroll("any", 2, 0, 0, NULL);
	enroll("tool", 3, PROGRAM_INTERPRETER, 0x51, NULL);
	enroll("tool2", 3, PROGRAM_INTERPRETER, 0x52, NULL);
	enroll("looks", 4, PROGRAM_NOT_INTERPRETER, 0, NULL);
	enroll("jit", 5, PROGRAM_JIT, 0, NULL);
	enroll("lib", 6, PROGRAM_LIBRARY, 0, NULL);
	enroll("gone", 7, 0, 0, NULL);
	enroll("oldlib", 8, PROGRAM_LIBRARY, 0, NULL);
	for (int i = 0; i < 9; i++) {
		char name[16];
		snprintf(name, sizeof(name), "many-%d", i);
		enroll(name, 9, 0, 0, NULL);
	}
	if (registry_revoke(reg, REVOKED_PROGRAM, "gone", "", NULL) < 0)
		return -1;
	return registry_revoke(reg, REVOKED_PROGRAM, "oldlib", "", NULL);
}

static int teardown(void **state)
{
	(void)state;
	registry_close(reg);
	char cmd[128];
	snprintf(cmd, sizeof(cmd), "rm -r %s", dir);
	return system(cmd);
}

struct process {
	const char *what;
	int digest, script, foreign;
	uint64_t size;
	const char *argv0;
	bool interpreter, anonymous;
	const char *expect; /* names joined by spaces */
	const char *why;    /* part of the reason when nothing matches */
};

static const struct process processes[] = {
	{"plain", 1, .expect = "plain"},
	{"unknown", 99, .expect = "", .why = "no program is enrolled with this SHA-256"},
	{"unreadable", 0, .expect = "", .why = "could not be read"},
	{"size differs", 1, .size = 101, .expect = "", .why = "size"},
	{"multi-call, one", 2, .argv0 = "redis-server", .expect = "any server"},
	{"multi-call, other", 2, .argv0 = "redis-check-rdb", .expect = "any check"},
	{"multi-call, neither", 2, .argv0 = "x", .expect = "any"},
	{"interpreter alone", 3, .interpreter = true, .expect = "", .why = "not started by one"},
	{"interpreter, script", 3, .interpreter = true, .script = 0x51, .expect = "tool"},
	{"interpreter, other script", 3, .interpreter = true, .script = 0x52, .expect = "tool2"},
	{"interpreter, unknown script", 3, .interpreter = true, .script = 0x53, .expect = "",
		.why = "not the one enrolled"},
	{"enrolled as interpreter, not recognised", 3, .expect = "", .why = "not started by one"},
	{"program that attest takes for an interpreter", 1, .interpreter = true, .expect = "",
		.why = "identifies nothing alone"},
	{"the same with a script", 1, .interpreter = true, .script = 0x51, .expect = "",
		.why = "identifies nothing alone"},
	{"override", 4, .interpreter = true, .expect = "looks"},
	{"jit", 5, .anonymous = true, .expect = "jit"},
	{"no jit", 1, .anonymous = true, .expect = "", .why = "executable memory"},
	{"library as program", 6, .expect = "", .why = "library"},
	{"foreign, enrolled", 1, .foreign = 6, .expect = "plain"},
	{"foreign, unknown", 1, .foreign = 98, .expect = "",
		.why = "maps /tmp/x.so, which is neither enrolled nor in a library directory"},
	{"foreign, a program but no library", 1, .foreign = 2, .expect = "", .why = "/tmp/x.so"},
	{"foreign, a revoked library", 1, .foreign = 8, .expect = "", .why = "/tmp/x.so"},
	{"foreign, unreadable", 1, .foreign = -1, .expect = "", .why = "/tmp/x.so"},
	{"revoked", 7, .expect = "", .why = "revoked"},
	{"too many names", 9, .expect = "", .why = "more than 8"},
};

static void make(const struct process *p, struct evidence *e)
{
	memset(e, 0, sizeof(*e));
	memset(e->exe_sha256.bytes, p->digest, DIGEST_LEN);
	memset(e->script_sha256.bytes, p->script, DIGEST_LEN);
	e->exe_size = p->size ? p->size : 100;
	snprintf(e->name, sizeof(e->name), "%s", p->argv0 ? p->argv0 : "argv0");
	e->interpreter = p->interpreter;
	e->anonymous_exec = p->anonymous;
	if (p->foreign) {
		/* One good mapping must not hide a bad one behind it. */
		memset(e->foreign[0].sha256.bytes, 6, DIGEST_LEN);
		strcpy(e->foreign[0].path, "/opt/lib.so");
		memset(e->foreign[1].sha256.bytes, p->foreign < 0 ? 0 : p->foreign, DIGEST_LEN);
		strcpy(e->foreign[1].path, "/tmp/x.so");
		e->n_foreign = 2;
	}
}

static void names_of(const struct match *m, char *ret, size_t size)
{
	ret[0] = '\0';
	for (size_t i = 0; i < m->n; i++) {
		size_t n = strlen(ret);
		snprintf(ret + n, size - n, "%s%s", i ? " " : "", m->program[i]->name);
	}
}

static void test_table(void **state)
{
	(void)state;
	static struct evidence e;
	for (size_t i = 0; i < ARRAY_LEN(processes); i++) {
		const struct process *p = &processes[i];
		struct match m;
		char got[512];
		make(p, &e);
		registry_match(reg, &e, &m);
		names_of(&m, got, sizeof(got));
		print_message("# %s: %s%s\n", p->what, got, m.why);
		assert_string_equal(got, p->expect);
		assert_int_equal(m.n == 0, m.why[0] != '\0');
		if (p->why)
			assert_non_null(strstr(m.why, p->why));
		assert_int_equal(m.revoked, p->digest == 7);
	}
}

/*
 * For any evidence, a name may only take programs away: what matches under any argv[0] is part of
 * what would match if no permitted names were enrolled; and with the digest changed nothing of it
 * remains.
 */
static void test_names_only_narrow(void **state)
{
	(void)state;
	static const char *const argv0[] = {
		"redis-server", "redis-check-rdb", "plain", "server", "", "x"};
	static struct evidence e;
	srand(1);
	for (int i = 0; i < 20000; i++) {
		struct process p = {.digest = rand() % 11,
			.script = rand() % 3 ? 0 : 0x50 + rand() % 4,
			.foreign = rand() % 3 ? 0 : rand() % 10 - 1,
			.interpreter = rand() % 2,
			.anonymous = rand() % 4 == 0,
			.size = 100 + (rand() % 8 == 0),
			.argv0 = argv0[(size_t)rand() % ARRAY_LEN(argv0)]};
		struct match m;
		make(&p, &e);
		registry_match(reg, &e, &m);
		for (size_t k = 0; k < m.n; k++) {
			const struct program *q = m.program[k];
			bool permitted = q->n_argv0 == 0;
			for (size_t j = 0; j < q->n_argv0; j++)
				permitted = permitted || strcmp(q->argv0[j], e.name) == 0;
			assert_true(permitted);
			assert_true(digest_equal(&q->sha256, &e.exe_sha256));
			assert_true(q->size == e.exe_size);
			assert_false(q->revoked || (q->flags & PROGRAM_LIBRARY));
			assert_true(digest_is_none(&q->script_sha256) ||
				    digest_equal(&q->script_sha256, &e.script_sha256));
			assert_true(!digest_is_none(&q->script_sha256) || !e.interpreter ||
				    (q->flags & PROGRAM_NOT_INTERPRETER));
			assert_true(!e.anonymous_exec || (q->flags & PROGRAM_JIT));
		}
		e.exe_sha256.bytes[i % DIGEST_LEN] ^= (uint8_t)(1 << i % 8);
		registry_match(reg, &e, &m);
		assert_int_equal(m.n, 0);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_table),
		cmocka_unit_test(test_names_only_narrow),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
