/* Base64 (RFC 4648, 4) with padding. Decoding is strict: one text for each value, so that no
 * flipped bit hides. */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/cleanup.h"

#define BASE64_LEN(n) (((n) + 2) / 3 * 4)

/* Writes BASE64_LEN(n) characters and a NUL. */
static inline void base64_encode(const uint8_t *in, size_t n, char *out)
{
	static const char abc[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	for (size_t i = 0; i < n; i += 3) {
		uint32_t v = (uint32_t)in[i] << 16;
		if (i + 1 < n)
			v |= (uint32_t)in[i + 1] << 8;
		if (i + 2 < n)
			v |= in[i + 2];
		*out++ = abc[v >> 18];
		*out++ = abc[v >> 12 & 63];
		*out++ = i + 1 < n ? abc[v >> 6 & 63] : '=';
		*out++ = i + 2 < n ? abc[v & 63] : '=';
	}
	*out = '\0';
}

static inline int base64_digit(char c)
{
	if (c >= 'A' && c <= 'Z')
		return c - 'A';
	if (c >= 'a' && c <= 'z')
		return c - 'a' + 26;
	if (c >= '0' && c <= '9')
		return c - '0' + 52;
	return c == '+' ? 62 : c == '/' ? 63 : -1;
}

/* in must be the one encoding of exactly n bytes: 0, else -1. */
static inline int base64_decode(const char *in, size_t len, uint8_t *out, size_t n)
{
	size_t digits = (n * 8 + 5) / 6;
	uint32_t v = 0;
	unsigned bits = 0;
	if (len != BASE64_LEN(n))
		return -1;
	for (size_t i = 0; i < digits; i++) {
		int d = base64_digit(in[i]);
		if (d < 0)
			return -1;
		v = v << 6 | (uint32_t)d;
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			*out++ = (uint8_t)(v >> bits);
		}
	}
	if (v & ((1u << bits) - 1))
		return -1;
	for (size_t i = digits; i < len; i++)
		if (in[i] != '=')
			return -1;
	return 0;
}
