/* What the sealing of frames promises, by trying each thing it must refuse (docs/protocol.md, 5 and
 * 6). */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include "conn/seal.h"

static const uint8_t one[FRAME_CHANNEL_LEN] = "channel number 1",
		     two[FRAME_CHANNEL_LEN] = "channel number 2";
static const struct seal_limits wide = {.bytes = 1u << 30, .frames = 1u << 30, .ms = 1u << 30};

struct pair {
	struct seal send, receive;
};

static void pair_init(struct pair *p, uint8_t key)
{
	struct secret s;
	memset(s.bytes, key, sizeof(s.bytes));
	assert_int_equal(seal_init(&p->send, &s, 0), 0);
	assert_int_equal(seal_init(&p->receive, &s, 0), 0);
}

static void pair_clear(struct pair *p)
{
	seal_clear(&p->send);
	seal_clear(&p->receive);
}

static size_t make(struct seal *s, const struct seal_limits *l, const char *text, uint8_t *frame)
{
	size_t n = strlen(text);
	memcpy(frame + FRAME_HEADER_LEN, text, n);
	int r = seal_frame(s, l, 0, FRAME_DATA, one, frame, (uint32_t)n);
	assert_int_equal(r, n + FRAME_OVERHEAD);
	return (size_t)r;
}

static int try_open(struct seal *s, uint8_t *frame, size_t len)
{
	struct frame_cursor c = {.buf = frame, .len = len};
	struct frame_header h;
	uint8_t *f;
	int r = frame_next(&c, &h, &f);
	return r != 1 ? -EBADMSG : seal_open(s, &h, f);
}

static void test_every_bit(void **state)
{
	(void)state;
	uint8_t good[128], bad[128];
	struct pair p;
	pair_init(&p, 1);
	size_t n = make(&p.send, &wide, "what the program said", good);
	pair_clear(&p);
	for (size_t bit = 0; bit < n * 8; bit++) {
		pair_init(&p, 1);
		memcpy(bad, good, n);
		bad[bit / 8] = (uint8_t)(bad[bit / 8] ^ 1u << bit % 8);
		assert_int_equal(try_open(&p.receive, bad, n), -EBADMSG);
		pair_clear(&p);
	}
	pair_init(&p, 1);
	memcpy(bad, good, n);
	assert_int_equal(try_open(&p.receive, bad, n), 0);
	assert_memory_equal(bad + FRAME_HEADER_LEN, "what the program said", 21);
	pair_clear(&p);
}

static void test_order(void **state)
{
	(void)state;
	uint8_t a[128], b[128], again[128];
	struct pair p;
	pair_init(&p, 2);
	size_t na = make(&p.send, &wide, "first", a), nb = make(&p.send, &wide, "second", b);
	memcpy(again, a, na);
	struct pair q; /* reorder, which is also loss of the first */
	pair_init(&q, 2);
	memcpy(again, b, nb);
	assert_int_equal(try_open(&q.receive, again, nb), -EBADMSG);
	pair_clear(&q);
	memcpy(again, a, na); /* replay */
	assert_int_equal(try_open(&p.receive, a, na), 0);
	assert_int_equal(try_open(&p.receive, again, na), -EBADMSG);
	pair_clear(&p);
}

static void test_splice(void **state)
{
	(void)state;
	uint8_t f[128];
	struct pair p, q;
	pair_init(&p, 3);
	pair_init(&q, 4);
	size_t n = make(&p.send, &wide, "for one", f);
	memcpy(f + 8, two, sizeof(two)); /* into another channel, which has another key */
	assert_int_equal(try_open(&q.receive, f, n), -EBADMSG);
	memcpy(f + 8, two, sizeof(two)); /* relabelled, same key: the id is authenticated */
	assert_int_equal(try_open(&p.receive, f, n), -EBADMSG);
	pair_clear(&p);
	pair_clear(&q);
}

static void test_epochs(void **state)
{
	(void)state;
	uint8_t f[128], old[128];
	struct pair p;
	struct seal_limits tight = {.bytes = 1u << 20, .frames = 3, .ms = 1u << 30};
	pair_init(&p, 5);
	struct secret first = p.send.traffic;
	size_t n = 0;
	for (int i = 0; i < 20; i++) {
		n = make(&p.send, &tight, "hello", f);
		if (i == 0)
			memcpy(old, f, n);
		assert_int_equal(p.send.epoch, i / 3);
		assert_int_equal(try_open(&p.receive, f, n), 0);
		assert_int_equal(p.receive.epoch, p.send.epoch);
	}
	assert_memory_not_equal(
		first.bytes, p.send.traffic.bytes, SECRET_LEN); /* the old secret is gone */
	assert_int_equal(try_open(&p.receive, old, n), -EBADMSG);
	pair_clear(&p);

	pair_init(&p, 6); /* time */
	struct seal_limits brief = {.bytes = 1u << 20, .frames = 100, .ms = 10};
	n = make(&p.send, &brief, "x", f);
	memcpy(f + FRAME_HEADER_LEN, "y", 1);
	assert_true(seal_frame(&p.send, &brief, 11, FRAME_DATA, one, f, 1) > 0);
	assert_int_equal(p.send.epoch, 1);
	assert_int_equal(p.send.frames, 1);
	/* The frame before it is lost: the next epoch's key is right, but its counter shows the
	 * gap. */
	assert_int_equal(try_open(&p.receive, f, n), -EBADMSG);
	pair_clear(&p);

	pair_init(&p, 7); /* skipping an epoch */
	p.send.epoch = 2;
	n = make(&p.send, &wide, "z", f);
	assert_int_equal(try_open(&p.receive, f, n), -EBADMSG);
	p.send.epoch = UINT16_MAX;
	p.send.frames = 5;
	assert_int_equal(seal_frame(&p.send, &tight, 0, FRAME_DATA, one, f, 1), -EOVERFLOW);
	pair_clear(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_every_bit),
		cmocka_unit_test(test_order),
		cmocka_unit_test(test_splice),
		cmocka_unit_test(test_epochs),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
