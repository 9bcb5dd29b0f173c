/* The state table: what is put is got, in any order of life; what is damaged is not there. */
#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard/state.h"

#define TABLE_LEN STATE_MEMORY_LEN

static int memory(void)
{
	int fd = memfd_create("state", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_true(fd >= 0);
	assert_int_equal(ftruncate(fd, (off_t)TABLE_LEN), 0);
	return fd;
}

static struct state_table *open_table(int fd, bool want_fresh)
{
	struct state_table *t = NULL;
	bool fresh;
	assert_int_equal(state_table_open(fd, &t, &fresh), 0);
	assert_int_equal(fresh, want_fresh);
	return t;
}

static void test_a_successor_reads_what_was_put(void **state)
{
	(void)state;
	int fd = memory();
	const void *p;
	uint8_t key[STATE_KEY_LEN];
	struct state_table *t = open_table(fd, true);
	int a = state_table_put(t, "alpha", 5), b = state_table_put(t, "beta", 4);
	assert_true(a > 0 && b > 0 && a != b);
	memcpy(key, state_table_key(t), sizeof(key));
	state_table_close(t);
	t = open_table(fd, false);
	assert_memory_equal(key, state_table_key(t), sizeof(key));
	assert_int_equal(state_table_used(t), 2);
	assert_int_equal(state_table_get(t, a, &p), 5);
	assert_memory_equal(p, "alpha", 5);
	state_table_drop(t, a);
	assert_int_equal(state_table_get(t, a, &p), 0);
	assert_int_equal(state_table_get(t, b, &p), 4);
	/* The freed slot is used again, and the old text is not found under it. */
	assert_int_equal(state_table_put(t, "gamma!", 6), a);
	assert_int_equal(state_table_get(t, a, &p), 6);
	state_table_close(t);
	close(fd);
}

static void test_limits(void **state)
{
	(void)state;
	int fd = memory();
	uint8_t big[STATE_PAYLOAD_MAX + 1] = {0};
	const void *p;
	struct state_table *t = open_table(fd, true);
	assert_int_equal(state_table_put(t, big, sizeof(big)), -EMSGSIZE);
	assert_int_equal(state_table_put(t, big, 0), -EMSGSIZE);
	int slot = state_table_put(t, big, STATE_PAYLOAD_MAX);
	assert_int_equal(state_table_get(t, slot, &p), STATE_PAYLOAD_MAX);
	for (int i = -1; i < 1; i++)
		assert_int_equal(state_table_get(t, i, &p), 0);
	assert_int_equal(state_table_get(t, slot + 1, &p), 0); /* its second slot is none */
	assert_int_equal(state_table_get(t, (int)STATE_SLOTS_MAX, &p), 0);
	for (size_t n = 3; n < STATE_SLOTS_MAX; n++) /* behind the header and the long one */
		assert_true(state_table_put(t, "x", 1) > 0);
	assert_int_equal(state_table_put(t, "x", 1), -ENOSPC);
	state_table_drop(t, 77);
	assert_int_equal(state_table_put(t, big, STATE_PAYLOAD_MAX), -ENOSPC);
	assert_int_equal(state_table_put(t, "y", 1), 77);
	state_table_drop(t, 77);
	state_table_drop(t, 76); /* two beside each other, whichever went first */
	assert_int_equal(state_table_put(t, big, STATE_PAYLOAD_MAX), 76);
	state_table_drop(t, 77); /* no record begins there */
	assert_int_equal(state_table_get(t, 76, &p), STATE_PAYLOAD_MAX);
	assert_int_equal(state_table_used(t), STATE_SLOTS_MAX - 3);
	state_table_close(t);
	close(fd);
}

/* Each bit of a record, flipped alone: the record reads as none, its neighbours as before. */
static void test_a_flipped_bit_voids_its_record_only(void **state)
{
	(void)state;
	int fd = memory();
	const void *p;
	struct state_table *t = open_table(fd, true);
	int a = state_table_put(t, "the first", 9), b = state_table_put(t, "the second", 10);
	uint8_t *raw = mmap(NULL, TABLE_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(raw, MAP_FAILED);
	uint8_t *record = raw + (size_t)b * STATE_SLOT_LEN;
	/* valid, length, checksum, and the payload's ten bytes; 8 bytes between do not decide. */
	for (size_t bit = 0; bit < (24 + 10) * 8; bit++) {
		if (bit / 8 >= 16 && bit / 8 < 24)
			continue;
		record[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(state_table_get(t, b, &p), 0);
		assert_int_equal(state_table_get(t, a, &p), 9);
		record[bit / 8] ^= (uint8_t)(1u << (bit % 8));
		assert_int_equal(state_table_get(t, b, &p), 10);
	}
	/* A whole record copied to another slot is not that slot's. */
	memcpy(raw + 9 * STATE_SLOT_LEN, record, STATE_SLOT_LEN);
	assert_int_equal(state_table_get(t, 9, &p), 0);
	munmap(raw, TABLE_LEN);
	state_table_close(t);
	close(fd);
}

/*
 * A record over two slots is one, also for a successor: bytes of its second slot that look like a
 * record are not.
 */
static void test_a_long_record_is_one(void **state)
{
	(void)state;
	int fd = memory();
	const void *p;
	uint8_t big[STATE_PAYLOAD_MAX];
	memset(big, 1, sizeof(big));
	struct state_table *t = open_table(fd, true);
	int a = state_table_put(t, "short", 5), b = state_table_put(t, big, sizeof(big));
	int c = state_table_put(t, "another", 7);
	assert_int_equal(c, b + 2);
	/* What slot c says, word for word, in the second slot of b. */
	uint8_t *raw = mmap(NULL, TABLE_LEN, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	assert_ptr_not_equal(raw, MAP_FAILED);
	memcpy(big + STATE_SLOT_LEN - 24, raw + (size_t)c * STATE_SLOT_LEN, STATE_SLOT_LEN);
	state_table_drop(t, b);
	assert_int_equal(state_table_put(t, big, sizeof(big)), b);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(state_table_used(t), 3);
		assert_int_equal(state_table_get(t, a, &p), 5);
		assert_int_equal(state_table_get(t, b, &p), sizeof(big));
		assert_memory_equal(p, big, sizeof(big));
		assert_int_equal(state_table_get(t, b + 1, &p), 0);
		assert_int_equal(state_table_get(t, c, &p), 7);
		state_table_close(t);
		t = open_table(fd, false);
	}
	/* Void: its slots are free for others, and nothing of it is left. */
	raw[(size_t)b * STATE_SLOT_LEN + 100] ^= 1;
	state_table_close(t);
	t = open_table(fd, false);
	assert_int_equal(state_table_used(t), 2);
	assert_int_equal(state_table_get(t, b, &p), 0);
	assert_int_equal(state_table_put(t, "x", 1), b);
	assert_int_equal(state_table_put(t, "y", 1), b + 1);
	munmap(raw, TABLE_LEN);
	state_table_close(t);
	close(fd);
}

static void test_a_broken_header_starts_an_empty_table(void **state)
{
	(void)state;
	int fd = memory();
	const void *p;
	struct state_table *t = open_table(fd, true);
	int a = state_table_put(t, "old", 3);
	state_table_close(t);
	uint8_t byte;
	assert_int_equal(pread(fd, &byte, 1, 17), 1);
	byte ^= 4;
	assert_int_equal(pwrite(fd, &byte, 1, 17), 1);
	t = open_table(fd, true);
	assert_int_equal(state_table_get(t, a, &p), 0);
	assert_int_equal(state_table_used(t), 0);
	state_table_close(t);
	assert_int_equal(ftruncate(fd, 4096), 0);
	bool fresh;
	assert_int_equal(state_table_open(fd, &t, &fresh), -EINVAL);
	close(fd);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_a_successor_reads_what_was_put),
		cmocka_unit_test(test_limits),
		cmocka_unit_test(test_a_flipped_bit_voids_its_record_only),
		cmocka_unit_test(test_a_long_record_is_one),
		cmocka_unit_test(test_a_broken_header_starts_an_empty_table),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
