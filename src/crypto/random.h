/* Random bytes from the kernel. Ends the process if the kernel refuses: nothing may go on without.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/secret.h"

void random_bytes(void *p, size_t n);

static inline void random_secret(struct secret *ret)
{
	random_bytes(ret->bytes, sizeof(ret->bytes));
}
