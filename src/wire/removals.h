/*
 * The list of nodes that were removed from a domain, as it is signed by the domain's CA and passed
 * between nodes (docs/protocol.md, 7). Pure codec; signatures are the caller's.
 *
 * One form for one list: names in ascending order, each once, no byte left over, so that a
 * signature stands for exactly one meaning. The magic at the start is in no other thing the CA's
 * key signs.
 *
 *   "belay removals 1\n" | version 8 | domain length 1, domain | count 2 | name length 1, name,
 * before 8 …
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define REMOVALS_MAX 512 /* a message between nodes takes them all */
#define REMOVALS_NAME_MAX 64
#define REMOVALS_DOMAIN_MAX 256
#define REMOVALS_BYTES_MAX \
	(17 + 8 + REMOVALS_DOMAIN_MAX + 2 + REMOVALS_MAX * (REMOVALS_NAME_MAX + 8))

struct removal {
	char node[REMOVALS_NAME_MAX];
	uint64_t before; /* certificates issued until then (seconds since 1970) are void */
};
struct removals {
	uint64_t version; /* goes up with each change; 0: there is no list */
	char domain[REMOVALS_DOMAIN_MAX];
	size_t n;
	struct removal list[REMOVALS_MAX];
};

/* Is a certificate of that node, issued then, void? */
bool removals_has(const struct removals *r, const char *node, uint64_t issued);
/* Enters the node in its place, or moves its time forward, never back. -E2BIG, -EINVAL. */
int removals_add(struct removals *r, const char *node, uint64_t before) _must_check_;
/* Drops what no certificate can still be hit by. */
void removals_prune(struct removals *r, uint64_t before);
/* Return: bytes, or -EINVAL when a name is not one. */
int removals_encode(const struct removals *r, uint8_t out[REMOVALS_BYTES_MAX]) _must_check_;
/* -EBADMSG for anything but what removals_encode() writes. */
int removals_decode(const uint8_t *buf, size_t len, struct removals *ret) _must_check_;
