/* The text of /proc/PID/cgroup, and the unit in its path. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attest/parse.h"
#include "identity/evidence.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *text = (const char *)data, *path, *unit;
	size_t len, n;
	char clean[64];
	if (parse_cgroup(text, size, &path, &len) == 0) {
		if (path < text || path + len > text + size)
			abort();
		if (cgroup_unit(path, len, &unit, &n))
			text_scrub(unit, n, clean, sizeof(clean));
		text_scrub_path(path, len, clean, sizeof(clean));
	}
	return 0;
}
