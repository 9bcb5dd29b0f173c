/* System calls on sockets of the fabric: what the guard orders, one function an order. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"

struct sock_facts {
	int family;
	bool udp;
	uint8_t state; /* of TCP: enum as in tcp_info; TCP_CLOSE also before anything happened */
};

/* 0.0.0.0 and :: as destination mean this host's loopback. */
void sock_destination(struct addr *a);
/* That fd is a TCP or UDP socket of the namespace with this cookie. -EPERM when not. */
int sock_facts(int fd, uint64_t cookie, struct sock_facts *ret) _must_check_;
int sock_new(int family, bool udp, bool nonblock) _must_check_;
int sock_local(int fd, struct addr *ret) _must_check_;
int sock_inode(int fd, uint64_t *ret) _must_check_;
int sock_mark(int fd, uint32_t mark) _must_check_;
/*
 * Connects without ever blocking; a second connect gets what the kernel says to it (0, -EISCONN,
 * -EALREADY, the first one's error). `mark` is set only on a socket that is free to connect.
 */
int sock_connect(
	int fd, const struct sock_facts *f, uint32_t mark, const struct addr *to) _must_check_;
/* Dissolves the association and takes the mark away. */
int sock_disconnect(int fd) _must_check_;
int sock_bind(int fd, const struct sock_facts *f, const struct addr *a) _must_check_;
/* A port of the kernel's choice on every address, for a socket that has none yet. */
int sock_bind_any(int fd, const struct sock_facts *f) _must_check_;
/*
 * Makes fd established towards `remote`, with *ret_peer as its other end, without a packet. An
 * unbound fd gets a free port at `local` (when ip_len is not 0). On failure fd is as before,
 * unconnected. On a socket that is not free to connect it is a second connect: the kernel's answer
 * to that, and no peer.
 */
int sock_pair(int fd, const struct sock_facts *f, const struct addr *local,
	const struct addr *remote, int *ret_peer) _must_check_;
/* Starts a connection of our own from `source`. Return: the descriptor; 0 or -EINPROGRESS in
 * *ret_result. */
int sock_dial(
	const struct addr *source, const struct addr *destination, int *ret_result) _must_check_;
/* A socket that is to be such a connection, under a grant's mark, when whoever holds it connects
 * it. */
int sock_dialer(const struct addr *source, uint32_t mark) _must_check_;
/* After the socket became writable: 0 and the mark gone, -EALREADY, or why it failed. */
int sock_dial_finish(int fd, const struct addr *destination) _must_check_;
