/*
 * AES-256-GCM with 96-bit nonces: one interface, two providers. The caller guarantees that a nonce
 * is used once under a key (crypto/channel_keys.h counts). A `struct aead` holds an expanded key
 * and no per-message state that matters; it belongs to one thread at a time.
 *
 * Cost: no allocation and no system call to seal or open. Both work out of place, or in place (in
 * == out); partly overlapping buffers are not allowed.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/secret.h"

#define AEAD_NONCE_LEN 12
#define AEAD_TAG_LEN 16
#define AEAD_LEN_MAX (1u << 30) /* of text and of additional data */

enum aead_provider {
	AEAD_BEST,     /* the fastest this CPU and build have */
	AEAD_IPSEC_MB, /* intel-ipsec-mb */
	AEAD_OPENSSL,
	_AEAD_N
};

struct aead;

/* Of this build, on this CPU. AEAD_BEST always is. */
bool aead_available(enum aead_provider p);
/* "intel-ipsec-mb", "openssl"; of AEAD_BEST what it stands for. */
const char *aead_provider_name(enum aead_provider p);

/* -ENOTSUP if the provider is not available. */
int aead_new(enum aead_provider p, const struct secret *key, struct aead **ret) _must_check_;
/* Erases the key. Accepts NULL, returns NULL. */
struct aead *aead_free(struct aead *a);
/* Replaces the key in place: the next epoch. */
int aead_rekey(struct aead *a, const struct secret *key) _must_check_;

/* out takes len bytes, tag AEAD_TAG_LEN. */
int aead_seal(struct aead *a, const uint8_t nonce[AEAD_NONCE_LEN], const void *aad, size_t aad_len,
	const void *in, size_t len, void *out, uint8_t tag[AEAD_TAG_LEN]) _must_check_;
/* -EBADMSG if anything was altered; then out holds len zeros, never unverified text. */
int aead_open(struct aead *a, const uint8_t nonce[AEAD_NONCE_LEN], const void *aad, size_t aad_len,
	const void *in, size_t len, const uint8_t tag[AEAD_TAG_LEN], void *out) _must_check_;

static inline void aead_freep(struct aead **a)
{
	*a = aead_free(*a);
}
#define _cleanup_aead_ _cleanup_(aead_freep)
