/*
 * DNS messages (dnsmsg.h). Input: a program's query, hostile; a resolver's answer, of which only
 * the header and the question are read: records are for the program that asked. Pure: no system
 * call, no allocation.
 *
 * A query is accepted only in the one form resolvers of programs use: one question, class IN, type
 * A or AAAA, no other records but at most one EDNS option record, nothing behind it. So the relay
 * is no tunnel for anything but names.
 */
#include "fabric/dnsmsg.h"

#include <string.h>

enum {
	FLAG_QR = 0x8000,
	FLAG_OPCODE = 0x7800,
	FLAG_TC = 0x0200,
	FLAG_RD = 0x0100,
	FLAG_RA = 0x0080,
	FLAG_AD = 0x0020,
	FLAG_CD = 0x0010,
	TYPE_A = 1,
	TYPE_AAAA = 28,
	TYPE_OPT = 41,
	CLASS_IN = 1,
	LABEL_MAX = 63,
};

struct cursor {
	const uint8_t *p, *end;
	bool failed;
};

static uint16_t get16(struct cursor *c)
{
	if (c->end - c->p < 2) {
		c->failed = true;
		return 0;
	}
	uint16_t v = (uint16_t)(c->p[0] << 8 | c->p[1]);
	c->p += 2;
	return v;
}

/* Labels up to the root, never compressed. Fails on anything else, and beyond 255 bytes. */
static void get_name(struct cursor *c, uint8_t name[DNS_NAME_MAX], size_t *ret_len)
{
	size_t n = 0;
	*ret_len = 0;
	for (;;) {
		if (c->p == c->end || *c->p > LABEL_MAX || (size_t)(c->end - c->p) < *c->p + 1u ||
			n + *c->p + 1u > DNS_NAME_MAX) {
			c->failed = true;
			return;
		}
		size_t k = *c->p + 1u;
		memcpy(name + n, c->p, k);
		n += k;
		c->p += k;
		if (k == 1)
			break;
	}
	*ret_len = n;
}

static uint8_t *put16(uint8_t *p, unsigned v)
{
	p[0] = (uint8_t)(v >> 8);
	p[1] = (uint8_t)v;
	return p + 2;
}

/* The additional section: nothing, or one EDNS record of version 0. */
static bool parse_edns(struct cursor *c, uint16_t count, struct dns_query *q)
{
	if (count == 0)
		return true;
	if (count > 1 || c->p == c->end || *c->p++ != 0 || get16(c) != TYPE_OPT)
		return false;
	uint16_t size = get16(c);
	uint16_t version = get16(c); /* extended code and version */
	uint16_t flags = get16(c);
	uint16_t len = get16(c);
	if (c->failed || version != 0 || (size_t)(c->end - c->p) < len)
		return false;
	c->p += len; /* options (cookies, client subnets) are the program's and go no further */
	q->edns = true;
	q->dnssec_ok = flags & 0x8000;
	q->size_max = size < DNS_PLAIN_MAX ? DNS_PLAIN_MAX : size;
	if (q->size_max > DNS_EDNS_MAX)
		q->size_max = DNS_EDNS_MAX;
	return true;
}

int dns_query_parse(const uint8_t *buf, size_t len, struct dns_query *ret)
{
	struct cursor c = {.p = buf, .end = buf + len};
	memset(ret, 0, sizeof(*ret));
	ret->size_max = DNS_PLAIN_MAX;
	if (len < DNS_HEADER)
		return -1;
	ret->id = get16(&c);
	uint16_t flags = get16(&c), qd = get16(&c), an = get16(&c), ns = get16(&c), ar = get16(&c);
	if (flags & FLAG_QR)
		return -1;
	ret->flags = flags & (FLAG_RD | FLAG_AD | FLAG_CD);
	if (flags & FLAG_OPCODE)
		return DNS_NOTIMP;
	if (len > DNS_QUERY_MAX || qd != 1 || an || ns)
		return DNS_FORMERR;
	get_name(&c, ret->name, &ret->name_len);
	ret->type = get16(&c);
	uint16_t class = get16(&c);
	if (c.failed) {
		ret->name_len = 0;
		return DNS_FORMERR;
	}
	if (!parse_edns(&c, ar, ret) || c.p != c.end)
		return DNS_FORMERR;
	if (class != CLASS_IN) {
		ret->name_len = 0; /* the question is rebuilt with class IN: not this one */
		return DNS_REFUSED;
	}
	return ret->type == TYPE_A || ret->type == TYPE_AAAA ? DNS_OK : DNS_NOTIMP;
}

static size_t build(const struct dns_query *q, uint16_t id, uint16_t flags, uint8_t *buf)
{
	uint8_t *p = put16(buf, id);
	p = put16(p, flags);
	p = put16(p, q->name_len ? 1 : 0);
	p = put16(p, 0);
	p = put16(p, 0);
	p = put16(p, q->edns ? 1 : 0);
	if (q->name_len) {
		memcpy(p, q->name, q->name_len);
		p = put16(p + q->name_len, q->type);
		p = put16(p, CLASS_IN);
	}
	if (q->edns) {
		*p++ = 0;
		p = put16(p, TYPE_OPT);
		p = put16(p, q->size_max);
		p = put16(p, 0);
		p = put16(p, q->dnssec_ok ? 0x8000 : 0);
		p = put16(p, 0);
	}
	return (size_t)(p - buf);
}

size_t dns_query_build(const struct dns_query *q, uint16_t id, uint8_t buf[DNS_BUILD_MAX])
{
	return build(q, id, q->flags, buf);
}

size_t dns_refusal_build(
	const struct dns_query *q, enum dns_rcode code, bool truncated, uint8_t buf[DNS_BUILD_MAX])
{
	unsigned flags = FLAG_QR | FLAG_RA | (q->flags & (FLAG_RD | FLAG_CD)) | (unsigned)code |
			 (truncated ? FLAG_TC : 0u);
	return build(q, q->id, (uint16_t)flags, buf);
}

static uint8_t lower(uint8_t c)
{
	return c >= 'A' && c <= 'Z' ? (uint8_t)(c | 0x20) : c;
}

bool dns_answer_matches(const uint8_t *buf, size_t len, const struct dns_query *q, uint16_t id)
{
	struct cursor c = {.p = buf, .end = buf + len};
	uint8_t name[DNS_NAME_MAX];
	size_t name_len;
	if (len < DNS_HEADER || get16(&c) != id)
		return false;
	uint16_t flags = get16(&c);
	if (!(flags & FLAG_QR) || (flags & FLAG_OPCODE) || get16(&c) != 1)
		return false;
	c.p = buf + DNS_HEADER;
	get_name(&c, name, &name_len);
	if (get16(&c) != q->type || get16(&c) != CLASS_IN || c.failed || name_len != q->name_len)
		return false;
	/* Label lengths are below 'A', so folding them changes nothing. */
	for (size_t i = 0; i < name_len; i++)
		if (lower(name[i]) != lower(q->name[i]))
			return false;
	return true;
}

void dns_answer_set_id(uint8_t *buf, uint16_t id)
{
	put16(buf, id);
}
