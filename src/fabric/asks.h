/* Datagrams without a grant, as the kernel's log tells of them: somebody is to be asked. */
#pragma once

#include <uv.h>

#include "fabric/diag.h"
#include "fabric/netlink.h"

#define ASKS_PER_SECOND 256
#define ASKS_TURN 64 /* read in one turn of the loop */

/* The socket of that inode sent one to `to`. */
typedef void (*asks_fn)(void *data, uint64_t inode, const struct addr *to);
struct asks {
	struct netlink nl;
	uv_poll_t poll;
	struct diag *diag;
	asks_fn fn;
	void *data;
	uint64_t second;
	unsigned in_second;
};

int asks_start(
	struct asks *a, uv_loop_t *loop, struct diag *diag, asks_fn fn, void *data) _must_check_;
/* Names of a packet that begins with these bytes of IP and UDP. -EBADMSG: it is something else. */
int asks_parse(
	const uint8_t *p, size_t len, struct addr *ret_from, struct addr *ret_to) _must_check_;
