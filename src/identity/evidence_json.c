/*
 * Evidence as JSON, for the audit log and `belay whoami` (evidence.h). The fields' names are those
 * of evidence.def, in its order; texts are already scrubbed, so only '"' and '\' need escaping. No
 * allocation.
 */
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/hex.h"
#include "identity/evidence.h"

struct out {
	char *buf;
	size_t size, len;
	bool full, first;
};

static void _printf_(2, 3) out_fmt(struct out *o, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	int n = o->full ? 0 : vsnprintf(o->buf + o->len, o->size - o->len, fmt, ap);
	va_end(ap);
	if (n < 0 || (size_t)n >= o->size - o->len)
		o->full = true;
	else
		o->len += (size_t)n;
}

static void out_text(struct out *o, const char *s)
{
	char esc[2 * EVIDENCE_FOREIGN_PATH + 2];
	out_fmt(o, "\"");
	while (*s) {
		size_t n = 0;
		for (; *s && n + 2 < sizeof(esc); s++) {
			if (*s == '"' || *s == '\\')
				esc[n++] = '\\';
			esc[n++] = *s;
		}
		esc[n] = '\0';
		out_fmt(o, "%s", esc);
	}
	out_fmt(o, "\"");
}

static void out_digest(struct out *o, const struct digest *d)
{
	char hex[2 * DIGEST_LEN + 1];
	hex_encode(d->bytes, DIGEST_LEN, hex);
	out_fmt(o, "\"%s\"", hex);
}

static void out_key(struct out *o, const char *name)
{
	out_fmt(o, "%s\"%s\":", o->first ? "" : ",", name);
	o->first = false;
}

static void out_numbers(struct out *o, const char *name, const uint32_t *v, size_t n)
{
	out_key(o, name);
	out_fmt(o, "[");
	for (size_t i = 0; i < n; i++)
		out_fmt(o, "%s%" PRIu32, i ? "," : "", v[i]);
	out_fmt(o, "]");
}

static void out_foreign(struct out *o, const char *name, const struct foreign *v, size_t n)
{
	out_key(o, name);
	out_fmt(o, "[");
	for (size_t i = 0; i < n; i++) {
		out_fmt(o, "%s{\"path\":", i ? "," : "");
		out_text(o, v[i].path);
		if (!digest_is_none(&v[i].sha256)) {
			out_fmt(o, ",\"sha256\":");
			out_digest(o, &v[i].sha256);
		}
		out_fmt(o, "}");
	}
	out_fmt(o, "]");
}

static void out_ancestors(struct out *o, const char *name, const struct ancestor *v, size_t n)
{
	out_key(o, name);
	out_fmt(o, "[");
	for (size_t i = 0; i < n; i++) {
		out_fmt(o,
			"%s{\"pid\":%" PRIu32 ",\"start_time\":%" PRIu64 ",\"uid\":%" PRIu32
			",\"name\":",
			i ? "," : "", v[i].pid, v[i].start_time, v[i].uid);
		out_text(o, v[i].name);
		out_fmt(o, "}");
	}
	out_fmt(o, "]");
}

#define EV_JSON_U32(f, json) (out_key(&o, json), out_fmt(&o, "%" PRIu32, e->f))
#define EV_JSON_U64(f, json) (out_key(&o, json), out_fmt(&o, "%" PRIu64, e->f))
#define EV_JSON_FLAG(f, json) (out_key(&o, json), out_fmt(&o, "%s", e->f ? "true" : "false"))
#define EV_JSON_TEXT(f, json)               \
	do {                                \
		if (e->f[0]) {              \
			out_key(&o, json);  \
			out_text(&o, e->f); \
		}                           \
	} while (0)
#define EV_JSON_DIGEST(f, json)                \
	do {                                   \
		if (!digest_is_none(&e->f)) {  \
			out_key(&o, json);     \
			out_digest(&o, &e->f); \
		}                              \
	} while (0)
#define EV_JSON_NUMBERS(f, json) out_numbers(&o, json, e->f, e->n_##f)
#define EV_JSON_FOREIGN(f, json) out_foreign(&o, json, e->f, e->n_##f)
#define EV_JSON_ANCESTORS(f, json) out_ancestors(&o, json, e->f, e->n_##f)

int evidence_json(const struct evidence *e, char *buf, size_t size, size_t *ret_len)
{
	struct out o = {.buf = buf, .size = size, .first = true};
	out_fmt(&o, "{");
#define EVIDENCE(kind, field, json, limit, help) EV_JSON_##kind(field, json);
#include "identity/evidence.def"
#undef EVIDENCE
	out_fmt(&o, "}");
	if (o.full)
		return -ENOBUFS;
	*ret_len = o.len;
	return 0;
}
