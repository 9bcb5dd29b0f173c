/* The fabric's packet filter: which opening packets may exist, as data in kernel sets. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/error.h"
#include "fabric/netlink.h"

/* The mark of Belay's own sockets while they connect. Never a grant's; so is 0, the mark of every
 * new socket. */
#define NFT_MARK_OWN 0xffffffffu
#define NFT_ASKS_GROUP 1  /* of the kernel's log: datagrams without a grant */
#define NFT_SET_MAX 65536 /* elements a set: also in the ruleset's text */
#define NFT_BATCH_MAX 128 /* their acknowledgements fit the socket's default buffer */

/* from: not 0, UDP: of the socket with this port only, to whom the destination is a channel. */
struct nft_grant {
	uint32_t mark;
	bool udp;
	uint16_t from;
	struct addr destination;
};

struct nft {
	struct netlink nl;
	bool asks; /* the kernel can tell of datagrams without a grant */
};

/* Loads the ruleset with empty sets, atomically replacing a predecessor's, and opens the grant
 * socket. */
int nft_open(struct nft *n, struct error *e) _must_check_;
void nft_close(struct nft *n);
/* Adds or deletes up to NFT_BATCH_MAX grants in one transaction: all or none. */
int nft_change(struct nft *n, bool add, const struct nft_grant *v, size_t n_v) _must_check_;
/* Deletes who may answer whom over UDP; packets of grants that still hold bring it back. */
int nft_flush_answers(struct nft *n) _must_check_;
/* Deletes every grant. */
int nft_flush(struct nft *n) _must_check_;
