/*
 * From a channel key to the keys that seal its records. docs/protocol.md holds the argument; the
 * labels:
 *
 *   master    = HKDF-Extract(salt = Nc | Ns | exporter, ikm = channel key)
 *   secret[d] = Expand-Label(master, "channel initiator" or "channel responder", channel id, 32)
 *   key       = Expand-Label(secret[d], "key", "", 32)
 *   iv        = Expand-Label(secret[d], "iv", "", 12)
 *   next      = Expand-Label(secret[d], "next", "", 32)     then secret[d] is erased
 *
 * Nc and Ns are the connecting and the receiving guard's nonces. Expand-Label is
 * hkdf_expand_label(). "Initiator" is the connecting side. The exporter binds the channel to the
 * two nodes' TLS session: whoever learns a channel key alone, or replays it into another session,
 * derives nothing. Record counters start at 0 and go on over epochs: the lost tail of an epoch
 * shows in the next.
 */
#pragma once

#include <stdint.h>

#include "base/cleanup.h"
#include "base/secret.h"
#include "crypto/aead.h"

#define CHANNEL_ID_LEN 16
#define CHANNEL_NONCE_LEN 32

struct channel_secrets {
	struct secret initiator; /* seals what the initiator sends */
	struct secret responder;
};

struct channel_record_key {
	struct secret key;
	uint8_t iv[AEAD_NONCE_LEN];
};

/* exporter NULL for a channel within one node (32 zero bytes stand for it). */
int channel_secrets_derive(const struct secret *channel_key,
	const uint8_t initiator_nonce[CHANNEL_NONCE_LEN],
	const uint8_t responder_nonce[CHANNEL_NONCE_LEN], const struct secret *exporter,
	const uint8_t channel[CHANNEL_ID_LEN], struct channel_secrets *ret) _must_check_;
/* The keys of the epoch `traffic` stands at. */
int channel_record_key_derive(
	const struct secret *traffic, struct channel_record_key *ret) _must_check_;
/* Steps to the next epoch in place: the old secret cannot be had back. */
int channel_secret_next(struct secret *traffic) _must_check_;
/* Nonce of record `counter`: the iv with the counter, big endian, xored into its last 8 bytes. */
void channel_record_nonce(
	const uint8_t iv[AEAD_NONCE_LEN], uint64_t counter, uint8_t ret[AEAD_NONCE_LEN]);
/*
 * The secret with which two nodes' conns prove themselves on data connections:
 * HKDF(salt = dialer's hello nonce | acceptor's hello nonce, ikm = exporter, info = "belay data
 * 1").
 */
int channel_data_secret(const struct secret *exporter,
	const uint8_t dialer_nonce[CHANNEL_NONCE_LEN],
	const uint8_t acceptor_nonce[CHANNEL_NONCE_LEN], struct secret *ret) _must_check_;

static inline void channel_secrets_clear(struct channel_secrets *s)
{
	secret_zero(s, sizeof(*s));
}
static inline void channel_record_key_clear(struct channel_record_key *k)
{
	secret_zero(k, sizeof(*k));
}
