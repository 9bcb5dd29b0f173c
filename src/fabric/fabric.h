/*
 * The fabric process: what it holds, and the guard's orders on it. Independent of how messages
 * arrive, so that tests drive it directly.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

#include "base/error.h"
#include "fabric.pb-c.h"
#include "fabric/asks.h"
#include "fabric/diag.h"
#include "fabric/dns.h"
#include "fabric/grant.h"
#include "fabric/nft.h"

#define FABRIC_DIALS_MAX 4096
#define FABRIC_DIAL_MS 5000
#define FABRIC_ADDRESSES_MAX                                                                   \
	16                   /* addresses of this node the fabric may choose a local name from \
			      */
#define FABRIC_FLOWS_MAX 400 /* flows in one message: below IPC_MSG_MAX */

struct dial;
LIST_HEAD(dial_list, dial);

/* Descriptors stay the caller's. Errors are the arrow's business: it closes itself. */
typedef void (*fabric_send_fn)(
	void *data, const Belay__FromFabric *m, const int *fds, size_t n_fds);

struct fabric {
	uv_loop_t *loop;
	uint64_t cookie; /* of our network namespace */
	struct nft nft;
	struct grants grants;
	struct diag diag;
	struct asks asks;
	struct netlink route; /* for datagram_route() */
	struct dns dns;
	uv_poll_t events;
	uv_timer_t rest;   /* while it runs, ends of sockets are left lying (ends.c) */
	uv_timer_t expire; /* runs while TCP grants are installed */
	bool configured;
	struct addr addresses[FABRIC_ADDRESSES_MAX];
	size_t n_addresses;
	struct dial_list dials;
	size_t n_dials;
	fabric_send_fn send;
	void *data;
};

/*
 * In the fabric's namespaces, before the sandbox. `dns` was prepared by the caller before it
 * entered them (dns_prepare), and stays in place.
 */
int fabric_init(struct fabric *f, uv_loop_t *loop, fabric_send_fn send, void *data,
	struct error *e) _must_check_;
/* A new guard speaks: it must configure first; what the old one waited for is given up. */
void fabric_reset(struct fabric *f);
/* One order. Takes descriptors by setting their slots to -1. Negative: not an order; end the arrow.
 */
int fabric_order(struct fabric *f, const Belay__ToFabric *m, int *fds, size_t n_fds) _must_check_;

/* ---- flow.c ---- */

int fabric_stats(struct fabric *f, uint64_t id, const Belay__FabricStats *m) _must_check_;
int fabric_dump(struct fabric *f, uint64_t id) _must_check_;
int fabric_destroy(struct fabric *f, const Belay__FabricDestroy *m) _must_check_;

/* One flow of a message and the storage its pointers point to. */
struct flow {
	Belay__FabricFlow m;
	Belay__Addr ma, mb;
	struct addr a, b;
};
void flow_from_sock(struct flow *w, const struct diag_sock *s);

/* ---- ends.c ---- */

int fabric_watch(struct fabric *f) _must_check_;
/* Tells what ended up to now. False: nothing did. */
bool fabric_ends(struct fabric *f);

/* ---- between messages and addresses ---- */

/* -EBADMSG unless 4 or 16 bytes, not mapped, with a port. */
int fabric_addr_read(const Belay__Addr *m, struct addr *ret) _must_check_;
void fabric_addr_write(const struct addr *a, Belay__Addr *ret); /* points into a */
