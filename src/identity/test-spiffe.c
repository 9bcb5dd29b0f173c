/* SPIFFE IDs: what is formatted parses back, and nothing else parses. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "identity/spiffe.h"

static void test_format_and_parse(void **state)
{
	(void)state;
	char id[SPIFFE_ID_SIZE];
	struct spiffe_id p;
	assert_int_equal(spiffe_format("example.org", "n1", "redis-server", id), 0);
	assert_string_equal(id, "spiffe://example.org/node/n1/program/redis-server");
	assert_int_equal(spiffe_parse(id, &p), 0);
	assert_string_equal(p.domain, "example.org");
	assert_string_equal(p.node, "n1");
	assert_string_equal(p.program, "redis-server");
	assert_int_equal(spiffe_format("example.org", "n1", NULL, id), 0);
	assert_string_equal(id, "spiffe://example.org/node/n1");
	assert_int_equal(spiffe_parse(id, &p), 0);
	assert_string_equal(p.program, "");
}

static void test_refused(void **state)
{
	(void)state;
	static const char *bad[] = {"", "spiffe://", "spiffe:///node/n", "http://d/node/n",
		"spiffe://D/node/n", "spiffe://d/node/", "spiffe://d/node/n/", "spiffe://d/node/..",
		"spiffe://d/node/n/program/", "spiffe://d/node/n/program/a/b",
		"spiffe://d/node/n/program/%41", "spiffe://d/node/n?x", "spiffe://d/node/n#x",
		"spiffe://d:8/node/n", "spiffe://u@d/node/n", "spiffe://d/node/n/programs/x",
		"spiffe://d/node/n\n", "spiffe://d/node/-n", " spiffe://d/node/n"};
	struct spiffe_id p;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(spiffe_parse(bad[i], &p), -EINVAL);
	char id[SPIFFE_ID_SIZE], name[NAME_SIZE + 1];
	memset(name, 'a', NAME_SIZE);
	name[NAME_SIZE] = '\0';
	assert_int_equal(spiffe_format("d", name, NULL, id), -EINVAL);
	name[NAME_SIZE - 1] = '\0';
	assert_int_equal(spiffe_format("d", name, name, id), 0);
	assert_int_equal(spiffe_format("d", "n", "a b", id), -EINVAL);
	assert_int_equal(spiffe_format("", "n", "a", id), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_format_and_parse),
		cmocka_unit_test(test_refused),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
