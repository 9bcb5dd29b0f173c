/* Random bytes (random.h). One getrandom(2) per 256 bytes. */
#include "crypto/random.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

void random_bytes(void *p, size_t n)
{
	uint8_t *b = p;
	while (n) {
		ssize_t r = getrandom(b, n < 256 ? n : 256, 0);
		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0)
			abort(); /* no key may ever be made without it */
		b += r;
		n -= (size_t)r;
	}
}
