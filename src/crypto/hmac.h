/* HMAC-SHA-256, and a comparison in constant time (base/secret.h: secret_equal). */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define HMAC_LEN 32

int hmac_sha256(const void *key, size_t key_len, const void *data, size_t len,
	uint8_t ret[HMAC_LEN]) _must_check_;
