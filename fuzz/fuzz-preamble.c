/* Any bytes as the first ones on the data port: what decodes encodes to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "wire/preamble.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct preamble_hello h;
	uint8_t again[PREAMBLE_HELLO_MAX];
	int n = preamble_hello_decode(data, size, &h);
	if (n > 0 && (preamble_hello_encode(&h, again) != n || memcmp(again, data, (size_t)n) != 0))
		abort();
	return 0;
}
