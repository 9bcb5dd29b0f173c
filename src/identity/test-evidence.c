/* Evidence: every field of evidence.def survives a round trip; hostile messages and texts do not
 * get in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "identity/evidence.h"

static unsigned serial; /* makes every filled value differ from every other */

static void fill_text(char *t, size_t size)
{
	snprintf(t, size, "text-%u \"q\\ü", ++serial);
}
static void fill_digest(struct digest *d)
{
	memset(d, (int)(++serial & 0x7f), sizeof(*d));
}
static void fill_foreign(struct foreign *f, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		snprintf(f[i].path, sizeof(f[i].path), "/tmp/a sha256:-/%u.so", ++serial);
		if (i % 2)
			fill_digest(&f[i].sha256);
	}
}
static void fill_ancestors(struct ancestor *a, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		a[i] = (struct ancestor){.pid = ++serial, .start_time = ++serial, .uid = ++serial};
		fill_text(a[i].name, sizeof(a[i].name));
	}
}

#define FILL_U32(f, limit) e->f = ++serial;
#define FILL_U64(f, limit) e->f = UINT64_MAX - ++serial;
#define FILL_FLAG(f, limit) e->f = true;
#define FILL_TEXT(f, limit) fill_text(e->f, limit);
#define FILL_DIGEST(f, limit) fill_digest(&e->f);
#define FILL_NUMBERS(f, limit)                             \
	for (e->n_##f = 0; e->n_##f < (limit); e->n_##f++) \
		e->f[e->n_##f] = ++serial;
#define FILL_FOREIGN(f, limit) fill_foreign(e->f, e->n_##f = (limit));
#define FILL_ANCESTORS(f, limit) fill_ancestors(e->f, e->n_##f = (limit));

static struct evidence *evidence_filled(void)
{
	struct evidence *e = calloc(1, sizeof(*e));
	assert_non_null(e);
#define EVIDENCE(kind, field, json, limit, help) FILL_##kind(field, limit)
#include "identity/evidence.def"
#undef EVIDENCE
	return e;
}

#define SAME_U32(f) assert_int_equal(a->f, b->f)
#define SAME_U64(f) assert_true(a->f == b->f)
#define SAME_FLAG(f) assert_true(a->f && b->f)
#define SAME_TEXT(f) assert_string_equal(a->f, b->f)
#define SAME_DIGEST(f) assert_memory_equal(&a->f, &b->f, sizeof(a->f))
#define SAME_LIST(f) \
	(assert_int_equal(a->n_##f, b->n_##f), assert_memory_equal(a->f, b->f, sizeof(a->f)))
#define SAME_NUMBERS(f) SAME_LIST(f)
#define SAME_FOREIGN(f) SAME_LIST(f)
#define SAME_ANCESTORS(f) SAME_LIST(f)

static void test_round_trip(void **state)
{
	(void)state;
	struct evidence *a = evidence_filled(), *b = calloc(1, sizeof(*b));
	struct evidence_msg *m = calloc(1, sizeof(*m));
	evidence_to_msg(a, m);
	size_t len = belay__evidence__get_packed_size(&m->msg);
	uint8_t *buf = malloc(len);
	belay__evidence__pack(&m->msg, buf);
	Belay__Evidence *u = belay__evidence__unpack(NULL, len, buf);
	assert_non_null(u);
	assert_int_equal(evidence_from_msg(u, b), 0);
#define EVIDENCE(kind, field, json, limit, help) SAME_##kind(field);
#include "identity/evidence.def"
#undef EVIDENCE
	belay__evidence__free_unpacked(u, NULL);
	free(buf);
	free(m);
	free(a);
	free(b);
}

/* A field of the schema that evidence.def forgot would be lost without a sound. */
static void test_schema_matches_def(void **state)
{
	(void)state;
	size_t n = 0;
	while (evidence_fields[n].json)
		n++;
	assert_int_equal(n, belay__evidence__descriptor.n_fields);
}

static void test_json(void **state)
{
	(void)state;
	struct evidence *e = evidence_filled();
	char *buf = malloc(EVIDENCE_JSON_MAX);
	size_t len;
	assert_int_equal(evidence_json(e, buf, EVIDENCE_JSON_MAX, &len), 0);
	assert_int_equal(strlen(buf), len);
	for (size_t i = 0; evidence_fields[i].json; i++) {
		char key[64];
		snprintf(key, sizeof(key), "\"%s\":", evidence_fields[i].json);
		assert_non_null(strstr(buf, key));
	}
	assert_null(strchr(buf, '\n'));
	for (size_t small = 1; small < len; small += 97)
		assert_int_equal(evidence_json(e, buf, small, &len), -ENOBUFS);
	free(buf);
	free(e);
}

/* The worst a process can choose still fits the limit a caller relies on. */
static void test_json_worst_case(void **state)
{
	(void)state;
	struct evidence *e = evidence_filled();
	char *buf = malloc(EVIDENCE_JSON_MAX);
	size_t len;
#define WORST_U32(f) e->f = UINT32_MAX
#define WORST_U64(f) e->f = UINT64_MAX
#define WORST_FLAG(f)
#define WORST_TEXT(f) (memset(e->f, '"', sizeof(e->f) - 1), e->f[sizeof(e->f) - 1] = 0)
#define WORST_DIGEST(f)
#define WORST_NUMBERS(f) memset(e->f, 0xff, sizeof(e->f))
#define WORST_FOREIGN(f)                      \
	for (size_t i = 0; i < e->n_##f; i++) \
	memset(e->f[i].path, '"', sizeof(e->f[i].path) - 1), fill_digest(&e->f[i].sha256)
#define WORST_ANCESTORS(f)                    \
	for (size_t i = 0; i < e->n_##f; i++) \
	memset(e->f[i].name, '"', sizeof(e->f[i].name) - 1)
#define EVIDENCE(kind, field, json, limit, help) WORST_##kind(field);
#include "identity/evidence.def"
#undef EVIDENCE
	for (size_t i = 0; i < e->n_foreign; i++)
		e->foreign[i].path[sizeof(e->foreign[i].path) - 1] = '\0';
	for (size_t i = 0; i < e->n_ancestors; i++)
		e->ancestors[i].name[sizeof(e->ancestors[i].name) - 1] = '\0';
	assert_int_equal(evidence_json(e, buf, EVIDENCE_JSON_MAX, &len), 0);
	free(buf);
	free(e);
}

static void test_limits(void **state)
{
	(void)state;
	struct evidence *e = evidence_filled();
	struct evidence_msg *m = calloc(1, sizeof(*m));
	char *longer = malloc(1000);
	char *many[40];
	memset(longer, 'x', 999);
	longer[999] = '\0';
	evidence_to_msg(e, m);
	m->msg.exe_path = longer;
	assert_int_equal(evidence_from_msg(&m->msg, e), -EBADMSG);

	evidence_to_msg(e, m);
	m->msg.exe_sha256.len = 31;
	m->msg.exe_sha256.data = (uint8_t *)longer;
	assert_int_equal(evidence_from_msg(&m->msg, e), -EBADMSG);

	for (size_t i = 0; i < ARRAY_LEN(many); i++)
		many[i] = (char *)"/x sha256:-";
	evidence_to_msg(e, m);
	m->msg.foreign = many;
	m->msg.n_foreign = ARRAY_LEN(many);
	assert_int_equal(evidence_from_msg(&m->msg, e), -EBADMSG);
	m->msg.n_foreign = 1;
	assert_int_equal(evidence_from_msg(&m->msg, e), 0);
	static const char *bad[] = {"", "/x", "/x sha256:", "/x sha256:00", "/x sha256:--"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		many[0] = (char *)bad[i];
		assert_int_equal(evidence_from_msg(&m->msg, e), -EBADMSG);
	}
	free(longer);
	free(m);
	free(e);
}

static void test_scrub(void **state)
{
	(void)state;
	static const struct {
		const char *in, *out;
		bool clean;
	} c[] = {
		{"redis-server", "redis-server", true}, {"", "", true},
		{"a\nb\x1b[2J", "a?b?[2J", false}, {"\xc3\xbc", "\xc3\xbc", true}, /* ü */
		{"\xc0\xaf", "??", false},           /* overlong '/' */
		{"\xed\xa0\x80", "???", false},      /* a surrogate */
		{"\xf4\x90\x80\x80", "????", false}, /* beyond the last code point */
		{"\xe2\x80\xae"
		 "gnp",
			"?gnp", false},    /* right-to-left override */
		{"\xc2\x85", "?", false},  /* C1 next line */
		{"\xe2\x82", "??", false}, /* cut short */
		{"0123456789abcdef", "0123456789abcde", false},
		{"0123456789abcd\xc3\xbc", "0123456789abcd",
			false}, /* not cut inside a character */
	};
	for (size_t i = 0; i < ARRAY_LEN(c); i++) {
		char out[16];
		assert_int_equal(
			text_scrub(c[i].in, strlen(c[i].in), out, sizeof(out)), c[i].clean);
		assert_string_equal(out, c[i].out);
	}
	char path[12];
	text_scrub_path("/a/long/path/x.so", 17, path, sizeof(path));
	assert_string_equal(path, "…ath/x.so");
	text_scrub_path("/short", 6, path, sizeof(path));
	assert_string_equal(path, "/short");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_round_trip),
		cmocka_unit_test(test_schema_matches_def),
		cmocka_unit_test(test_json),
		cmocka_unit_test(test_json_worst_case),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_scrub),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
