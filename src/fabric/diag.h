/* What sockets the fabric has, what they carried, when they go: the kernel's sock_diag. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/addr.h"
#include "fabric/netlink.h"

struct diag {
	struct netlink ask;
	struct netlink events;
};

struct diag_sock {
	uint8_t family; /* AF_INET or AF_INET6: of the socket, not of its addresses */
	bool udp;
	uint8_t state;
	struct addr local;
	struct addr peer; /* ip_len 0: not connected */
	uint32_t mark;
	uint32_t inode;    /* 0: no program holds it */
	uint64_t sent;     /* of data, TCP only; exact */
	uint64_t received; /* of data, TCP only; a FIN counts one in the events of sockets that are
			      gone */
	uint64_t idle_ms;
	uint8_t id[48]; /* the kernel's own name for it */
};

enum { DIAG_ESTABLISHED = 1, DIAG_TIME_WAIT = 6, DIAG_CLOSE = 7, DIAG_LISTEN = 10 };

/* Return: 0 to go on, negative to stop with that result. */
typedef int (*diag_sock_fn)(const struct diag_sock *s, void *data);

int diag_open(struct diag *d) _must_check_;
void diag_close(struct diag *d);
/* Every socket of the transport; with ports not 0 only those. Sockets in TIME_WAIT are left out. */
int diag_dump(struct diag *d, bool udp, uint16_t local_port, uint16_t peer_port, diag_sock_fn fn,
	void *data) _must_check_;
/* The TCP connection of exactly these names. -ENOENT. */
int diag_get(struct diag *d, const struct addr *local, const struct addr *peer,
	struct diag_sock *ret) _must_check_;
/* Ends that very socket: its program gets ECONNABORTED. -ENOENT when it has gone meanwhile. */
int diag_destroy(struct diag *d, const struct diag_sock *s) _must_check_;
/* Sockets that went, without blocking. -ENOBUFS: some were lost, take a dump. -EAGAIN: no more now.
 */
int diag_events(struct diag *d, diag_sock_fn fn, void *data) _must_check_;
