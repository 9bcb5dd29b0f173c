/* Datagram sockets of the fabric whose other side is conn: another node's programs, or the outside.
 */
#pragma once

#include "fabric/netlink.h"
#include "fabric/sock.h"

/*
 * From now on a socket without an address of its own that sends to `peer` has the address `own`
 * there, as it would have on a machine with that address. Ports are not looked at.
 */
int datagram_route(
	struct netlink *route, const struct addr *peer, const struct addr *own) _must_check_;
/*
 * The far end of what the program's socket fd, which has a port, says to `remote`: it is named
 * `remote`, hears this socket alone and reaches it alone.
 */
int datagram_far_end(int fd, const struct addr *remote, int *ret_far) _must_check_;
/*
 * A bound socket does not keep the sockets above, of another address and the same port, from being
 * made. Not for a port of the kernel's choice: which programs may have a port the guard knows of
 * those it decided only.
 */
int datagram_share(int fd) _must_check_;
/* A client's stand-in: named `source` with a port of the kernel's choice, connected to
 * `destination`. */
int datagram_dial(const struct addr *source, const struct addr *destination, uint32_t mark,
	int *ret_fd) _must_check_;
