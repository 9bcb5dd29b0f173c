/* Frame and preamble codecs: tables of good and bad headers, random splits, every prefix, every
 * byte wrong. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "wire/frame.h"
#include "wire/preamble.h"

static const struct {
	const char *what;
	uint8_t type, flags;
	uint32_t length;
	int want;
} headers[] = {
	{"open", FRAME_OPEN, 0, 16, 0},
	{"open with a body", FRAME_OPEN, 0, 17, -EBADMSG},
	{"smallest data", FRAME_DATA, 0, 17, 0},
	{"largest data", FRAME_DATA, 0, FRAME_DATA_MAX + 16, 0},
	{"empty data", FRAME_DATA, 0, 16, -EBADMSG},
	{"too large data", FRAME_DATA, 0, FRAME_DATA_MAX + 17, -EBADMSG},
	{"huge", FRAME_DATA, 0, UINT32_MAX, -EBADMSG},
	{"shorter than a tag", FRAME_DATA, 0, 3, -EBADMSG},
	{"window", FRAME_WINDOW, 0, 20, 0},
	{"long window", FRAME_WINDOW, 0, 21, -EBADMSG},
	{"fin", FRAME_FIN, 0, 16, 0},
	{"reset", FRAME_RESET, 0, 17, 0},
	{"type 0", FRAME_NONE, 0, 17, -EBADMSG},
	{"unknown type", _FRAME_N, 0, 17, -EBADMSG},
	{"flags", FRAME_DATA, 1, 17, -EBADMSG},
};

static void test_headers(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(headers); i++) {
		uint8_t b[FRAME_HEADER_LEN];
		struct frame_header h = {.type = (enum frame_type)headers[i].type,
			.epoch = 0xabcd,
			.length = headers[i].length};
		memset(h.channel, 7, sizeof(h.channel));
		frame_header_encode(&h, b);
		b[1] = headers[i].flags;
		struct frame_header back = {0};
		int r = frame_header_decode(b, &back);
		if (r != headers[i].want)
			fail_msg("%s: %d", headers[i].what, r);
		if (r == 0) {
			uint8_t c[FRAME_HEADER_LEN];
			frame_header_encode(&back, c);
			assert_memory_equal(b, c, sizeof(b));
		}
	}
}

static size_t put_frame(uint8_t *p, size_t body, uint8_t fill)
{
	struct frame_header h = {.type = FRAME_DATA, .length = (uint32_t)body + FRAME_TAG_LEN};
	memset(h.channel, fill, sizeof(h.channel));
	frame_header_encode(&h, p);
	memset(p + FRAME_HEADER_LEN, fill, h.length);
	return FRAME_HEADER_LEN + h.length;
}

/* However the stream is cut, the same frames come out. */
static void test_splits(void **state)
{
	(void)state;
	enum { N = 40 };
	uint8_t *stream = malloc(N * FRAME_MAX), *buf = malloc(2 * FRAME_MAX);
	size_t sizes[N], total = 0;
	srandom(1);
	for (int i = 0; i < N; i++) {
		sizes[i] = 1 + (size_t)random() % (i % 4 ? 200 : FRAME_DATA_MAX);
		total += put_frame(stream + total, sizes[i], (uint8_t)i);
	}
	for (int round = 0; round < 50; round++) {
		size_t fed = 0, have = 0;
		int seen = 0;
		while (fed < total) {
			size_t n = 1 + (size_t)random() % (round < 10 ? 61 : 70000);
			if (n > total - fed)
				n = total - fed;
			if (n > 2 * FRAME_MAX - have)
				n = 2 * FRAME_MAX - have;
			memcpy(buf + have, stream + fed, n);
			have += n;
			fed += n;
			struct frame_cursor c = {.buf = buf, .len = have};
			struct frame_header h;
			uint8_t *f;
			int r;
			while ((r = frame_next(&c, &h, &f)) == 1) {
				assert_int_equal(h.length, sizes[seen] + FRAME_TAG_LEN);
				assert_int_equal(h.channel[3], seen);
				assert_int_equal(f[FRAME_HEADER_LEN + h.length - 1], seen);
				seen++;
			}
			assert_int_equal(r, 0);
			memmove(buf, buf + c.at, have - c.at);
			have -= c.at;
		}
		assert_int_equal(seen, N);
		assert_int_equal(have, 0);
	}
	free(stream);
	free(buf);
}

static void test_preamble(void **state)
{
	(void)state;
	struct preamble_hello h = {.index = 1, .from = "alpha", .to = "beta-2.x"}, back;
	memset(h.nonce, 9, sizeof(h.nonce));
	uint8_t b[PREAMBLE_HELLO_MAX];
	int n = preamble_hello_encode(&h, b);
	assert_true(n > 0);
	for (int i = 0; i < n; i++)
		assert_int_equal(preamble_hello_decode(b, (size_t)i, &back), 0);
	assert_int_equal(preamble_hello_decode(b, (size_t)n, &back), n);
	assert_memory_equal(&h, &back, sizeof(h));
	for (int i = 0; i < 5; i++) {
		b[i] ^= 1;
		assert_int_equal(preamble_hello_decode(b, (size_t)n, &back), -EBADMSG);
		b[i] ^= 1;
	}
	static const struct {
		int at;
		uint8_t value;
	} bad[] = {
		{5, PREAMBLE_INDEX_MAX + 1}, {6, 0}, {7, 0}, {6, 129}, {7, 255}, {8, '/'}, {13, 0}};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		uint8_t was = b[bad[i].at];
		b[bad[i].at] = bad[i].value;
		assert_int_equal(preamble_hello_decode(b, (size_t)n, &back), -EBADMSG);
		b[bad[i].at] = was;
	}
	strcpy(h.from, "no/slash");
	assert_int_equal(preamble_hello_encode(&h, b), -EINVAL);
	memset(h.from, 'a', sizeof(h.from));
	assert_int_equal(preamble_hello_encode(&h, b), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_headers),
		cmocka_unit_test(test_splits),
		cmocka_unit_test(test_preamble),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
