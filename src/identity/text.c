/*
 * Text from outside made safe to store, log and show (evidence.h). Input: any bytes a program chose
 * for its name, path or cgroup. Pure; one pass, no allocation.
 */
#include <string.h>

#include "identity/evidence.h"

/* Length of the well-formed UTF-8 sequence at p (RFC 3629), its code point in *ret; 0 if malformed.
 */
static size_t utf8_next(const unsigned char *p, size_t n, uint32_t *ret)
{
	static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
	size_t k = p[0] < 0x80 ? 1 : p[0] >= 0xf0 ? 4 : p[0] >= 0xe0 ? 3 : 2;
	if (k == 1) {
		*ret = p[0];
		return 1;
	}
	if (p[0] < 0xc2 || p[0] > 0xf4 || k > n)
		return 0;
	uint32_t c = p[0] & (0x7fu >> k);
	for (size_t i = 1; i < k; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3fu);
	}
	if (c < least[k] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret = c;
	return k;
}

/* Characters that could forge a line, move the cursor or reorder what a person reads. */
static bool code_hostile(uint32_t c)
{
	return c < 0x20 || (c >= 0x7f && c <= 0x9f) || c == 0x2028 || c == 0x2029 || c == 0x061c ||
	       (c >= 0x200b && c <= 0x200f) || (c >= 0x202a && c <= 0x202e) ||
	       (c >= 0x2060 && c <= 0x206f) || c == 0xfeff || (c >= 0xfff9 && c <= 0xfffb);
}

bool text_scrub(const char *text, size_t len, char *ret, size_t size)
{
	const unsigned char *p = (const unsigned char *)text;
	size_t out = 0;
	bool clean = true;
	while (len) {
		uint32_t c = 0;
		size_t k = utf8_next(p, len, &c);
		bool bad = !k || code_hostile(c);
		size_t room = bad ? 1 : k;
		if (out + room >= size) {
			clean = false;
			break;
		}
		if (bad)
			ret[out] = '?';
		else
			memcpy(ret + out, p, k);
		clean = clean && !bad;
		out += room;
		k = k ? k : 1;
		p += k;
		len -= k;
	}
	ret[out] = '\0';
	return clean;
}

void text_scrub_path(const char *text, size_t len, char *ret, size_t size)
{
	static const char dots[] = "…";
	if (len < size) {
		text_scrub(text, len, ret, size);
		return;
	}
	/* Keep the end; skip forward to a character's beginning. */
	size_t skip = len - (size - sizeof(dots));
	while (skip < len && ((unsigned char)text[skip] & 0xc0) == 0x80)
		skip++;
	memcpy(ret, dots, sizeof(dots) - 1);
	text_scrub(text + skip, len - skip, ret + sizeof(dots) - 1, size - (sizeof(dots) - 1));
}
