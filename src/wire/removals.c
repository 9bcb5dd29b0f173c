/* The list of removed nodes (removals.h). Runs when nodes meet and when one is removed. */
#include "wire/removals.h"

#include <errno.h>
#include <string.h>

static const char magic[17] = "belay removals 1\n";

static bool name_ok(const char *s, size_t n, size_t size)
{
	static const char alphabet[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
	if (!n || n >= size)
		return false;
	for (size_t i = 0; i < n; i++)
		if (!s[i] || !strchr(alphabet, s[i]))
			return false;
	return true;
}

/* Where the node is, or belongs. */
static size_t place(const struct removals *r, const char *node)
{
	size_t i = 0;
	while (i < r->n && strcmp(r->list[i].node, node) < 0)
		i++;
	return i;
}

bool removals_has(const struct removals *r, const char *node, uint64_t issued)
{
	size_t i = place(r, node);
	return i < r->n && !strcmp(r->list[i].node, node) && issued <= r->list[i].before;
}

int removals_add(struct removals *r, const char *node, uint64_t before)
{
	size_t i = place(r, node), n = strnlen(node, REMOVALS_NAME_MAX);
	if (!name_ok(node, n, REMOVALS_NAME_MAX))
		return -EINVAL;
	if (i < r->n && !strcmp(r->list[i].node, node)) {
		if (r->list[i].before < before)
			r->list[i].before = before;
		return 0;
	}
	if (r->n == REMOVALS_MAX)
		return -E2BIG;
	memmove(&r->list[i + 1], &r->list[i], (r->n - i) * sizeof(r->list[0]));
	memset(&r->list[i], 0, sizeof(r->list[i]));
	memcpy(r->list[i].node, node, n);
	r->list[i].before = before;
	r->n++;
	return 0;
}

void removals_prune(struct removals *r, uint64_t before)
{
	size_t kept = 0;
	for (size_t i = 0; i < r->n; i++)
		if (r->list[i].before >= before)
			r->list[kept++] = r->list[i];
	r->n = kept;
}

static uint8_t *put_u64(uint8_t *p, uint64_t v)
{
	for (int i = 0; i < 8; i++)
		*p++ = (uint8_t)(v >> (56 - 8 * i));
	return p;
}

static uint8_t *put_name(uint8_t *p, const char *s, size_t n)
{
	*p++ = (uint8_t)n;
	memcpy(p, s, n);
	return p + n;
}

int removals_encode(const struct removals *r, uint8_t out[REMOVALS_BYTES_MAX])
{
	size_t n = strnlen(r->domain, sizeof(r->domain));
	if (!name_ok(r->domain, n, sizeof(r->domain)) || r->n > REMOVALS_MAX)
		return -EINVAL;
	memcpy(out, magic, sizeof(magic));
	uint8_t *p = put_name(put_u64(out + sizeof(magic), r->version), r->domain, n);
	*p++ = (uint8_t)(r->n >> 8);
	*p++ = (uint8_t)r->n;
	for (size_t i = 0; i < r->n; i++) {
		n = strnlen(r->list[i].node, sizeof(r->list[i].node));
		if (!name_ok(r->list[i].node, n, sizeof(r->list[i].node)))
			return -EINVAL;
		p = put_u64(put_name(p, r->list[i].node, n), r->list[i].before);
	}
	return (int)(p - out);
}

struct reader {
	const uint8_t *p;
	size_t left;
};

static bool get_u64(struct reader *r, uint64_t *ret)
{
	if (r->left < 8)
		return false;
	*ret = 0;
	for (int i = 0; i < 8; i++)
		*ret = *ret << 8 | r->p[i];
	r->p += 8;
	r->left -= 8;
	return true;
}

static bool get_name(struct reader *r, char *ret, size_t size)
{
	size_t n = r->left ? r->p[0] : 0;
	if (r->left < n + 1 || !name_ok((const char *)r->p + 1, n, size))
		return false;
	memcpy(ret, r->p + 1, n);
	ret[n] = '\0';
	r->p += n + 1;
	r->left -= n + 1;
	return true;
}

int removals_decode(const uint8_t *buf, size_t len, struct removals *ret)
{
	struct reader r = {buf, len};
	memset(ret, 0, sizeof(*ret));
	if (len < sizeof(magic) || memcmp(buf, magic, sizeof(magic)) != 0)
		return -EBADMSG;
	r.p += sizeof(magic);
	r.left -= sizeof(magic);
	if (!get_u64(&r, &ret->version) || !ret->version ||
		!get_name(&r, ret->domain, sizeof(ret->domain)) || r.left < 2)
		return -EBADMSG;
	size_t n = (size_t)r.p[0] << 8 | r.p[1];
	r.p += 2;
	r.left -= 2;
	if (n > REMOVALS_MAX)
		return -EBADMSG;
	for (; ret->n < n; ret->n++) {
		struct removal *v = &ret->list[ret->n];
		if (!get_name(&r, v->node, sizeof(v->node)) || !get_u64(&r, &v->before) ||
			(ret->n && strcmp(v[-1].node, v->node) >= 0))
			return -EBADMSG;
	}
	return r.left ? -EBADMSG : 0;
}
