/* HMAC-SHA-256 (hmac.h) by OpenSSL. */
#include "crypto/hmac.h"

#include <errno.h>
#include <limits.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

int hmac_sha256(
	const void *key, size_t key_len, const void *data, size_t len, uint8_t ret[HMAC_LEN])
{
	unsigned n = HMAC_LEN;
	if (key_len > INT_MAX)
		return -EINVAL;
	/* OpenSSL takes a NULL key for "the key of before"; an empty key is not that. */
	if (!HMAC(EVP_sha256(), key_len ? key : "", (int)key_len, data, len, ret, &n) ||
		n != HMAC_LEN)
		return -ENOMEM;
	return 0;
}
