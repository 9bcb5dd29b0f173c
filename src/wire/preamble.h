/*
 * The preamble of a data connection (docs/protocol.md, 3): three messages that prove in both
 * directions who is at the other end before a frame is read. Pure codec: nonces and MACs are the
 * caller's.
 *
 * The input of hello is anybody's who reaches the port: fixed maximum, names checked against a
 * closed alphabet.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define PREAMBLE_VERSION 1
#define PREAMBLE_NAME_MAX 128u
#define PREAMBLE_NONCE_LEN 32u
#define PREAMBLE_MAC_LEN 32u
#define PREAMBLE_INDEX_MAX 7u
/* magic 4, version 1, index 1, two lengths, names, nonce */
#define PREAMBLE_HELLO_MAX (8u + 2 * PREAMBLE_NAME_MAX + PREAMBLE_NONCE_LEN)
#define PREAMBLE_REPLY_LEN (PREAMBLE_NONCE_LEN + PREAMBLE_MAC_LEN)
/* what the MACs cover at most */
#define PREAMBLE_MAX (PREAMBLE_HELLO_MAX + PREAMBLE_REPLY_LEN)

struct preamble_hello {
	uint8_t index;
	char from[PREAMBLE_NAME_MAX + 1]; /* the dialer */
	char to[PREAMBLE_NAME_MAX + 1];
	uint8_t nonce[PREAMBLE_NONCE_LEN];
};

/* Return: bytes written, or -EINVAL when a name is not one. */
int preamble_hello_encode(
	const struct preamble_hello *h, uint8_t out[PREAMBLE_HELLO_MAX]) _must_check_;
/* Return: bytes of a complete hello at the start of buf, 0 when more are needed, -EBADMSG. */
int preamble_hello_decode(const uint8_t *buf, size_t len, struct preamble_hello *ret) _must_check_;
