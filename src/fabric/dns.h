/* The DNS relay: programs ask the resolvers they know, at the addresses they know, and reach
 * nothing else. */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <uv.h>

#include "base/addr.h"
#include "fabric/dnsmsg.h"

#define DNS_RESOLVERS_MAX 8
#define DNS_UDP4 24 /* questions under way at once, by transport and family of the resolver */
#define DNS_UDP6 8
#define DNS_TCP4 4
#define DNS_TCP6 2
#define DNS_SLOTS (DNS_UDP4 + DNS_UDP6 + DNS_TCP4 + DNS_TCP6)
#define DNS_CLIENTS_MAX 16  /* programs' TCP connections */
#define DNS_TIMEOUT_MS 4500 /* shorter than a program's own patience of five seconds */
#define DNS_PER_SECOND 1000 /* queries taken; the rest is dropped, and programs repeat */
#define DNS_ASKERS_MAX 256  /* who asks in one second; more wait for the next */

struct dns;
struct dns_client;

/* A place at which the relay answers. */
struct dns_place {
	struct dns *dns;
	struct addr resolver;
	int udp, tcp;
	uint64_t inode[2]; /* of both */
	uv_poll_t udp_poll, tcp_poll;
	int open_handles;
};

/* One question under way, on a socket of the host's network. */
struct dns_slot {
	struct dns *dns;
	int fd; /* -1: the host has no such family */
	bool tcp, v6, busy, polled;
	uv_poll_t poll;
	uv_timer_t timer;
	struct dns_query query;
	uint16_t id;
	uint32_t asker;               /* mark of who asked */
	struct dns_place *place;      /* where it was asked, UDP */
	struct sockaddr_storage from; /* asker, UDP */
	socklen_t from_len;
	struct dns_client *client; /* asker, TCP */
	uint8_t *buf;              /* TCP: what is sent or received */
	size_t len, done;
};

struct dns_asker {
	uint32_t mark;
	unsigned n;
};

struct dns {
	uv_loop_t *loop;
	struct diag *diag; /* tells whose a connection is */
	struct dns_slot slots[DNS_SLOTS];
	struct dns_place *places[DNS_RESOLVERS_MAX];
	size_t n_places;
	uint32_t clients[DNS_CLIENTS_MAX]; /* programs' TCP connections: mark of each, 0 free */
	uint64_t second;                   /* of the rate */
	unsigned in_second;
	size_t n_askers;
	struct dns_asker askers[DNS_ASKERS_MAX];
};

/* In the host's network namespace: makes the sockets that will ask. The struct stays in place from
 * here. */
void dns_prepare(struct dns *d);
/* In the fabric: joins the loop. */
int dns_start(struct dns *d, uv_loop_t *loop) _must_check_;
/* Answers at port 53 of these addresses from now on, and no longer at others; none: as before. The
 * port is where the resolver itself is asked; 0 means 53. */
int dns_configure(struct dns *d, const struct addr *resolvers, size_t n) _must_check_;

/* A socket at which the relay answers: it is nobody's that the guard could know. */
bool dns_is_own(const struct dns *d, uint64_t inode);

/* ---- dnsshare.c: each asker its share; false or NULL when that is used up ---- */

bool dns_rate(struct dns *d, uint32_t asker);
/* A TCP client's place; the caller writes 0 to it at the end. */
uint32_t *dns_client_take(struct dns *d, uint32_t asker);
/* A datagram's sender is told with it from now on. */
int dns_tell_mark(int fd) _must_check_;
ssize_t dns_receive(int fd, void *buf, size_t len, struct sockaddr_storage *from,
	socklen_t *ret_from_len, uint32_t *ret_asker) _must_check_;

/* ---- between dns.c and dnstcp.c ---- */

struct dns_slot *dns_slot_take(struct dns *d, bool tcp, bool v6, uint32_t asker);
void dns_slot_release(struct dns_slot *s);
/* Connects the slot's socket to the resolver from a port never used for the question before. */
int dns_slot_connect(struct dns_slot *s, const struct addr *resolver) _must_check_;
int dns_id(uint16_t *ret) _must_check_;
void dns_tcp_accept(uv_poll_t *p, int status, int events);
/* The slot's TCP question failed, timed out (buf NULL) or was answered. */
void dns_tcp_end(struct dns_slot *s, bool answered);
