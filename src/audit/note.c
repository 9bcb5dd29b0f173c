/*
 * Checkpoints as signed notes (note.h). Input: a file anybody may have written, or the signer's
 * answer. Pure. Every byte of a note either is signed, or has one possible value, or makes parsing
 * fail.
 */
#include "audit/note.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "audit/base64.h"
#include "base/hex.h"
#include "crypto/sha256.h"

#define DASH "\xe2\x80\x94 " /* em dash, space: begins a signature line */
#define KEY_ED25519 0x01
#define NOTE_SIGNATURES_MAX 8

bool audit_name_valid(const char *name)
{
	size_t n = strnlen(name, AUDIT_ORIGIN_MAX);
	return n && n < AUDIT_ORIGIN_MAX &&
	       strspn(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._/-") ==
		       n;
}

/* First bytes of SHA-256(name, newline, type, key): names the key in signature lines. */
static void key_id(const struct audit_key *k, uint8_t ret[4])
{
	uint8_t d[SHA256_LEN];
	struct sha256 h;
	sha256_init(&h);
	sha256_update(&h, k->name, strlen(k->name));
	sha256_update(&h, "\n\x01", 2);
	sha256_update(&h, k->public_key, sizeof(k->public_key));
	sha256_final(&h, d);
	memcpy(ret, d, 4);
}

/* Takes a line, without its newline; NULL if there is no whole line left. */
static const char *line(const char **p, const char *end, size_t *ret_len)
{
	const char *start = *p, *nl = memchr(start, '\n', (size_t)(end - start));
	if (!nl)
		return NULL;
	*ret_len = (size_t)(nl - start);
	*p = nl + 1;
	return start;
}

static int take_origin(const char *l, size_t n, char ret[AUDIT_ORIGIN_MAX])
{
	if (!n || n >= AUDIT_ORIGIN_MAX || memchr(l, '\0', n))
		return -EBADMSG;
	memcpy(ret, l, n);
	ret[n] = '\0';
	return audit_name_valid(ret) ? 0 : -EBADMSG;
}

static int take_size(const char *l, size_t n, uint64_t *ret)
{
	uint64_t v = 0;
	if (!n || (n > 1 && l[0] == '0'))
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		if (l[i] < '0' || l[i] > '9' || __builtin_mul_overflow(v, 10u, &v) ||
			__builtin_add_overflow(v, (unsigned)(l[i] - '0'), &v))
			return -EBADMSG;
	}
	*ret = v;
	return 0;
}

/* One signature line. Return: 1 it is the origin's, 0 another's, -EBADMSG. */
static int take_signature(const char *l, size_t n, struct audit_checkpoint *c)
{
	size_t dash = strlen(DASH), name = strlen(c->origin);
	uint8_t raw[4 + ED25519_SIGNATURE_LEN];
	const char *end = l + n;
	if (n <= dash || memcmp(l, DASH, dash) != 0)
		return -EBADMSG;
	l += dash;
	const char *sp = memchr(l, ' ', (size_t)(end - l));
	if (!sp || sp == l || sp + 1 == end)
		return -EBADMSG;
	if ((size_t)(sp - l) != name || memcmp(l, c->origin, name) != 0)
		return 0;
	l = sp + 1;
	if (base64_decode(l, (size_t)(end - l), raw, sizeof(raw)) < 0)
		return -EBADMSG;
	memcpy(c->key_id, raw, 4);
	memcpy(c->signature, raw + 4, ED25519_SIGNATURE_LEN);
	return 1;
}

int audit_note_parse(const char *note, size_t len, struct audit_checkpoint *ret)
{
	const char *p = note, *end = note + len, *l;
	size_t n;
	int own = 0;
	struct audit_checkpoint c = {0};
	if (len > AUDIT_NOTE_MAX)
		return -EBADMSG;
	if (!(l = line(&p, end, &n)) || take_origin(l, n, c.origin) < 0)
		return -EBADMSG;
	if (!(l = line(&p, end, &n)) || take_size(l, n, &c.size) < 0)
		return -EBADMSG;
	if (!(l = line(&p, end, &n)) || base64_decode(l, n, c.root, sizeof(c.root)) < 0)
		return -EBADMSG;
	c.text_len = (size_t)(p - note);
	if (!line(&p, end, &n) || n)
		return -EBADMSG;
	for (int i = 0; p < end; i++) {
		int r = -EBADMSG;
		if (i < NOTE_SIGNATURES_MAX && (l = line(&p, end, &n)))
			r = take_signature(l, n, &c);
		if (r < 0)
			return r;
		own += r;
	}
	if (own != 1)
		return -EBADMSG;
	*ret = c;
	return 0;
}

int audit_note_verify(
	const char *note, const struct audit_checkpoint *c, const struct audit_key *key)
{
	uint8_t id[4];
	key_id(key, id);
	if (strcmp(c->origin, key->name) != 0 || memcmp(id, c->key_id, sizeof(id)) != 0)
		return -EKEYREJECTED;
	return ed25519_verify(key->public_key, note, c->text_len, c->signature);
}

int audit_note_text(const char *origin, uint64_t size, const uint8_t root[AUDIT_ROOT_LEN],
	char text[AUDIT_NOTE_MAX])
{
	char b64[BASE64_LEN(AUDIT_ROOT_LEN) + 1];
	if (!audit_name_valid(origin))
		return -EINVAL;
	base64_encode(root, AUDIT_ROOT_LEN, b64);
	return snprintf(
		text, AUDIT_NOTE_MAX, "%s\n%llu\n%s\n", origin, (unsigned long long)size, b64);
}

int audit_note_seal(const char *text, const struct audit_key *key,
	const uint8_t signature[ED25519_SIGNATURE_LEN], char note[AUDIT_NOTE_MAX])
{
	uint8_t raw[4 + ED25519_SIGNATURE_LEN];
	char b64[BASE64_LEN(sizeof(raw)) + 1];
	key_id(key, raw);
	memcpy(raw + 4, signature, ED25519_SIGNATURE_LEN);
	base64_encode(raw, sizeof(raw), b64);
	int n = snprintf(note, AUDIT_NOTE_MAX, "%s\n" DASH "%s %s\n", text, key->name, b64);
	return n < AUDIT_NOTE_MAX ? n : -EINVAL;
}

int audit_key_format(const struct audit_key *k, char text[AUDIT_KEY_TEXT_MAX])
{
	uint8_t id[4], raw[1 + ED25519_PUBLIC_LEN] = {KEY_ED25519};
	char hex[9], b64[BASE64_LEN(sizeof(raw)) + 1];
	if (!audit_name_valid(k->name))
		return -EINVAL;
	key_id(k, id);
	hex_encode(id, sizeof(id), hex);
	memcpy(raw + 1, k->public_key, ED25519_PUBLIC_LEN);
	base64_encode(raw, sizeof(raw), b64);
	int n = snprintf(text, AUDIT_KEY_TEXT_MAX, "%s+%s+%s", k->name, hex, b64);
	return n < AUDIT_KEY_TEXT_MAX ? 0 : -EINVAL;
}

int audit_key_parse(const char *text, size_t len, struct audit_key *ret)
{
	struct audit_key k = {0};
	uint8_t raw[1 + ED25519_PUBLIC_LEN];
	char again[AUDIT_KEY_TEXT_MAX];
	if (len && text[len - 1] == '\n')
		len--;
	const char *plus = memchr(text, '+', len);
	if (!plus || take_origin(text, (size_t)(plus - text), k.name) < 0)
		return -EBADMSG;
	size_t name = (size_t)(plus - text);
	if (len < name + 10 ||
		base64_decode(text + name + 10, len - name - 10, raw, sizeof(raw)) < 0 ||
		raw[0] != KEY_ED25519)
		return -EBADMSG;
	memcpy(k.public_key, raw + 1, sizeof(k.public_key));
	/* The id between the plus signs is derived: compare the whole with what we would write. */
	if (audit_key_format(&k, again) < 0 || strlen(again) != len ||
		memcmp(again, text, len) != 0)
		return -EBADMSG;
	*ret = k;
	return 0;
}
