/*
 * The semantics as a table: the situations of docs/policy.md (their text is read from there) with
 * questions and answers, and the corner cases the page promises.
 */
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <cmocka.h>

#include "base/fds.h"
#include "policy/compile.h"
#include "policy/policy.h"

static const char *page;

static int uid_of(const char *user, uint32_t *ret)
{
	*ret = strcmp(user, "alice") ? 33 : 1000;
	return 0;
}

struct loaded {
	void *image;
	struct policy *p;
};

static struct loaded open_text(const char *text)
{
	struct policy_compile_options o = {.source = "p.yaml", .uid_of = uid_of};
	struct policy_diagnostics d;
	struct loaded l = {0};
	struct error e = ERROR_INIT;
	size_t len = 0;
	if (policy_compile(text, strlen(text), &o, &d, &l.image, &len) < 0)
		fail_msg("%s", policy_diagnostics_format(&d, "p.yaml", text, strlen(text)));
	policy_diagnostics_deinit(&d);
	if (policy_image_open(l.image, len, &l.p, &e) < 0)
		fail_msg("%s", e.text);
	return l;
}

static void unload(struct loaded *l)
{
	policy_close(l->p);
	free(l->image);
}

/* The n-th YAML block of the page, 0 being the example of the whole language. */
static struct loaded open_block(int n)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	assert_int_equal(fds_read_file(AT_FDCWD, page, 65536, &text, &len), 0);
	char *at = text;
	for (int i = 0; i <= n; i++) {
		at = strstr(at, "```yaml\n");
		assert_non_null(at);
		at += 8;
	}
	char *end = strstr(at, "```");
	assert_non_null(end);
	*end = '\0';
	return open_text(at);
}

struct row {
	enum policy_op op;
	const char *from, *to, *address;
	uint32_t uid;
	const char *group, *unit;
	const char *at; /* UTC */
	bool plain;
	const char *rule; /* allowed by it; "!NAME" refused by it; "!" refused by nothing; "+"
			     allowed without */
};

static void ask_all(int block, const struct row *rows, size_t n)
{
	struct loaded l = open_block(block);
	for (size_t i = 0; i < n; i++) {
		const struct row *r = &rows[i];
		struct policy_ask a = {.op = r->op,
			.from = r->from,
			.to = r->to,
			.address = r->address,
			.uid = r->uid,
			.user = r->uid == 1000 ? "alice" : NULL,
			.group = r->group,
			.unit = r->unit,
			.plain = r->plain};
		struct tm tm = {0};
		if (r->at) {
			assert_non_null(strptime(r->at, "%Y-%m-%dT%H:%M", &tm));
			a.now_s = timegm(&tm);
		}
		struct policy_explanation x;
		struct error e = ERROR_INIT;
		char address[ADDR_TEXT_MAX];
		bool no = r->rule[0] == '!';
		if (policy_ask(l.p, &a, &x, address, &e) < 0)
			fail_msg("block %d row %zu: %s", block, i, e.text);
		if (x.verdict.allow == no ||
			strcmp(x.verdict.rule_name, r->rule + (no || *r->rule == '+')))
			fail_msg("block %d row %zu: %s (%s)", block, i, x.text, x.advice);
		assert_true(x.verdict.allow || x.advice[0]);
	}
	unload(&l);
}

#define RUN POLICY_OP_RUN
#define CONNECT POLICY_OP_CONNECT
#define BIND POLICY_OP_BIND
#define PUBLISH POLICY_OP_PUBLISH
#define ACCEPT POLICY_OP_ACCEPT

static void test_cache(void **unused _unused_)
{
	static const struct row rows[] = {
		{BIND, "cache", .address = "0.0.0.0:6379", .rule = "cache-listens"},
		{BIND, "shell", .address = "0.0.0.0:6379", .rule = "!"},
		{BIND, "cache", .address = "0.0.0.0:6380", .rule = "!"},
		{CONNECT, "shell", "cache", "127.0.0.1:6379", .rule = "clients-to-cache"},
		{CONNECT, "bench", "cache", .rule = "clients-to-cache"},
		{CONNECT, "shell", NULL, "127.0.0.1:6379", .rule = "clients-to-cache"},
		{CONNECT, "shell", NULL, "127.0.0.1:22", .rule = "!"},
		{CONNECT, "python3", "cache", "127.0.0.1:6379", .rule = "!"},
		{CONNECT, "", "cache", "127.0.0.1:6379", .rule = "!"},
		{CONNECT, "shell", "shell", "127.0.0.1:6379", .rule = "!"},
		{CONNECT, "alpha/shell", "cache", "127.0.0.1:6379", .rule = "!"},
		{CONNECT, "shell", NULL, "127.0.0.1:6379", .plain = true, .rule = "!"},
		{PUBLISH, "cache", .address = "0.0.0.0:6379", .rule = "!"},
		{RUN, "", .rule = "+"},
	};
	ask_all(2, rows, ARRAY_LEN(rows));
}

static void test_nodes(void **unused _unused_)
{
	static const struct row rows[] = {
		{CONNECT, "alpha/shell", "beta/cache", "192.0.2.7:6379", 1000,
			.rule = "alpha-shell"},
		{CONNECT, "alpha/shell", "beta/cache", "192.0.2.7:6379", 5, .rule = "!"},
		{CONNECT, "gamma/shell", "beta/cache", "192.0.2.7:6379", 1000, .rule = "!"},
		{CONNECT, "shell", "beta/cache", "192.0.2.7:6379", 1000, .rule = "!"},
		{CONNECT, "shell", "cache", "127.0.0.1:6379", 5, .rule = "local-shell"},
	};
	ask_all(3, rows, ARRAY_LEN(rows));
}

static void test_web(void **unused _unused_)
{
	static const char pg[] = "/run/postgresql/.s.PGSQL.5432";
	static const struct row rows[] = {
		{BIND, "nginx", .address = "[::]:443", .rule = "web"},
		{PUBLISH, "nginx", .address = "0.0.0.0:80", .rule = "web"},
		{PUBLISH, "nginx", .address = "0.0.0.0:8080", .rule = "!"},
		{CONNECT, "nginx", NULL, pg, 33, .rule = "web-to-database"},
		{CONNECT, "nginx", NULL, pg, 0, .rule = "!"},
		{CONNECT, "nginx", NULL, "/run/postgresql/.s.PGSQL.5433", 33, .rule = "!"},
		{BIND, "postgres", .address = "127.0.0.1:5432", .rule = "!database-stays-in"},
	};
	ask_all(4, rows, ARRAY_LEN(rows));
}

static void test_plain(void **unused _unused_)
{
	static const struct row rows[] = {
		{CONNECT, "curl", NULL, "192.0.2.9:443", .plain = true, .rule = "updates"},
		{CONNECT, "curl", NULL, "[2001:db8::1]:443", .plain = true, .rule = "updates"},
		{CONNECT, "curl", NULL, "192.0.2.9:80", .plain = true, .rule = "!"},
		{CONNECT, "wget", NULL, "192.0.2.9:443", .plain = true, .rule = "!"},
		{CONNECT, "curl", "cache", "192.0.2.9:443", .rule = "!"},
		{CONNECT, "curl", NULL, "169.254.169.254:80", .plain = true,
			.rule = "!never-metadata"},
		{CONNECT, "curl", "x", "169.254.169.254:80", .rule = "!never-metadata"},
	};
	ask_all(5, rows, ARRAY_LEN(rows));
}

static void test_strict(void **unused _unused_)
{
	static const struct row rows[] = {
		{RUN, "", .rule = "!"},
		{RUN, "anything", .rule = "+"},
		{RUN, "gdb", .rule = "!no-debugger"},
		{BIND, "api", .address = "127.0.0.1:8080", .group = "services",
			.rule = "services-listen"},
		{BIND, "api", .address = "127.0.0.1:8080", .group = "others", .rule = "!"},
		{BIND, "api", .address = "127.0.0.1:8080", .rule = "!"},
	};
	ask_all(6, rows, ARRAY_LEN(rows));
}

/* 2026-11-23 is a Monday; Berlin is an hour ahead then, two in summer. */
static void test_hours(void **unused _unused_)
{
	static const struct row rows[] = {
		{CONNECT, "desk", "database", "127.0.0.1:5432", .at = "2026-11-23T07:00",
			.rule = "desk-by-day"},
		{CONNECT, "desk", "database", "127.0.0.1:5432", .at = "2026-11-23T06:59",
			.rule = "!"},
		{CONNECT, "desk", "database", "127.0.0.1:5432", .at = "2026-07-20T06:00",
			.rule = "desk-by-day"},
		{CONNECT, "desk", "database", "127.0.0.1:5432", .at = "2026-11-28T13:00",
			.rule = "!"},
		{CONNECT, "report", "database", "127.0.0.1:5432", .unit = "report.service",
			.at = "2026-11-23T21:30", .rule = "report-by-night"},
		{CONNECT, "report", "database", "127.0.0.1:5432", .unit = "report.service",
			.at = "2026-11-24T02:59", .rule = "report-by-night"},
		{CONNECT, "report", "database", "127.0.0.1:5432", .unit = "report.service",
			.at = "2026-11-24T03:00", .rule = "!"},
		{CONNECT, "report", "database", "127.0.0.1:5432", .unit = "other.service",
			.at = "2026-11-23T21:30", .rule = "!"},
	};
	ask_all(7, rows, ARRAY_LEN(rows));
}

static void test_duties(void **unused _unused_)
{
	static const struct row rows[] = {
		{CONNECT, "console", "payments", "127.0.0.1:9000", 2001, .rule = "release"},
		{CONNECT, "console", "payments", "127.0.0.1:9000", 2002, .rule = "!"},
		{CONNECT, "console", "journal", "127.0.0.1:9001", 2002, .rule = "audit"},
		{CONNECT, "console", "journal", "127.0.0.1:9001", 2001, .rule = "!"},
	};
	ask_all(8, rows, ARRAY_LEN(rows));
}

static void test_personal(void **unused _unused_)
{
	static const struct row rows[] = {
		{CONNECT, "crm", "database", "127.0.0.1:5432", .rule = "personal-sealed"},
		{CONNECT, "web", "database", "127.0.0.1:5432", .rule = "!others-not"},
		{CONNECT, "web", "search", "127.0.0.1:9300", .rule = "!others-not"},
		{CONNECT, "web", "search", "127.0.0.1:9400", .rule = "to-services"},
		{CONNECT, "web", "cache", "127.0.0.1:5432", .rule = "to-services"},
	};
	ask_all(9, rows, ARRAY_LEN(rows));
}

static void test_visitors(void **unused _unused_)
{
	static const struct row rows[] = {
		{CONNECT, "gamma/web", "vault", "192.0.2.7:1", .rule = "everybody-connects"},
		{ACCEPT, "vault", "gamma/web", "192.0.2.7:1", .rule = "!vault-takes-no-strangers"},
		{ACCEPT, "vault", "web", "192.0.2.7:1", .rule = "+"},
		{ACCEPT, "cache", "gamma/web", "192.0.2.7:1", .rule = "+"},
		{CONNECT, "crm", "vault", "127.0.0.1:1", .rule = "vault-slowly"},
	};
	ask_all(10, rows, ARRAY_LEN(rows));
}

static void test_watched(void **unused _unused_)
{
	static const struct row rows[] = {
		{CONNECT, "web", "cache", "127.0.0.1:23", .rule = "anything-inside"},
		{BIND, "legacy", .address = "127.0.0.1:23", .rule = "+"},
		{BIND, "web", .address = "127.0.0.1:23", .rule = "!"},
	};
	ask_all(11, rows, ARRAY_LEN(rows));
}

/* The first second after which a verdict may differ: found by asking each minute of three weeks. */
static void test_next_change(void **unused _unused_)
{
	struct loaded l = open_block(7);
	struct policy_question q = {.op = POLICY_OP_CONNECT,
		.address = {.ip_len = 4, .ip = {127, 0, 0, 1}, .port = 5432}};
	struct policy_verdict v;
	q.from.enrolled = q.to.enrolled = q.from.self = q.to.self = true;
	assert_int_equal(policy_party_program(l.p, &q.from, "desk"), 0);
	assert_int_equal(policy_party_program(l.p, &q.to, "database"), 0);
	/* From the week before the clocks change in October 2026 on. */
	int64_t start = 1792886400 - 7 * 86400, changed = start;
	policy_eval(l.p, &q, &v);
	q.now_s = start;
	policy_eval(l.p, &q, &v);
	bool was = v.allow;
	int64_t next = policy_next_change(l.p, start);
	unsigned changes = 0;
	for (int64_t t = start + 60; t < start + 21 * 86400; t += 60) {
		q.now_s = t;
		policy_eval(l.p, &q, &v);
		if (v.allow != was) {
			assert_true(next > changed && next <= t);
			changes++;
			was = v.allow;
		}
		if (t >= next) {
			assert_true(t - next < 60);
			changed = next;
			next = policy_next_change(l.p, t);
			assert_true(next > t);
		}
	}
	assert_int_equal(changes, 3 * 12);
	unload(&l);
}

static void test_no_policy(void **unused _unused_)
{
	struct policy_question q = {.op = POLICY_OP_RUN};
	struct policy_verdict v;
	policy_eval(NULL, &q, &v);
	assert_true(v.allow);
	q.op = POLICY_OP_CONNECT;
	policy_eval(NULL, &q, &v);
	assert_false(v.allow);
	assert_int_equal(v.reason, POLICY_DENIED_NO_POLICY);
	assert_false(policy_dns(NULL));
}

static void test_strictest(void **unused _unused_)
{
	struct loaded l = open_text(
		"version: 1\nrules:\n"
		"  - {name: a, allow: connect, from: {program: x}, idle: 5m, connections: 9}\n"
		"  - {name: b, allow: connect, protection: encrypt, idle: 1h, connections: 3}\n");
	struct policy_question q = {
		.op = POLICY_OP_CONNECT, .address = {.ip_len = 4, .ip = {127, 0, 0, 1}}};
	struct policy_verdict v;
	q.from.enrolled = q.to.enrolled = q.from.self = q.to.self = true;
	assert_int_equal(policy_party_program(l.p, &q.from, "x"), 0);
	policy_eval(l.p, &q, &v);
	assert_true(v.allow);
	assert_string_equal(v.rule_name, "a"); /* the more specific */
	assert_int_equal(v.protection, POLICY_ENCRYPT);
	assert_int_equal(v.idle_ms, 300000);
	assert_int_equal(v.connections, 3);
	assert_string_equal(policy_rule_name(l.p, v.limit_rule), "b");
	assert_int_equal(policy_rule_find(l.p, "b"), v.limit_rule);
	q.transport = POLICY_UDP;
	policy_eval(l.p, &q, &v);
	assert_int_equal(v.reason, POLICY_DENIED_NO_RULE);
	unload(&l);
}

int main(int argc, char **argv)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(test_cache),
		cmocka_unit_test(test_nodes), cmocka_unit_test(test_web),
		cmocka_unit_test(test_plain), cmocka_unit_test(test_strict),
		cmocka_unit_test(test_hours), cmocka_unit_test(test_duties),
		cmocka_unit_test(test_personal), cmocka_unit_test(test_visitors),
		cmocka_unit_test(test_watched), cmocka_unit_test(test_next_change),
		cmocka_unit_test(test_no_policy), cmocka_unit_test(test_strictest)};
	page = argc > 1 ? argv[1] : "docs/policy.md";
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
