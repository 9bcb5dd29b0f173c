/* Ed25519 signatures over exact bytes. The private key is its 32-byte seed. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/secret.h"

#define ED25519_PUBLIC_LEN 32
#define ED25519_SIGNATURE_LEN 64

/* A fresh key is random_secret(); this gives its public half. */
int ed25519_public(const struct secret *seed, uint8_t ret[ED25519_PUBLIC_LEN]) _must_check_;
int ed25519_sign(const struct secret *seed, const void *msg, size_t len,
	uint8_t ret[ED25519_SIGNATURE_LEN]) _must_check_;
/* 0, or -EKEYREJECTED. */
int ed25519_verify(const uint8_t public_key[ED25519_PUBLIC_LEN], const void *msg, size_t len,
	const uint8_t signature[ED25519_SIGNATURE_LEN]) _must_check_;
