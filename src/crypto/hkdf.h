/* HKDF with SHA-256 (RFC 5869), and the labelled form that all of Belay's derivations use. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/secret.h"

#define HKDF_LABEL_MAX 64
#define HKDF_CONTEXT_MAX 255

int hkdf_extract(const void *salt, size_t salt_len, const void *ikm, size_t ikm_len,
	struct secret *ret) _must_check_;
/* len at most 255 * 32. */
int hkdf_expand(const struct secret *prk, const void *info, size_t info_len, void *ret,
	size_t len) _must_check_;
/*
 * HKDF-Expand with info = uint16 len, uint8 length and bytes of "belay " label, uint8 length and
 * bytes of context: the shape of RFC 8446, 7.1, so that no two (label, context) pairs give the same
 * info.
 */
int hkdf_expand_label(const struct secret *prk, const char *label, const void *context,
	size_t context_len, void *ret, size_t len) _must_check_;
