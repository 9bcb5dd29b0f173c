/* The text of /proc/PID/mountinfo. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/mountinfo.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *at = text;
	if (!text)
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	struct mount_line m;
	int r;
	while ((r = mountinfo_next(&at, &m)) != 0)
		if (at > text + size || (r > 0 && (m.point < text || m.type <= m.point ||
							  m.point + strlen(m.point) > m.type)))
			abort();
	free(text);
	return 0;
}
