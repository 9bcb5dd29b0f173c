/* Tokens as text (token.h). Input: what somebody typed. Pure; leaves nothing of the secret behind.
 */
#include "guard/token.h"

#include <errno.h>
#include <string.h>

#include "base/secret.h"
#include "crypto/x509.h"

void token_format(const struct token *t, char ret[TOKEN_TEXT_MAX])
{
	uint8_t raw[TOKEN_MAX] = {t->to.ip_len};
	size_t name = strlen(t->node);
	memcpy(raw + 1, t->to.ip, t->to.ip_len);
	raw[17] = (uint8_t)(t->to.port >> 8);
	raw[18] = (uint8_t)t->to.port;
	memcpy(raw + 19, t->ca_sha256, sizeof(t->ca_sha256));
	memcpy(raw + 51, t->secret, TOKEN_RANDOM);
	memcpy(raw + TOKEN_FIXED, t->node, name);
	memcpy(ret, TOKEN_PREFIX, sizeof(TOKEN_PREFIX));
	base64_encode(raw, TOKEN_FIXED + name, ret + sizeof(TOKEN_PREFIX) - 1);
	secret_zero(raw, sizeof(raw));
}

/* Return: bytes of raw, or -EINVAL. */
static int raw_read(const char *text, uint8_t raw[TOKEN_MAX])
{
	size_t prefix = sizeof(TOKEN_PREFIX) - 1, len = strlen(text);
	if (len < prefix + 4 || strncmp(text, TOKEN_PREFIX, prefix) != 0 ||
		len > prefix + BASE64_LEN(TOKEN_MAX) || (len - prefix) % 4)
		return -EINVAL;
	text += prefix;
	len -= prefix;
	size_t n = len / 4 * 3 - (text[len - 1] == '=') - (text[len - 2] == '=');
	if (n <= TOKEN_FIXED || n >= TOKEN_MAX || base64_decode(text, len, raw, n) < 0)
		return -EINVAL;
	return (int)n;
}

static int raw_take(const uint8_t *raw, size_t n, struct token *ret)
{
	static const uint8_t zero[16];
	if ((raw[0] != 4 && raw[0] != 16) || memcmp(raw + 1 + raw[0], zero, 16u - raw[0]) != 0)
		return -EINVAL;
	*ret = (struct token){.to = {.ip_len = raw[0], .port = (uint16_t)(raw[17] << 8 | raw[18])}};
	memcpy(ret->to.ip, raw + 1, raw[0]);
	memcpy(ret->ca_sha256, raw + 19, sizeof(ret->ca_sha256));
	memcpy(ret->secret, raw + 51, TOKEN_RANDOM);
	memcpy(ret->node, raw + TOKEN_FIXED, n - TOKEN_FIXED);
	return ret->to.port && strlen(ret->node) == n - TOKEN_FIXED && x509_node_valid(ret->node)
		       ? 0
		       : -EINVAL;
}

int token_parse(const char *text, struct token *ret)
{
	uint8_t raw[TOKEN_MAX];
	int r = raw_read(text, raw);
	if (r >= 0)
		r = raw_take(raw, (size_t)r, ret);
	secret_zero(raw, sizeof(raw));
	return r;
}
