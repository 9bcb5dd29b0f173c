/* Ed25519 (ed25519.h) by OpenSSL. A signature costs about 40 us, a verification about 110 us; both
 * allocate. */
#include "crypto/ed25519.h"

#include <errno.h>
#include <openssl/evp.h>

static void pkey_freep(EVP_PKEY **k)
{
	EVP_PKEY_free(*k);
}

static void md_freep(EVP_MD_CTX **c)
{
	EVP_MD_CTX_free(*c);
}

int ed25519_public(const struct secret *seed, uint8_t ret[ED25519_PUBLIC_LEN])
{
	_cleanup_(pkey_freep) EVP_PKEY *k = EVP_PKEY_new_raw_private_key(
		EVP_PKEY_ED25519, NULL, seed->bytes, sizeof(seed->bytes));
	size_t n = ED25519_PUBLIC_LEN;
	if (!k || EVP_PKEY_get_raw_public_key(k, ret, &n) != 1 || n != ED25519_PUBLIC_LEN)
		return -ENOMEM;
	return 0;
}

int ed25519_sign(
	const struct secret *seed, const void *msg, size_t len, uint8_t ret[ED25519_SIGNATURE_LEN])
{
	_cleanup_(pkey_freep) EVP_PKEY *k = EVP_PKEY_new_raw_private_key(
		EVP_PKEY_ED25519, NULL, seed->bytes, sizeof(seed->bytes));
	_cleanup_(md_freep) EVP_MD_CTX *c = EVP_MD_CTX_new();
	size_t n = ED25519_SIGNATURE_LEN;
	if (!k || !c || EVP_DigestSignInit(c, NULL, NULL, NULL, k) != 1 ||
		EVP_DigestSign(c, ret, &n, msg, len) != 1 || n != ED25519_SIGNATURE_LEN)
		return -ENOMEM;
	return 0;
}

int ed25519_verify(const uint8_t public_key[ED25519_PUBLIC_LEN], const void *msg, size_t len,
	const uint8_t signature[ED25519_SIGNATURE_LEN])
{
	_cleanup_(pkey_freep) EVP_PKEY *k =
		EVP_PKEY_new_raw_public_key(EVP_PKEY_ED25519, NULL, public_key, ED25519_PUBLIC_LEN);
	_cleanup_(md_freep) EVP_MD_CTX *c = EVP_MD_CTX_new();
	if (!k || !c || EVP_DigestVerifyInit(c, NULL, NULL, NULL, k) != 1 ||
		EVP_DigestVerify(c, signature, ED25519_SIGNATURE_LEN, msg, len) != 1)
		return -EKEYREJECTED;
	return 0;
}
