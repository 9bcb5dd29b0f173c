/*
 * Audit entries as JSON (record.h). Texts may hold anything an attacker can put into a name.
 * Escaping loses nothing: control characters become \u00NN; a backslash and every byte that is not
 * valid UTF-8 become the text \xNN; a text that was cut ends in U+2026. Cost: one pass over the
 * texts; no allocation, no system call.
 */
#include "audit/record.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/clock.h"
#include "base/hex.h"

static const char *const type_names[_AUDIT_TYPE_N] = {
#define TYPE(id, name) [AUDIT_##id] = name,
#include "audit/types.def"
#undef TYPE
};

const char *audit_type_name(enum audit_type t)
{
	return t > AUDIT_NONE && t < _AUDIT_TYPE_N ? type_names[t] : "";
}

enum audit_type audit_type_parse(const char *name)
{
	for (int i = AUDIT_NONE + 1; i < _AUDIT_TYPE_N; i++)
		if (!strcmp(name, type_names[i]))
			return (enum audit_type)i;
	return AUDIT_NONE;
}

/* The output: what does not fit sets full, and nothing is written beyond size. */
struct out {
	char *buf;
	size_t size, len;
	bool full, first; /* first: the next member needs no comma */
};

static void put(struct out *o, const char *p, size_t n)
{
	if (n >= o->size - o->len) {
		o->full = true;
		return;
	}
	memcpy(o->buf + o->len, p, n);
	o->len += n;
}

static void put_text(struct out *o, const char *p)
{
	put(o, p, strlen(p));
}

/* Length of the valid UTF-8 character at p (n bytes left), 0 if there is none. */
static size_t utf8_len(const uint8_t *p, size_t n)
{
	size_t k;
	uint32_t c, min;
	if (p[0] < 0x80)
		return 1;
	if ((p[0] & 0xe0) == 0xc0)
		k = 2, c = p[0] & 0x1f, min = 0x80;
	else if ((p[0] & 0xf0) == 0xe0)
		k = 3, c = p[0] & 0x0f, min = 0x800;
	else if ((p[0] & 0xf8) == 0xf0)
		k = 4, c = p[0] & 0x07, min = 0x10000;
	else
		return 0;
	if (k > n)
		return 0;
	for (size_t i = 1; i < k; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	/* Overlong forms, surrogates and C1 controls (terminals obey them) are not text. */
	if (c < min || c > 0x10ffff || (c >= 0xd800 && c < 0xe000) || (c >= 0x80 && c < 0xa0))
		return 0;
	return k;
}

static void put_escaped(struct out *o, const char *text)
{
	static const char hex[] = "0123456789abcdef";
	const uint8_t *p = (const uint8_t *)text;
	size_t n = strnlen(text, AUDIT_TEXT_MAX + 1);
	bool cut = n > AUDIT_TEXT_MAX;
	if (cut)
		n = AUDIT_TEXT_MAX;
	put(o, "\"", 1);
	while (n) {
		size_t k = utf8_len(p, n);
		char c1 = hex[p[0] >> 4], c2 = hex[p[0] & 15];
		if (!k || p[0] == '\\') {
			char e[] = {'\\', '\\', 'x', c1, c2};
			put(o, e, sizeof(e));
			k = 1;
		} else if (p[0] < 0x20 || p[0] == 0x7f) {
			char e[] = {'\\', 'u', '0', '0', c1, c2};
			put(o, e, sizeof(e));
		} else if (p[0] == '"') {
			put(o, "\\\"", 2);
		} else {
			put(o, (const char *)p, k);
		}
		p += k;
		n -= k;
	}
	if (cut)
		put_text(o, "\xe2\x80\xa6");
	put(o, "\"", 1);
}

static void key(struct out *o, const char *name)
{
	if (!o->first)
		put(o, ",", 1);
	o->first = false;
	put(o, "\"", 1);
	put_text(o, name);
	put(o, "\":", 2);
}

static void member_text(struct out *o, const char *name, const char *text)
{
	if (!text || !*text)
		return;
	key(o, name);
	put_escaped(o, text);
}

static void member_number(struct out *o, const char *name, uint64_t v)
{
	char t[24];
	if (v > INT64_MAX)
		v = INT64_MAX; /* what readers of JSON can hold */
	key(o, name);
	put(o, t, (size_t)snprintf(t, sizeof(t), "%llu", (unsigned long long)v));
}

static void member_hex(struct out *o, const char *name, const uint8_t *p, size_t n)
{
	char t[2 * 32 + 1];
	if (!p)
		return;
	hex_encode(p, n, t);
	member_text(o, name, t);
}

static void member_time(struct out *o, uint64_t ms)
{
	char t[64];
	time_t s = (time_t)(ms / 1000);
	struct tm tm;
	if (!gmtime_r(&s, &tm))
		memset(&tm, 0, sizeof(tm));
	snprintf(t, sizeof(t), "%04d-%02d-%02dT%02d:%02d:%02d.%03uZ", tm.tm_year + 1900,
		tm.tm_mon + 1, tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (unsigned)(ms % 1000));
	member_text(o, "time", t);
}

static bool party_empty(const struct audit_party *p)
{
	return !p->program && !p->path && !p->sha256 && !p->user && !p->pid && !p->node &&
	       (!p->address || !p->address->ip_len) && !p->unix_path;
}

static void member_party(struct out *o, const char *name, const struct audit_party *p)
{
	if (party_empty(p))
		return;
	key(o, name);
	put(o, "{", 1);
	o->first = true;
	member_text(o, "program", p->program);
	member_text(o, "path", p->path);
	member_hex(o, "sha256", p->sha256, 32);
	member_text(o, "user", p->user);
	if (p->pid) {
		member_number(o, "uid", p->uid);
		member_number(o, "pid", p->pid);
	}
	member_text(o, "node", p->node);
	if (p->address && p->address->ip_len) {
		char t[ADDR_TEXT_MAX];
		addr_format(p->address, true, t);
		member_text(o, "address", t);
	}
	member_text(o, "unix", p->unix_path);
	put(o, "}", 1);
	o->first = false;
}

int audit_record_write(const struct audit_record *r, char *buf, size_t size)
{
	static const char *const verdicts[] = {"", "allow", "deny"};
	struct out o = {.buf = buf, .size = size, .first = true};
	if (!size || r->type <= AUDIT_NONE || r->type >= _AUDIT_TYPE_N ||
		(size_t)r->verdict >= ARRAY_LEN(verdicts))
		return -EINVAL;
	put(&o, "{", 1);
	member_time(&o, r->time_ms ? r->time_ms : clock_wall_ms());
	member_text(&o, "type", type_names[r->type]);
	member_text(&o, "verdict", verdicts[r->verdict]);
	member_text(&o, "op", r->op);
	member_text(&o, "transport", r->transport);
	member_text(&o, "protection", r->protection);
	member_text(&o, "rule", r->rule);
	member_text(&o, "reason", r->reason);
	member_hex(&o, "channel", r->channel, 16);
	member_party(&o, "from", &r->from);
	member_party(&o, "to", &r->to);
	member_text(&o, "subject", r->subject);
	member_hex(&o, "sha256", r->sha256, 32);
	member_text(&o, "by", r->by);
	if (r->has_bytes) {
		member_number(&o, "bytes_sent", r->bytes_sent);
		member_number(&o, "bytes_received", r->bytes_received);
	}
	if (r->count)
		member_number(&o, "count", r->count);
	member_text(&o, "mode", r->permissive ? "permissive" : NULL);
	put(&o, "}", 1);
	buf[o.len] = '\0';
	return o.full ? -EMSGSIZE : (int)o.len;
}
