/* A list of removed nodes: what parses has one form. */
#include <stdlib.h>
#include <string.h>

#include "wire/removals.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct removals r;
	static uint8_t again[REMOVALS_BYTES_MAX];
	if (removals_decode(data, size, &r) == 0 &&
		(removals_encode(&r, again) != (int)size || memcmp(again, data, size) != 0))
		abort();
	return 0;
}
