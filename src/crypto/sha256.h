/* SHA-256. Never allocates and cannot fail, so that hashing needs no error path. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define SHA256_LEN 32

struct sha256 {
	uint64_t opaque[14];
};

void sha256_init(struct sha256 *h);
void sha256_update(struct sha256 *h, const void *p, size_t n);
/* Erases the state. */
void sha256_final(struct sha256 *h, uint8_t ret[SHA256_LEN]);
void sha256_of(const void *p, size_t n, uint8_t ret[SHA256_LEN]);
