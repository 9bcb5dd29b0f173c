/* Whose a datagram is and where it went, from the first bytes of its packet. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "fabric/asks.h"

#define V4 "\x45\0\0\x20\0\1\0\0\x40\x11\0\0\x0a\0\0\1\x0a\0\0\2"
#define V4_OPTIONS "\x46\0\0\x24\0\1\0\0\x40\x11\0\0\x0a\0\0\1\x0a\0\0\2\1\1\1\1"
#define V6 "\x60\0\0\0\0\x0c\x11\x40" V6_A V6_B
#define V6_A "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\1"
#define V6_B "\xfd\0\0\0\0\0\0\0\0\0\0\0\0\0\0\2"
#define PORTS "\x9c\x40\0\x7b"

static void test_parse(void **state)
{
	(void)state;
#define CASE(b, f, t)                  \
	{                              \
		b, sizeof(b) - 1, f, t \
	}
	static const struct {
		const char *bytes;
		size_t len;
		const char *from, *to;
	} t[] = {
		CASE(V4 PORTS, "10.0.0.1:40000", "10.0.0.2:123"),
		CASE(V4_OPTIONS PORTS, "10.0.0.1:40000", "10.0.0.2:123"),
		CASE(V6 PORTS, "[fd00::1]:40000", "[fd00::2]:123"),
		CASE("", NULL, NULL),
		CASE(V4 "\x9c\x40\0", NULL, NULL),
		CASE(V6 "\x9c\x40\0", NULL, NULL),
		CASE(V4 "\0\0\0\x7b", NULL, NULL),
		CASE(V4 "\x9c\x40\0\0", NULL, NULL),
		CASE("\x41" V4 PORTS, NULL, NULL), /* a header shorter than one */
		CASE("\x4f" V4 PORTS, NULL, NULL), /* one that reaches beyond */
		CASE("\x45\0\0\x20\0\1\0\x64\x40\x11\0\0\x0a\0\0\1\x0a\0\0\2" PORTS, NULL, NULL),
		CASE("\x45\0\0\x20\0\1\0\0\x40\x06\0\0\x0a\0\0\1\x0a\0\0\2" PORTS, NULL, NULL),
		CASE("\x75" V4 PORTS, NULL, NULL),
	};
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct addr from, to, a;
		int r = asks_parse((const uint8_t *)t[i].bytes, t[i].len, &from, &to);
		assert_int_equal(r, t[i].from ? 0 : -EBADMSG);
		if (!t[i].from)
			continue;
		assert_int_equal(addr_parse(t[i].from, &a), 0);
		assert_true(addr_equal(&a, &from));
		assert_int_equal(addr_parse(t[i].to, &a), 0);
		assert_true(addr_equal(&a, &to));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_parse)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
