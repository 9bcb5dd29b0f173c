/* Which grants the kernel holds now, so that a repeated connect needs no netlink. */
#pragma once

#include <stdint.h>
#include <sys/queue.h>

#include "fabric/nft.h"

#define GRANTS_MAX 32768    /* per transport; below what one kernel set holds */
#define GRANT_IDLE_MS 60000 /* a TCP grant nobody asked for this long leaves the kernel */
#define GRANT_BUCKETS 16384

struct grant;
TAILQ_HEAD(grant_list, grant);
struct grants {
	struct nft *nft;
	uint8_t key[16]; /* of the hash: marks are the guard's, but cost nothing to distrust */
	struct grant **buckets;
	struct grant_list used[2]; /* TCP, UDP; least recently used first */
	size_t n[2];
};

int grants_init(struct grants *g, struct nft *nft) _must_check_;
void grants_deinit(struct grants *g);
/* Makes the grant hold in the kernel. -EINVAL for the marks that are not grants'. */
int grants_add(struct grants *g, const struct nft_grant *v, uint64_t now_ms) _must_check_;
/* Deletes the grant, or with destination->ip_len 0 every grant of that mark and transport, from
 * whichever port unless that is given. */
int grants_revoke(struct grants *g, const struct nft_grant *v) _must_check_;
/* Deletes TCP grants idle for GRANT_IDLE_MS. Return: how many TCP grants are left, or -errno. */
int grants_expire(struct grants *g, uint64_t now_ms) _must_check_;
int grants_flush(struct grants *g) _must_check_;
