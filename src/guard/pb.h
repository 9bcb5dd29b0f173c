/* Addresses in messages: ours <-> Belay__Addr. A message's address is valid or it is an error. */
#pragma once

#include <errno.h>
#include <string.h>

#include "base/addr.h"
#include "common.pb-c.h"

/* The message borrows a's bytes. */
static inline Belay__Addr pb_addr(const struct addr *a)
{
	Belay__Addr m = BELAY__ADDR__INIT;
	m.ip.len = a->ip_len;
	m.ip.data = (uint8_t *)(uintptr_t)a->ip;
	m.port = a->port;
	return m;
}

/* NULL or an empty address gives "no address" (ip_len 0). -EBADMSG otherwise, if it is not one. */
static inline int pb_addr_read(const Belay__Addr *m, struct addr *ret)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	memset(ret, 0, sizeof(*ret));
	if (!m || m->ip.len == 0)
		return 0;
	if ((m->ip.len != 4 && m->ip.len != 16) || m->port > UINT16_MAX)
		return -EBADMSG;
	bool is_mapped = m->ip.len == 16 && !memcmp(m->ip.data, mapped, 12);
	ret->ip_len = is_mapped ? 4 : (uint8_t)m->ip.len;
	memcpy(ret->ip, m->ip.data + (is_mapped ? 12 : 0), ret->ip_len);
	ret->port = (uint16_t)m->port;
	return 0;
}

static inline ProtobufCBinaryData pb_bytes(const void *p, size_t len)
{
	return (ProtobufCBinaryData){.len = len, .data = (uint8_t *)(uintptr_t)p};
}

static inline char *pb_text(const char *s)
{
	return (char *)(uintptr_t)s;
}
