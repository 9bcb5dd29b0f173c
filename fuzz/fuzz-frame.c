/* Any bytes as a data connection's stream: frames never leave the buffer and re-encode to what was
 * read. */
#include <stdlib.h>
#include <string.h>

#include "wire/frame.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *buf = malloc(size ? size : 1);
	memcpy(buf, data, size);
	struct frame_cursor c = {.buf = buf, .len = size};
	struct frame_header h;
	uint8_t *f, again[FRAME_HEADER_LEN];
	while (frame_next(&c, &h, &f) == 1) {
		frame_header_encode(&h, again);
		if (memcmp(again, f, sizeof(again)) != 0 ||
			f + FRAME_HEADER_LEN + h.length > buf + size)
			abort();
		f[FRAME_HEADER_LEN + h.length - 1] ^= 1; /* must be inside */
	}
	free(buf);
	return 0;
}
