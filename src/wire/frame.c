/* Frames of a data connection (frame.h). Cost: no allocation, no copy; a header is 24 bytes read
 * once. */
#include "wire/frame.h"

#include <errno.h>
#include <string.h>

static void put32(uint8_t *p, uint32_t v)
{
	p[0] = (uint8_t)(v >> 24);
	p[1] = (uint8_t)(v >> 16);
	p[2] = (uint8_t)(v >> 8);
	p[3] = (uint8_t)v;
}

static uint32_t get32(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* What a type's plaintext may be long. A type without a row is not ours. */
static const struct {
	uint32_t min, max;
} body[_FRAME_N] = {
	[FRAME_OPEN] = {0, 0},
	[FRAME_DATA] = {1, FRAME_DATA_MAX},
	[FRAME_WINDOW] = {4, 4},
	[FRAME_FIN] = {0, 0},
	[FRAME_RESET] = {1, 1},
	[FRAME_DATAGRAM] = {0, FRAME_DATAGRAM_MAX},
};

void frame_header_encode(const struct frame_header *h, uint8_t out[FRAME_HEADER_LEN])
{
	out[0] = (uint8_t)h->type;
	out[1] = 0;
	out[2] = (uint8_t)(h->epoch >> 8);
	out[3] = (uint8_t)h->epoch;
	put32(out + 4, h->length);
	memcpy(out + 8, h->channel, FRAME_CHANNEL_LEN);
}

int frame_header_decode(const uint8_t in[FRAME_HEADER_LEN], struct frame_header *ret)
{
	uint32_t length = get32(in + 4);
	if (in[0] == FRAME_NONE || in[0] >= _FRAME_N || in[1] != 0)
		return -EBADMSG;
	if (length < body[in[0]].min + FRAME_TAG_LEN || length > body[in[0]].max + FRAME_TAG_LEN)
		return -EBADMSG;
	ret->type = (enum frame_type)in[0];
	ret->epoch = (uint16_t)(in[2] << 8 | in[3]);
	ret->length = length;
	memcpy(ret->channel, in + 8, FRAME_CHANNEL_LEN);
	return 0;
}

int frame_next(struct frame_cursor *c, struct frame_header *ret, uint8_t **ret_frame)
{
	size_t left = c->len - c->at;
	if (left < FRAME_HEADER_LEN)
		return 0;
	int r = frame_header_decode(c->buf + c->at, ret);
	if (r < 0)
		return r;
	if (left - FRAME_HEADER_LEN < ret->length)
		return 0;
	*ret_frame = c->buf + c->at;
	c->at += FRAME_HEADER_LEN + ret->length;
	return 1;
}

void frame_credit_encode(uint32_t credit, uint8_t out[4])
{
	put32(out, credit);
}

uint32_t frame_credit_decode(const uint8_t in[4])
{
	return get32(in);
}

const char *frame_reset_name(uint8_t reason)
{
	static const char *const names[_FRAME_RESET_N] = {
		[FRAME_RESET_PROGRAM] = "reset by the program at the other side",
		[FRAME_RESET_ENDED] = "ended by the other node",
		[FRAME_RESET_IDLE] = "idle at the other node",
		[FRAME_RESET_TAMPERED] = "the other node found a tampered frame",
		[FRAME_RESET_LIMIT] = "the other node ran into a limit",
	};
	return reason < _FRAME_RESET_N && names[reason] ? names[reason]
							: "reset for no known reason";
}
