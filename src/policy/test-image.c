/*
 * Hostile images: whatever bytes arrive, opening them reads nothing outside and either refuses or
 * gives a view on which every function is safe (run under ASan to see reads that stray). Also: what
 * is damaged is refused.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/compile.h"
#include "policy/image.h"

static const char *const texts[] = {
	"version: 1\n",
	"version: 1\nrules:\n  - name: r\n    allow: bind\n    from: { program: cache }\n    port: "
	"6379\n",
	"version: 1\nrun: enrolled\ngroups:\n  clients: [shell, bench]\n  staff: enrolled\nrules:\n"
	"  - name: a\n    allow: connect\n    from: { group: [clients, staff], user: 7, node: "
	"[self, alpha] }\n"
	"    to: { program: cache, node: \"*\" }\n    address: [127.0.0.0/8, \"::1\", "
	"\"fd00::/8\"]\n"
	"    port: [6379, 7000-7010]\n    idle: 5m\n    connections: 9\n"
	"  - name: b\n    deny: [connect, bind]\n    from: { user: 0 }\n    port: 25\n"
	"  - name: c\n    allow: connect\n    unix: /run/a/**\n"
	"  - name: d\n    allow: connect\n    from: { program: \"*\" }\n    plain: true\n    "
	"address: 192.0.2.0/24\n",
	"version: 1\naccept: listed\npermissive: [shell]\nroles:\n  op:\n    members: [{ user: 7 "
	"}, "
	"{ unit: a@.service }]\n  adm:\n    members: { program: cache }\n    includes: op\n"
	"    excludes: aud\n  aud:\n    members: { program: bench }\n"
	"labels:\n  pii: [{ port: [1, 5-9] }, { unix: /run/a/** }]\nrules:\n"
	"  - name: a\n    allow: connect\n    from: { role: [op, adm] }\n    label: pii\n    "
	"rate: 5/m\n"
	"  - name: b\n    deny: [connect, accept]\n    permissive: true\n    when: \"mon-fri "
	"22:00-06:00\"\n",
};

static void *compile(const char *text, size_t *ret_len)
{
	struct policy_compile_options o = {.source = "test.yaml"};
	struct policy_diagnostics d;
	void *image = NULL;
	assert_int_equal(policy_compile(text, strlen(text), &o, &d, &image, ret_len), 0);
	policy_diagnostics_deinit(&d);
	return image;
}

/* Everything the guard and the command line do with an open policy. */
static void use(const struct policy *p)
{
	static const char *const names[] = {"cache", "shell", "bench", "clients", "staff", "alpha"};
	char address[ADDR_TEXT_MAX];
	struct policy_explanation x;
	for (uint32_t i = 0; i <= policy_rules(p) && i < 8; i++) {
		_cleanup_free_ char *text = NULL;
		assert_int_equal(policy_format(p, i ? i - 1 : POLICY_RULE_NONE, &text), 0);
		assert_true(policy_rule_find(p, policy_rule_name(p, i)) != 12345);
	}
	for (int op = 0; op <= 7; op++)
		for (int k = 0; k < 8; k++) {
			struct policy_question q = {.op = (enum policy_op)op,
				.unix_path = "/run/a/x",
				.half = k & 1,
				.transport = k & 2 ? POLICY_UNIX : POLICY_TCP,
				.plain = k & 4,
				.address = {.ip_len = 4, .ip = {127, 0, 0, 1}, .port = 6379}};
			for (size_t i = 0; i < ARRAY_LEN(names); i++) {
				assert_int_equal(policy_party_program(p, &q.from, names[i]), 0);
				assert_int_equal(policy_party_group(p, &q.to, names[i]), 0);
			}
			q.from.programs[0] = 0xfffffff0; /* an id of some other policy */
			q.from.node = policy_intern(p, "alpha");
			q.from.enrolled = q.to.enrolled = q.to.self = true;
			policy_explain(p, &q, &x);
		}
	struct policy_ask ask = {.op = POLICY_OP_CONNECT, .from = "alpha/shell", .to = "cache"};
	struct error e = ERROR_INIT;
	assert_int_equal(policy_ask(p, &ask, &x, address, &e), 0);
}

static bool try(const void *bytes, size_t len, bool mend)
{
	/* A copy of exactly this size, so that a stray read is seen. */
	_cleanup_free_ char *copy = malloc(len ? len : 1);
	struct policy *p = NULL;
	struct error e = ERROR_INIT;
	memcpy(copy, bytes, len);
	if (mend && len >= sizeof(struct image_header) && len % 8 == 0)
		((struct image_header *)(void *)copy)->checksum = image_checksum(copy, len);
	int r = policy_image_open(copy, len, &p, &e);
	assert_true((r == 0) == (p != NULL));
	assert_true(r == 0 || (e.code == r && e.text[0]));
	if (p)
		use(p);
	policy_close(p);
	return r == 0;
}

static void test_good(void **unused _unused_)
{
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		size_t len;
		_cleanup_free_ void *image = compile(texts[i], &len);
		assert_true(try(image, len, false));
	}
}

static void test_bit_flips(void **unused _unused_)
{
	unsigned accepted = 0;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		size_t len;
		_cleanup_free_ char *image = compile(texts[i], &len);
		for (size_t bit = 0; bit < len * 8; bit++) {
			image[bit / 8] = (char)(image[bit / 8] ^ 1 << bit % 8);
			assert_false(try(image, len, false));
			accepted += try(image, len, true);
			image[bit / 8] = (char)(image[bit / 8] ^ 1 << bit % 8);
		}
	}
	assert_true(accepted > 0); /* a changed port is a policy too */
}

static void test_words(void **unused _unused_)
{
	static const uint32_t words[] = {
		0, 1, 2, 7, 8, 0x100, 0x7fffffff, 0x80000000, 0xfffffff8, 0xffffffff};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		size_t len;
		_cleanup_free_ char *image = compile(texts[i], &len);
		for (size_t at = 0; at + 4 <= len; at += 4) {
			uint32_t saved;
			memcpy(&saved, image + at, 4);
			for (size_t w = 0; w < ARRAY_LEN(words); w++) {
				memcpy(image + at, &words[w], 4);
				try(image, len, true);
			}
			memcpy(image + at, &saved, 4);
		}
	}
}

static void test_truncated(void **unused _unused_)
{
	size_t len;
	_cleanup_free_ char *image = compile(texts[2], &len);
	for (size_t n = 0; n < len; n++)
		assert_false(try(image, n, true));
	/* Also when it says so itself. */
	for (uint32_t n = sizeof(struct image_header); n < len; n += 8) {
		_cleanup_free_ char *copy = malloc(n);
		memcpy(copy, image, n);
		((struct image_header *)(void *)copy)->size = n;
		try(copy, n, true);
	}
}

int main(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(test_good),
		cmocka_unit_test(test_bit_flips), cmocka_unit_test(test_words),
		cmocka_unit_test(test_truncated)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
