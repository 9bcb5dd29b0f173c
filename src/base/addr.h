/* A transport address: IPv4 or IPv6 and a port, as data. IPv4-mapped IPv6 is always normalised. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>

#include "base/cleanup.h"

struct addr {
	uint8_t ip_len; /* 4 or 16; 0 is "no address" */
	uint8_t ip[16];
	uint16_t port; /* host order */
};

#define ADDR_TEXT_MAX 64 /* "[ip6]:port" and NUL */

/* -EAFNOSUPPORT unless AF_INET or AF_INET6, -EINVAL when len is too short. */
int addr_from_sockaddr(const void *sa, size_t len, struct addr *ret) _must_check_;
/* family AF_INET6 with a 4-byte address gives the mapped form. Return: length used, or -EINVAL. */
int addr_to_sockaddr(const struct addr *a, int family, struct sockaddr_storage *ret,
	socklen_t *ret_len) _must_check_;
/* "1.2.3.4:5", "[::1]:5"; without port when with_port is false. Always terminates. */
void addr_format(const struct addr *a, bool with_port, char text[ADDR_TEXT_MAX]);
/* The reverse of addr_format(); the port may be left out (0). */
int addr_parse(const char *text, struct addr *ret) _must_check_;
bool addr_equal(const struct addr *a, const struct addr *b);
bool addr_same_ip(const struct addr *a, const struct addr *b);
bool addr_is_any(const struct addr *a);
bool addr_is_loopback(const struct addr *a);
/* True when a's address lies in net/bits (same family). */
bool addr_in(const struct addr *a, const uint8_t *net, uint8_t ip_len, unsigned bits);
