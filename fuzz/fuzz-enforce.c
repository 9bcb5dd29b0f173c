/* What enforce reads: the first byte says whether /proc/PID/status or a dump of Unix sockets. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "enforce/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (!size)
		return 0;
	/* Its own allocation, so that one byte too far is seen; malloc aligns. */
	char *text = malloc(size);
	if (!text)
		return 0;
	memcpy(text, data + 1, size - 1);
	text[size - 1] = '\0';
	if (data[0] & 1) {
		struct target_ids ids;
		if (parse_ids(text, &ids) == 0 && ids.n_groups > 64)
			abort();
		(void)parse_signalled(text);
		(void)parse_number(text, "Tgid");
		int fds[RIGHTS_MAX];
		size_t n;
		if (parse_rights(text, size - 1, fds, &n) == 0 && n > RIGHTS_MAX)
			abort();
	} else {
		struct stat st = {.st_dev = 0x801, .st_ino = 7};
		struct socket_wanted file = {.states = ~0u, .file = &st},
				     inode = {.states = ~0u, .socket = 99},
				     peer = {.states = ~0u, .peer = 99};
		(void)parse_sockets(text, size - 1, 1, &file);
		(void)parse_sockets(text, size - 1, 1, &inode);
		(void)parse_sockets(text, size - 1, 1, &peer);
	}
	free(text);
	return 0;
}
