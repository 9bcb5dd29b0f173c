/* The relay's view of DNS messages: which queries go on, and which answers belong to them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "base/cleanup.h"
#include "fabric/dns.h"

#define HEAD "\x12\x34\x01\x00\0\1\0\0\0\0\0\0"
#define NAME "\7example\3org\0"
#define A "\0\1\0\1"
#define OPT "\0\0\x29\x10\0\0\0\x80\0\0\0"

static void test_parse(void **state)
{
	static const struct {
		const char *name, *bytes;
		size_t len;
		int code;
	} cases[] = {
#define CASE(n, b, c) {n, b, sizeof(b) - 1, c}
		CASE("A", HEAD NAME A, DNS_OK),
		CASE("AAAA", HEAD NAME "\0\x1c\0\1", DNS_OK),
		CASE("EDNS", "\x12\x34\x01\x00\0\1\0\0\0\0\0\1" NAME A OPT, DNS_OK),
		CASE("root", HEAD "\0" A, DNS_OK),
		CASE("empty", "", -1),
		CASE("short", "\x12\x34\x01", -1),
		CASE("an answer", "\x12\x34\x81\x00\0\1\0\0\0\0\0\0" NAME A, -1),
		CASE("TXT", HEAD NAME "\0\x10\0\1", DNS_NOTIMP),
		CASE("ANY", HEAD NAME "\0\xff\0\1", DNS_NOTIMP),
		CASE("chaos", HEAD NAME "\0\1\0\3", DNS_REFUSED),
		CASE("update", "\x12\x34\x28\x00\0\1\0\0\0\0\0\0" NAME A, DNS_NOTIMP),
		CASE("two questions", "\x12\x34\x01\x00\0\2\0\0\0\0\0\0" NAME A NAME A,
			DNS_FORMERR),
		CASE("an answer record", "\x12\x34\x01\x00\0\1\0\1\0\0\0\0" NAME A, DNS_FORMERR),
		CASE("two options", "\x12\x34\x01\x00\0\1\0\0\0\0\0\2" NAME A OPT OPT, DNS_FORMERR),
		CASE("option missing", "\x12\x34\x01\x00\0\1\0\0\0\0\0\1" NAME A, DNS_FORMERR),
		CASE("option data missing",
			"\x12\x34\x01\x00\0\1\0\0\0\0\0\1" NAME A "\0\0\x29\x10\0\0\0\x80\0\0\4",
			DNS_FORMERR),
		CASE("bytes behind", HEAD NAME A "x", DNS_FORMERR),
		CASE("compressed", HEAD "\xc0\x0c" A, DNS_FORMERR),
		CASE("label too long", HEAD "\x40" NAME A, DNS_FORMERR),
		CASE("no root", HEAD "\7example", DNS_FORMERR),
		CASE("no type", HEAD NAME "\0", DNS_FORMERR),
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct dns_query q;
		int code = dns_query_parse((const uint8_t *)cases[i].bytes, cases[i].len, &q);
		if (code != cases[i].code)
			fail_msg("%s: %d, not %d", cases[i].name, code, cases[i].code);
	}
}

static void test_name_too_long(void **state)
{
	uint8_t buf[512] = HEAD;
	size_t n = DNS_HEADER;
	struct dns_query q;
	(void)state;
	for (int i = 0; i < 4; i++, n += 64) {
		buf[n] = 63;
		memset(buf + n + 1, 'a', 63);
	}
	memcpy(buf + n, "\0" A, 5); /* 4 * 64 + 1 = 257 */
	assert_int_equal(dns_query_parse(buf, n + 5, &q), DNS_FORMERR);
}

static void test_answers(void **state)
{
	static const uint8_t in[] = HEAD NAME A;
	uint8_t buf[DNS_BUILD_MAX];
	struct dns_query q;
	(void)state;
	assert_int_equal(dns_query_parse(in, sizeof(in) - 1, &q), DNS_OK);
	size_t n = dns_query_build(&q, 0xabcd, buf);
	assert_int_equal(n, sizeof(in) - 1);
	assert_false(dns_answer_matches(buf, n, &q, 0xabcd)); /* a query is no answer */
	buf[2] |= 0x80;
	assert_true(dns_answer_matches(buf, n, &q, 0xabcd));
	assert_false(dns_answer_matches(buf, n, &q, 0xabce));
	assert_false(dns_answer_matches(buf, n - 1, &q, 0xabcd));
	buf[13] = 'E'; /* case of the name does not count */
	assert_true(dns_answer_matches(buf, n, &q, 0xabcd));
	buf[13] = 'x';
	assert_false(dns_answer_matches(buf, n, &q, 0xabcd));
	dns_answer_set_id(buf, q.id);
	assert_memory_equal(buf, "\x12\x34", 2);
	n = dns_refusal_build(&q, DNS_REFUSED, true, buf);
	assert_memory_equal(buf, "\x12\x34\x83\x85\0\1\0\0\0\0\0\0", 12);
	assert_int_equal(n, sizeof(in) - 1);
}

/* A struct whose slots could ask; nothing is sent. */
static void test_each_asker_has_a_share(void **state)
{
	(void)state;
	static struct dns d;
	struct dns_slot *last = NULL;
	size_t n[3] = {0};
	memset(&d, 0, sizeof(d));
	for (int i = 0; i < DNS_UDP4; i++)
		d.slots[i].fd = 0;
	for (int i = DNS_UDP4; i < DNS_SLOTS; i++)
		d.slots[i].fd = -1;
	while ((last = dns_slot_take(&d, false, false, 100)))
		n[0]++;
	assert_int_equal(n[0], DNS_UDP4 / 2); /* alone: as much as it leaves */
	while (dns_slot_take(&d, false, false, 101))
		n[1]++;
	while (dns_slot_take(&d, false, false, 102))
		n[2]++;
	assert_true(n[1] >= DNS_UDP4 / 4 && n[2] >= DNS_UDP4 / 8);
	assert_null(dns_slot_take(&d, false, false, 100));

	uint32_t *place = NULL;
	for (n[0] = 0; dns_client_take(&d, 100); n[0]++)
		;
	place = dns_client_take(&d, 101);
	assert_true(n[0] == DNS_CLIENTS_MAX / 2 && place);
	*place = 0;
	assert_null(dns_client_take(&d, 0));

	/* A second may end between two calls: then both start anew, and the flood gets no less. */
	for (int tries = 0; tries < 3; tries++) {
		memset(n, 0, sizeof(n));
		d.second = 0;
		for (int i = 0; i < 2 * DNS_PER_SECOND; i++)
			n[0] += dns_rate(&d, 100);
		uint64_t second = d.second;
		for (int i = 0; i < 100; i++)
			n[1] += dns_rate(&d, 101);
		if (second == d.second && n[0] == DNS_PER_SECOND / 2)
			break;
	}
	assert_int_equal(n[0], DNS_PER_SECOND / 2);
	assert_int_equal(n[1], 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_parse),
		cmocka_unit_test(test_name_too_long),
		cmocka_unit_test(test_answers),
		cmocka_unit_test(test_each_asker_has_a_share),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
