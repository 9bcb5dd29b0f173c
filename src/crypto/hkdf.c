/*
 * HKDF (hkdf.h, RFC 5869): extract is one HMAC, expand the loop of section 2.3. Inputs are our own
 * secrets and public nonces of fixed length. Cost: one HMAC by OpenSSL (about a microsecond) per 32
 * bytes; no system call.
 */
#include "crypto/hkdf.h"

#include <errno.h>
#include <string.h>

#include "crypto/hmac.h"

#define HKDF_INFO_MAX 512

int hkdf_extract(
	const void *salt, size_t salt_len, const void *ikm, size_t ikm_len, struct secret *ret)
{
	static const uint8_t zero[HMAC_LEN];
	if (!salt_len) {
		salt = zero;
		salt_len = sizeof(zero);
	}
	return hmac_sha256(salt, salt_len, ikm, ikm_len, ret->bytes);
}

int hkdf_expand(const struct secret *prk, const void *info, size_t info_len, void *ret, size_t len)
{
	uint8_t block[HMAC_LEN + HKDF_INFO_MAX + 1], t[HMAC_LEN];
	size_t t_len = 0;
	uint8_t *out = ret, n = 0;
	int r = 0;
	if (info_len > HKDF_INFO_MAX || len > 255 * HMAC_LEN)
		return -EINVAL;
	while (len && !r) {
		memcpy(block, t, t_len);
		if (info_len)
			memcpy(block + t_len, info, info_len);
		block[t_len + info_len] = ++n;
		r = hmac_sha256(prk->bytes, sizeof(prk->bytes), block, t_len + info_len + 1, t);
		t_len = sizeof(t);
		size_t k = len < t_len ? len : t_len;
		memcpy(out, t, k);
		out += k;
		len -= k;
	}
	secret_zero(block, sizeof(block));
	secret_zero(t, sizeof(t));
	return r;
}

int hkdf_expand_label(const struct secret *prk, const char *label, const void *context,
	size_t context_len, void *ret, size_t len)
{
	static const char prefix[] = "belay ";
	uint8_t info[2 + 1 + sizeof(prefix) + HKDF_LABEL_MAX + 1 + HKDF_CONTEXT_MAX];
	size_t prefix_len = sizeof(prefix) - 1, label_len = strlen(label), n = 0;
	if (label_len > HKDF_LABEL_MAX || context_len > HKDF_CONTEXT_MAX || len > 255 * HMAC_LEN)
		return -EINVAL;
	info[n++] = (uint8_t)(len >> 8);
	info[n++] = (uint8_t)len;
	info[n++] = (uint8_t)(prefix_len + label_len);
	memcpy(info + n, prefix, prefix_len);
	n += prefix_len;
	memcpy(info + n, label, label_len);
	n += label_len;
	info[n++] = (uint8_t)context_len;
	if (context_len)
		memcpy(info + n, context, context_len);
	n += context_len;
	return hkdf_expand(prk, info, n, ret, len);
}
