/* The journal: what one process took, the next finds, whatever moment the first died at. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "enforce/journal.h"

static void test_successor(void **state)
{
	(void)state;
	static struct journal a, b;
	int fd = memfd_create("journal", MFD_CLOEXEC);
	assert_int_equal(journal_open(&a, fd), 0);
	int one = journal_take(&a, 7), two = journal_take(&a, 8), three = journal_take(&a, 7);
	assert_true(one >= 0 && two >= 0 && three >= 0);
	a.slot[one].notif.id = 0x1234;
	journal_release(&a, (uint32_t)two);
	assert_int_equal(journal_open(&b, fd), 0);
	assert_int_equal(b.n_free, JOURNAL_SLOTS - 2);
	assert_int_equal(b.slot[one].tree, 7);
	assert_int_equal(b.slot[one].notif.id, 0x1234);
	assert_int_equal(b.slot[three].notif.id, 0); /* taken, but nothing received into it */
	journal_release(&b, (uint32_t)one);
	journal_release(&b, (uint32_t)one);
	assert_int_equal(b.n_free, JOURNAL_SLOTS - 1);
}

static void test_full(void **state)
{
	(void)state;
	static struct journal j;
	assert_int_equal(journal_open(&j, -1), 0);
	for (int i = 0; i < JOURNAL_SLOTS; i++)
		assert_int_equal(journal_take(&j, 1), i);
	assert_int_equal(journal_take(&j, 1), -ENOBUFS);
	memset(&j.slot[9].notif, 0xff, sizeof(j.slot[9].notif));
	journal_release(&j, 9);
	assert_int_equal(journal_take(&j, 2), 9);
	assert_int_equal(j.slot[9].notif.id, 0); /* the kernel wants it zeroed */
	assert_int_equal(journal_take(&j, 0), -ENOBUFS);
}

static void test_not_a_journal(void **state)
{
	(void)state;
	static struct journal j;
	int fd = memfd_create("journal", MFD_CLOEXEC);
	assert_int_equal(pwrite(fd, "something else", 14, 0), 14);
	assert_int_equal(journal_open(&j, fd), -EBADMSG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_successor),
		cmocka_unit_test(test_full), cmocka_unit_test(test_not_a_journal)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
