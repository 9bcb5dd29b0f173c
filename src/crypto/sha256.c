/*
 * SHA-256 (sha256.h) by OpenSSL's plain functions: deprecated in favour of a heap object per hash,
 * which would bring allocation and failure to every caller. Cost: the hash; no allocation, no
 * system call.
 */
#define OPENSSL_SUPPRESS_DEPRECATED
#include "crypto/sha256.h"

#include <openssl/crypto.h>
#include <openssl/sha.h>

_Static_assert(sizeof(SHA256_CTX) <= sizeof(struct sha256), "opaque state too small");
_Static_assert(SHA256_LEN == SHA256_DIGEST_LENGTH, "digest length");

static SHA256_CTX *ctx(struct sha256 *h)
{
	return (SHA256_CTX *)h->opaque;
}

void sha256_init(struct sha256 *h)
{
	(void)SHA256_Init(ctx(h));
}

void sha256_update(struct sha256 *h, const void *p, size_t n)
{
	(void)SHA256_Update(ctx(h), p, n);
}

void sha256_final(struct sha256 *h, uint8_t ret[SHA256_LEN])
{
	(void)SHA256_Final(ret, ctx(h));
	OPENSSL_cleanse(h, sizeof(*h));
}

void sha256_of(const void *p, size_t n, uint8_t ret[SHA256_LEN])
{
	struct sha256 h;
	sha256_init(&h);
	sha256_update(&h, p, n);
	sha256_final(&h, ret);
}
