/* Frames under a channel's keys (seal.h). Cost: one AEAD call a frame; stepping an epoch three HKDF
 * expansions. */
#include "conn/seal.h"

#include <errno.h>

#include "crypto/channel_keys.h"

static int seal_key(struct seal *s, const struct secret *traffic)
{
	struct channel_record_key k;
	int r = channel_record_key_derive(traffic, &k);
	if (r == 0)
		r = s->aead ? aead_rekey(s->aead, &k.key) : aead_new(AEAD_BEST, &k.key, &s->aead);
	if (r == 0)
		memcpy(s->iv, k.iv, sizeof(s->iv));
	channel_record_key_clear(&k);
	return r;
}

int seal_init(struct seal *s, const struct secret *traffic, uint64_t now_ms)
{
	memset(s, 0, sizeof(*s));
	s->traffic = *traffic;
	s->since_ms = now_ms;
	return seal_key(s, &s->traffic);
}

void seal_clear(struct seal *s)
{
	aead_free(s->aead);
	secret_zero(s, sizeof(*s));
}

/* The old secret is overwritten: what was sealed under it cannot be opened from here any more. */
static int seal_step(struct seal *s, uint64_t now_ms)
{
	if (s->epoch == UINT16_MAX)
		return -EOVERFLOW;
	int r = channel_secret_next(&s->traffic);
	if (r == 0)
		r = seal_key(s, &s->traffic);
	s->epoch++;
	s->frames = s->bytes = 0;
	s->since_ms = now_ms;
	return r;
}

int seal_frame(struct seal *s, const struct seal_limits *l, uint64_t now_ms, enum frame_type type,
	const uint8_t channel[FRAME_CHANNEL_LEN], uint8_t *frame, uint32_t len)
{
	if (s->frames >= l->frames || s->bytes + len > l->bytes || now_ms - s->since_ms > l->ms) {
		/* A frame larger than the whole limit still goes, alone in its epoch. */
		int r = s->frames ? seal_step(s, now_ms) : 0;
		if (r < 0)
			return r;
	}
	struct frame_header h = {.type = type, .epoch = s->epoch, .length = len + FRAME_TAG_LEN};
	memcpy(h.channel, channel, FRAME_CHANNEL_LEN);
	frame_header_encode(&h, frame);
	uint8_t nonce[AEAD_NONCE_LEN], *body = frame + FRAME_HEADER_LEN;
	channel_record_nonce(s->iv, s->counter++, nonce);
	s->frames++;
	s->bytes += len;
	int r = aead_seal(s->aead, nonce, frame, FRAME_HEADER_LEN, body, len, body, body + len);
	return r < 0 ? r : (int)(FRAME_OVERHEAD + len);
}

int seal_open(struct seal *s, const struct frame_header *h, uint8_t *frame)
{
	/* An attacker can make this step early; the frame then does not open and the channel ends
	 * either way. */
	if (h->epoch != s->epoch) {
		if (s->epoch == UINT16_MAX || h->epoch != s->epoch + 1 || seal_step(s, 0) < 0)
			return -EBADMSG;
	}
	uint32_t len = h->length - FRAME_TAG_LEN;
	uint8_t nonce[AEAD_NONCE_LEN], *body = frame + FRAME_HEADER_LEN;
	channel_record_nonce(s->iv, s->counter, nonce);
	if (aead_open(s->aead, nonce, frame, FRAME_HEADER_LEN, body, len, body + len, body) < 0)
		return -EBADMSG;
	s->counter++;
	return 0;
}
