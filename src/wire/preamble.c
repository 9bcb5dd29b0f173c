/* The preamble of a data connection (preamble.h). Runs once a connection; refuses at the first
 * wrong byte. */
#include "wire/preamble.h"

#include <errno.h>
#include <string.h>

static const uint8_t magic[5] = {'B', 'L', 'Y', 'D', PREAMBLE_VERSION};

static int name_check(const uint8_t *s, size_t n)
{
	if (n == 0 || n > PREAMBLE_NAME_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		uint8_t c = s[i];
		if (!((c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
			    c == '-' || c == '_' || c == '.'))
			return -EBADMSG;
	}
	return 0;
}

int preamble_hello_encode(const struct preamble_hello *h, uint8_t out[PREAMBLE_HELLO_MAX])
{
	size_t from = strnlen(h->from, sizeof(h->from)), to = strnlen(h->to, sizeof(h->to));
	if (name_check((const uint8_t *)h->from, from) < 0 ||
		name_check((const uint8_t *)h->to, to) < 0 || h->index > PREAMBLE_INDEX_MAX)
		return -EINVAL;
	uint8_t *p = out;
	memcpy(p, magic, sizeof(magic));
	p += sizeof(magic);
	*p++ = h->index;
	*p++ = (uint8_t)from;
	*p++ = (uint8_t)to;
	memcpy(p, h->from, from);
	p += from;
	memcpy(p, h->to, to);
	p += to;
	memcpy(p, h->nonce, PREAMBLE_NONCE_LEN);
	return (int)(p + PREAMBLE_NONCE_LEN - out);
}

int preamble_hello_decode(const uint8_t *buf, size_t len, struct preamble_hello *ret)
{
	if (memcmp(buf, magic, len < sizeof(magic) ? len : sizeof(magic)) != 0)
		return -EBADMSG;
	if (len < 8)
		return 0;
	size_t from = buf[6], to = buf[7];
	if (buf[5] > PREAMBLE_INDEX_MAX || from == 0 || from > PREAMBLE_NAME_MAX || to == 0 ||
		to > PREAMBLE_NAME_MAX)
		return -EBADMSG;
	size_t total = 8 + from + to + PREAMBLE_NONCE_LEN;
	if (len < total)
		return 0;
	if (name_check(buf + 8, from) < 0 || name_check(buf + 8 + from, to) < 0)
		return -EBADMSG;
	memset(ret, 0, sizeof(*ret));
	ret->index = buf[5];
	memcpy(ret->from, buf + 8, from);
	memcpy(ret->to, buf + 8 + from, to);
	memcpy(ret->nonce, buf + 8 + from + to, PREAMBLE_NONCE_LEN);
	return (int)total;
}
