/*
 * The text one administrator gives another: "belay1." and base64 of address length, address, port,
 * SHA-256 of the CA, 32 random bytes, name of the node to be. It is a secret until it was used.
 */
#pragma once

#include "audit/base64.h"
#include "base/addr.h"
#include "guard/guard.h"

#define TOKEN_PREFIX "belay1."
#define TOKEN_RANDOM 32
#define TOKEN_FIXED (1 + 16 + 2 + 32 + TOKEN_RANDOM)
#define TOKEN_MAX (TOKEN_FIXED + NAME_MAX_LEN)
#define TOKEN_TEXT_MAX (sizeof(TOKEN_PREFIX) + BASE64_LEN(TOKEN_MAX))

struct token {
	struct addr to; /* where the inviting node listens */
	uint8_t ca_sha256[32], secret[TOKEN_RANDOM];
	char node[NAME_MAX_LEN];
};

void token_format(const struct token *t, char ret[TOKEN_TEXT_MAX]);
/* Exactly what token_format() writes, nothing else: -EINVAL. */
int token_parse(const char *text, struct token *ret) _must_check_;
