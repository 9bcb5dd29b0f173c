/* The text of /proc/PID/maps: paths in it are any process's choice. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attest/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *p = text;
	struct mapping m;
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	while (parse_maps_next(&p, text + size, &m) > 0)
		if (strlen(m.path) > size || p > text + size)
			abort();
	free(text);
	return 0;
}
