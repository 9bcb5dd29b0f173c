/*
 * Evidence to and from its message (evidence.h). Input: a message of attest, or of another node's
 * guard; the latter is that node's word and no more. Conversion is all or nothing. No allocation.
 */
#include "identity/evidence.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/hex.h"
#include "base/secret.h"

/* How attest and the guard write a mapping: "PATH sha256:HEX", or "PATH sha256:-" if it was
 * unreadable. */

const struct evidence_field evidence_fields[] = {
#define EVIDENCE(kind, field, json, limit, help) {json, help},
#include "identity/evidence.def"
#undef EVIDENCE
	{NULL, NULL},
};

#define EVIDENCE(kind, field, json, limit, help) EV_CHECK_##kind(field, limit)
#define EV_CHECK_U32(f, limit)
#define EV_CHECK_U64(f, limit)
#define EV_CHECK_FLAG(f, limit)
#define EV_CHECK_TEXT(f, limit)
#define EV_CHECK_DIGEST(f, limit)
#define EV_CHECK_NUMBERS(f, limit)
#define EV_CHECK_FOREIGN(f, limit) \
	_Static_assert((limit) == ARRAY_LEN(((struct evidence_msg *)0)->foreign), #f);
#define EV_CHECK_ANCESTORS(f, limit) \
	_Static_assert((limit) == ARRAY_LEN(((struct evidence_msg *)0)->ancestor), #f);
#include "identity/evidence.def"
#undef EVIDENCE

bool digest_is_none(const struct digest *d)
{
	uint8_t any = 0;
	for (size_t i = 0; i < DIGEST_LEN; i++)
		any |= d->bytes[i];
	return any == 0;
}

bool digest_equal(const struct digest *a, const struct digest *b)
{
	return secret_equal(a->bytes, b->bytes, DIGEST_LEN);
}

/* ---- to the message ---- */

static void foreign_to_text(const struct foreign *f, char *text, size_t size)
{
	char hex[2 * DIGEST_LEN + 1] = "-";
	if (!digest_is_none(&f->sha256))
		hex_encode(f->sha256.bytes, DIGEST_LEN, hex);
	snprintf(text, size, "%.*s" FOREIGN_MARK "%s", (int)sizeof(f->path) - 1, f->path, hex);
}

static void put_foreign(const struct foreign *f, size_t n, struct evidence_msg *ret)
{
	for (size_t i = 0; i < n; i++) {
		foreign_to_text(&f[i], ret->foreign[i], sizeof(ret->foreign[i]));
		ret->foreign_ptr[i] = ret->foreign[i];
	}
	ret->msg.foreign = ret->foreign_ptr;
	ret->msg.n_foreign = n;
}

static void put_ancestors(const struct ancestor *a, size_t n, struct evidence_msg *ret)
{
	for (size_t i = 0; i < n; i++) {
		belay__ancestor__init(&ret->ancestor[i]);
		ret->ancestor[i].pid = a[i].pid;
		ret->ancestor[i].start_time = a[i].start_time;
		ret->ancestor[i].uid = a[i].uid;
		ret->ancestor[i].name = (char *)a[i].name;
		ret->ancestor_ptr[i] = &ret->ancestor[i];
	}
	ret->msg.ancestors = ret->ancestor_ptr;
	ret->msg.n_ancestors = n;
}

static void put_digest(const struct digest *d, ProtobufCBinaryData *ret)
{
	if (digest_is_none(d))
		return;
	ret->data = (uint8_t *)d->bytes;
	ret->len = DIGEST_LEN;
}

#define EV_PUT_U32(f) ret->msg.f = e->f;
#define EV_PUT_U64(f) ret->msg.f = e->f;
#define EV_PUT_FLAG(f) ret->msg.f = e->f;
#define EV_PUT_TEXT(f) ret->msg.f = (char *)e->f;
#define EV_PUT_DIGEST(f) put_digest(&e->f, &ret->msg.f);
#define EV_PUT_NUMBERS(f)              \
	ret->msg.f = (uint32_t *)e->f; \
	ret->msg.n_##f = e->n_##f;
#define EV_PUT_FOREIGN(f) put_foreign(e->f, e->n_##f, ret);
#define EV_PUT_ANCESTORS(f) put_ancestors(e->f, e->n_##f, ret);

void evidence_to_msg(const struct evidence *e, struct evidence_msg *ret)
{
	belay__evidence__init(&ret->msg);
#define EVIDENCE(kind, field, json, limit, help) EV_PUT_##kind(field)
#include "identity/evidence.def"
#undef EVIDENCE
}

/* ---- from the message ---- */

static int get_text(const char *text, char *ret, size_t size)
{
	size_t len = strnlen(text, size);
	if (len == size)
		return -EBADMSG;
	text_scrub(text, len, ret, size);
	return 0;
}

static int get_digest(const ProtobufCBinaryData *d, struct digest *ret)
{
	if (d->len != 0 && d->len != DIGEST_LEN)
		return -EBADMSG;
	if (d->len)
		memcpy(ret->bytes, d->data, DIGEST_LEN);
	return 0;
}

static int get_numbers(const uint32_t *v, size_t n, uint32_t *ret, size_t max, size_t *ret_n)
{
	if (n > max)
		return -EBADMSG;
	if (n)
		memcpy(ret, v, n * sizeof(*v));
	*ret_n = n;
	return 0;
}

/* The last mark counts: a path may hold the mark itself. */
static int foreign_from_text(const char *text, struct foreign *ret)
{
	const char *mark = NULL;
	for (const char *p = strstr(text, FOREIGN_MARK); p; p = strstr(p + 1, FOREIGN_MARK))
		mark = p;
	if (!mark || (size_t)(mark - text) >= sizeof(ret->path))
		return -EBADMSG;
	const char *hex = mark + sizeof(FOREIGN_MARK) - 1;
	if (strcmp(hex, "-") != 0 && hex_decode(hex, ret->sha256.bytes, DIGEST_LEN) < 0)
		return -EBADMSG;
	text_scrub(text, (size_t)(mark - text), ret->path, sizeof(ret->path));
	return 0;
}

static int get_foreign(char *const *v, size_t n, struct foreign *ret, size_t max, size_t *ret_n)
{
	if (n > max)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		int r = foreign_from_text(v[i], &ret[i]);
		if (r < 0)
			return r;
	}
	*ret_n = n;
	return 0;
}

static int get_ancestors(
	Belay__Ancestor *const *v, size_t n, struct ancestor *ret, size_t max, size_t *ret_n)
{
	if (n > max)
		return -EBADMSG;
	for (size_t i = 0; i < n; i++) {
		ret[i].pid = v[i]->pid;
		ret[i].start_time = v[i]->start_time;
		ret[i].uid = v[i]->uid;
		int r = get_text(v[i]->name, ret[i].name, sizeof(ret[i].name));
		if (r < 0)
			return r;
	}
	*ret_n = n;
	return 0;
}

#define EV_GET_U32(f, limit) (ret->f = m->f, 0)
#define EV_GET_U64(f, limit) (ret->f = m->f, 0)
#define EV_GET_FLAG(f, limit) (ret->f = m->f, 0)
#define EV_GET_TEXT(f, limit) get_text(m->f, ret->f, limit)
#define EV_GET_DIGEST(f, limit) get_digest(&m->f, &ret->f)
#define EV_GET_NUMBERS(f, limit) get_numbers(m->f, m->n_##f, ret->f, limit, &ret->n_##f)
#define EV_GET_FOREIGN(f, limit) get_foreign(m->f, m->n_##f, ret->f, limit, &ret->n_##f)
#define EV_GET_ANCESTORS(f, limit) get_ancestors(m->f, m->n_##f, ret->f, limit, &ret->n_##f)

int evidence_from_msg(const Belay__Evidence *m, struct evidence *ret)
{
	int r;
	memset(ret, 0, sizeof(*ret));
#define EVIDENCE(kind, field, json, limit, help) \
	r = EV_GET_##kind(field, limit);         \
	if (r < 0)                               \
		return r;
#include "identity/evidence.def"
#undef EVIDENCE
	return 0;
}
