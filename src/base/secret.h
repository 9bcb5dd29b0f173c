/*
 * Secrets have a type of their own, so that they are never printed, compared or left behind by
 * accident: zeroed by their destructor, compared in constant time.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "base/cleanup.h"

#define SECRET_LEN 32

struct secret {
	uint8_t bytes[SECRET_LEN];
};

static inline void secret_zero(void *p, size_t n)
{
	explicit_bzero(p, n);
}

static inline void secret_clear(struct secret *s)
{
	secret_zero(s->bytes, sizeof(s->bytes));
}

/* Constant time in n: the time says nothing about where two values differ. */
static inline bool secret_equal(const uint8_t *a, const uint8_t *b, size_t n)
{
	uint8_t d = 0;
	for (size_t i = 0; i < n; i++)
		d = (uint8_t)(d | (a[i] ^ b[i]));
	return d == 0;
}

#define _cleanup_secret_ _cleanup_(secret_clear)
