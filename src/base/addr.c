/* Transport addresses as data (addr.h). */
#include "base/addr.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>

static const uint8_t mapped[12] = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};

int addr_from_sockaddr(const void *sa, size_t len, struct addr *ret)
{
	sa_family_t family;
	if (len < sizeof(family))
		return -EINVAL;
	memcpy(&family, sa, sizeof(family));
	memset(ret, 0, sizeof(*ret));
	if (family == AF_INET) {
		struct sockaddr_in in;
		if (len < sizeof(in))
			return -EINVAL;
		memcpy(&in, sa, sizeof(in));
		ret->ip_len = 4;
		memcpy(ret->ip, &in.sin_addr, 4);
		ret->port = ntohs(in.sin_port);
		return 0;
	}
	if (family == AF_INET6) {
		struct sockaddr_in6 in6;
		/* Linux accepts the 24-byte form without scope id (SIN6_LEN_RFC2133). */
		if (len < offsetof(struct sockaddr_in6, sin6_scope_id))
			return -EINVAL;
		memset(&in6, 0, sizeof(in6));
		memcpy(&in6, sa, len < sizeof(in6) ? len : sizeof(in6));
		ret->port = ntohs(in6.sin6_port);
		if (!memcmp(&in6.sin6_addr, mapped, sizeof(mapped))) {
			ret->ip_len = 4;
			memcpy(ret->ip, in6.sin6_addr.s6_addr + 12, 4);
		} else {
			ret->ip_len = 16;
			memcpy(ret->ip, &in6.sin6_addr, 16);
		}
		return 0;
	}
	return -EAFNOSUPPORT;
}

int addr_to_sockaddr(
	const struct addr *a, int family, struct sockaddr_storage *ret, socklen_t *ret_len)
{
	memset(ret, 0, sizeof(*ret));
	if (family == AF_INET && a->ip_len == 4) {
		struct sockaddr_in *in = (struct sockaddr_in *)ret;
		in->sin_family = AF_INET;
		in->sin_port = htons(a->port);
		memcpy(&in->sin_addr, a->ip, 4);
		*ret_len = sizeof(*in);
		return 0;
	}
	if (family == AF_INET6 && (a->ip_len == 4 || a->ip_len == 16)) {
		struct sockaddr_in6 *in6 = (struct sockaddr_in6 *)ret;
		in6->sin6_family = AF_INET6;
		in6->sin6_port = htons(a->port);
		if (a->ip_len == 16) {
			memcpy(&in6->sin6_addr, a->ip, 16);
		} else {
			memcpy(&in6->sin6_addr, mapped, sizeof(mapped));
			memcpy(in6->sin6_addr.s6_addr + 12, a->ip, 4);
		}
		*ret_len = sizeof(*in6);
		return 0;
	}
	return -EINVAL;
}

void addr_format(const struct addr *a, bool with_port, char text[ADDR_TEXT_MAX])
{
	char ip[INET6_ADDRSTRLEN] = "none";
	if (a->ip_len == 4)
		inet_ntop(AF_INET, a->ip, ip, sizeof(ip));
	else if (a->ip_len == 16)
		inet_ntop(AF_INET6, a->ip, ip, sizeof(ip));
	if (!with_port)
		snprintf(text, ADDR_TEXT_MAX, "%s", ip);
	else
		snprintf(text, ADDR_TEXT_MAX, a->ip_len == 16 ? "[%s]:%u" : "%s:%u", ip, a->port);
}

static int parse_port(const char *s, uint16_t *ret)
{
	unsigned v = 0;
	if (!*s)
		return -EINVAL;
	for (; *s; s++) {
		if (*s < '0' || *s > '9')
			return -EINVAL;
		v = v * 10 + (unsigned)(*s - '0');
		if (v > 65535)
			return -ERANGE;
	}
	*ret = (uint16_t)v;
	return 0;
}

int addr_parse(const char *text, struct addr *ret)
{
	char ip[INET6_ADDRSTRLEN + 1];
	const char *start = text, *end, *port = NULL;
	if (*text == '[') {
		start = text + 1;
		end = strchr(start, ']');
		if (!end || (end[1] && end[1] != ':'))
			return -EINVAL;
		port = end[1] ? end + 2 : NULL;
	} else {
		const char *colon = strchr(text, ':');
		bool one = colon && !strchr(colon + 1, ':');
		end = one ? colon : text + strlen(text);
		port = one ? colon + 1 : NULL;
	}
	size_t n = (size_t)(end - start);
	if (n >= sizeof(ip))
		return -EINVAL;
	memcpy(ip, start, n);
	ip[n] = '\0';
	memset(ret, 0, sizeof(*ret));
	if (port) {
		int r = parse_port(port, &ret->port);
		if (r < 0)
			return r;
	}
	if (inet_pton(AF_INET, ip, ret->ip) == 1)
		ret->ip_len = 4;
	else if (inet_pton(AF_INET6, ip, ret->ip) == 1)
		ret->ip_len = 16;
	else
		return -EINVAL;
	if (ret->ip_len == 16 && !memcmp(ret->ip, mapped, sizeof(mapped))) {
		memmove(ret->ip, ret->ip + 12, 4);
		memset(ret->ip + 4, 0, 12);
		ret->ip_len = 4;
	}
	return 0;
}

bool addr_same_ip(const struct addr *a, const struct addr *b)
{
	return a->ip_len == b->ip_len && !memcmp(a->ip, b->ip, a->ip_len);
}

bool addr_equal(const struct addr *a, const struct addr *b)
{
	return a->port == b->port && addr_same_ip(a, b);
}

bool addr_is_any(const struct addr *a)
{
	static const uint8_t zero[16];
	return a->ip_len && !memcmp(a->ip, zero, a->ip_len);
}

bool addr_is_loopback(const struct addr *a)
{
	static const uint8_t one[16] = {[15] = 1};
	return (a->ip_len == 4 && a->ip[0] == 127) || (a->ip_len == 16 && !memcmp(a->ip, one, 16));
}

bool addr_in(const struct addr *a, const uint8_t *net, uint8_t ip_len, unsigned bits)
{
	if (a->ip_len != ip_len || bits > ip_len * 8u)
		return false;
	if (memcmp(a->ip, net, bits / 8))
		return false;
	if (bits % 8 == 0)
		return true;
	uint8_t mask = (uint8_t)(0xff << (8 - bits % 8));
	return (a->ip[bits / 8] & mask) == (net[bits / 8] & mask);
}
