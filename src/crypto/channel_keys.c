/*
 * The key schedule of channels (channel_keys.h). All inputs have fixed lengths, so their
 * concatenations are unambiguous. Cost: five HMACs for a new channel, three more for a record key.
 */
#include "crypto/channel_keys.h"

#include <string.h>

#include "crypto/hkdf.h"

int channel_secrets_derive(const struct secret *channel_key,
	const uint8_t initiator_nonce[CHANNEL_NONCE_LEN],
	const uint8_t responder_nonce[CHANNEL_NONCE_LEN], const struct secret *exporter,
	const uint8_t channel[CHANNEL_ID_LEN], struct channel_secrets *ret)
{
	uint8_t salt[2 * CHANNEL_NONCE_LEN + SECRET_LEN] = {0};
	_cleanup_secret_ struct secret master;
	memcpy(salt, initiator_nonce, CHANNEL_NONCE_LEN);
	memcpy(salt + CHANNEL_NONCE_LEN, responder_nonce, CHANNEL_NONCE_LEN);
	if (exporter)
		memcpy(salt + sizeof(salt) - SECRET_LEN, exporter->bytes, SECRET_LEN);
	int r = hkdf_extract(
		salt, sizeof(salt), channel_key->bytes, sizeof(channel_key->bytes), &master);
	secret_zero(salt, sizeof(salt));
	if (!r)
		r = hkdf_expand_label(&master, "channel initiator", channel, CHANNEL_ID_LEN,
			ret->initiator.bytes, SECRET_LEN);
	if (!r)
		r = hkdf_expand_label(&master, "channel responder", channel, CHANNEL_ID_LEN,
			ret->responder.bytes, SECRET_LEN);
	if (r)
		channel_secrets_clear(ret);
	return r;
}

int channel_record_key_derive(const struct secret *traffic, struct channel_record_key *ret)
{
	int r = hkdf_expand_label(traffic, "key", NULL, 0, ret->key.bytes, SECRET_LEN);
	if (!r)
		r = hkdf_expand_label(traffic, "iv", NULL, 0, ret->iv, sizeof(ret->iv));
	if (r)
		channel_record_key_clear(ret);
	return r;
}

int channel_secret_next(struct secret *traffic)
{
	_cleanup_secret_ struct secret next;
	int r = hkdf_expand_label(traffic, "next", NULL, 0, next.bytes, SECRET_LEN);
	if (!r)
		*traffic = next;
	return r;
}

void channel_record_nonce(
	const uint8_t iv[AEAD_NONCE_LEN], uint64_t counter, uint8_t ret[AEAD_NONCE_LEN])
{
	memcpy(ret, iv, AEAD_NONCE_LEN);
	for (unsigned i = 0; i < 8; i++)
		ret[AEAD_NONCE_LEN - 1 - i] ^= (uint8_t)(counter >> (8 * i));
}

int channel_data_secret(const struct secret *exporter,
	const uint8_t dialer_nonce[CHANNEL_NONCE_LEN],
	const uint8_t acceptor_nonce[CHANNEL_NONCE_LEN], struct secret *ret)
{
	static const char info[] = "belay data 1";
	uint8_t salt[2 * CHANNEL_NONCE_LEN];
	_cleanup_secret_ struct secret root;
	memcpy(salt, dialer_nonce, CHANNEL_NONCE_LEN);
	memcpy(salt + CHANNEL_NONCE_LEN, acceptor_nonce, CHANNEL_NONCE_LEN);
	int r = hkdf_extract(salt, sizeof(salt), exporter->bytes, SECRET_LEN, &root);
	if (!r)
		r = hkdf_expand(&root, info, sizeof(info) - 1, ret->bytes, SECRET_LEN);
	return r;
}
