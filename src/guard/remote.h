/*
 * The node-to-node side of the guard, inside: remote.c holds who the nodes are and their links,
 * remote_open.c and remote_serve.c the two sides of a channel's opening, remote_node.c,
 * remote_invite.c, remote_join.c and remote_list.c the verbs of `belay node`, remote_domain.c and
 * remote_removed.c who is in the domain and for how long.
 *
 * Trust: link says which node a message is from (its certificate's name and addresses); everything
 * in the message is that node's word about its own programs, and is refused when it speaks of
 * anything else.
 */
#pragma once

#include "base/secret.h"
#include "conn.pb-c.h"
#include "crypto/channel_keys.h"
#include "crypto/x509.h"
#include "guard/guard.h"
#include "link.pb-c.h"
#include "node.pb-c.h"
#include "wire/removals.h"

#define REMOTE_NODES_MAX 256
#define REMOTE_OPENS_MAX 256 /* requests under way, for each node and direction */
#define REMOTE_OPEN_MS 3000
#define REMOTE_NONCE_LEN 32
#define REMOTE_INVITE_MS (3600u * 1000)
#define REMOTE_VERSION 1
#define REMOTE_BACK_MS 2000      /* a link that went down is waited for so long */
#define REMOTE_LEASES_MAX 256    /* of each side */
#define REMOTE_LEASE_MS 1000     /* that a verdict is leased: no longer than evidence is */
#define REMOTE_LEASE_TICK_MS 250 /* what is left of one is erased one to two of these later */
#define REMOTE_LEASE_LATE_MS 500 /* for what was begun within it and is still on its way */

struct asking;
struct serving;
struct remote_lease;
struct stock;

struct remote_node {
	char name[NAME_MAX_LEN];
	struct addr addresses[NODE_ADDRESSES_MAX]; /* its certificate's; before its first link: as
						      invited */
	size_t n_addresses;
	struct addr link, data; /* where to dial; ip_len 0: not known */
	bool linked, ready;     /* TLS is up; and hello was exchanged */
	bool we_dialed;
	uint64_t issued, not_after; /* of its certificate, seconds since 1970; 0: not known */
	bool holds_ca;              /* by its own word: whom to ask */
	bool renew_asked;           /* we asked it for a certificate */
	uint64_t granted_ms;        /* when it last asked us for one */
	struct secret exporter, data_secret;
	uint8_t nonce[REMOTE_NONCE_LEN];
	uint64_t changed_ms;  /* wall clock */
	uint64_t down_ms;     /* when it was first missed */
	uint64_t link_number; /* link's, of the newest: what is said goes over that one or none */
	char why[REASON_MAX]; /* down: why */
	TAILQ_HEAD(, asking) asking;
	TAILQ_HEAD(, serving) serving;
	size_t n_asking, n_serving;
	bool gone; /* forgotten; its memory goes with the last of asking */
};

/* This node in its domain (remote_domain.c, remote_removed.c). */
struct domain {
	struct der ca;              /* empty: none, or not known yet */
	bool holds_ca, out;         /* the CA's key is in our signer; this node was removed */
	uint64_t issued, not_after; /* of our certificate, seconds since 1970 */
	uint8_t jitter;
	struct removals removals;
	struct der list, signature; /* the same, as it was signed */
	uv_timer_t *timer;
};

struct remote {
	struct remote_node *nodes[REMOTE_NODES_MAX];
	size_t n_nodes;
	struct addr listen, data; /* this node's */
	uint64_t last_request, last_lease, boot;
	uv_timer_t *lease_timer; /* runs while there are leases of either side */
	TAILQ_HEAD(, remote_lease) leases;
	TAILQ_HEAD(, stock) stocks;
	size_t n_leases, n_stocks;
	uv_timer_t timer;      /* stands at the earliest deadline of what we asked */
	const uint8_t *ending; /* channel whose end the other node has just told us */
	struct domain domain;
};

/* remote.c */
struct remote_node *remote_node_find(struct guard *g, const char *name);
/* Finds or makes; NULL when there are too many. */
struct remote_node *remote_node_get(struct guard *g, const char *name);
/* Everything with that node ends; nothing of it is left but the channels' last entries. */
void remote_node_forget(struct guard *g, struct remote_node *n, const char *why);
int remote_send(
	struct guard *g, const struct remote_node *n, const Belay__NodeMessage *m) _must_check_;
void remote_tell_peers(struct guard *g);
/* Writes what is known of the node into the registry. */
int remote_node_save(struct guard *g, const struct remote_node *n, struct error *e) _must_check_;
/* This node's own name, addresses and ports: kept, told to fabric and dispatcher. */
int remote_self_set(struct guard *g, const char *name, const struct addr *addresses,
	size_t n_addresses, const struct addr *listen, const struct addr *data,
	struct error *e) _must_check_;
/* A node of ours (also this one) or an invitation of another name that has the address; NULL: free.
 */
const char *remote_address_taken(struct guard *g, const struct addr *a, const char *name);
/* Ours to end: its link goes, what is under way over it fails; it may come again. */
void remote_link_end(struct guard *g, struct remote_node *n, const char *why);
/* The other node did what no honest one does: audited, its link ends. */
void remote_surprise(struct guard *g, struct remote_node *n, const char *what);

/* remote_open.c */
void remote_take_answer(struct guard *g, struct remote_node *n, Belay__ChannelAnswer *m);
void remote_take_end(struct guard *g, struct remote_node *n, const Belay__ChannelEnd *m);
/* The link is down: what is under way over it fails. */
void remote_opens_drop(struct guard *g, struct remote_node *n);
void remote_open_timer(uv_timer_t *t);
/* What both sides of a channel need. */
void remote_end_at(
	struct guard *g, const struct remote_node *n, const uint8_t *id, const char *reason);
/* Hands the channel to conn; it is in the table already. Return: 0, or negative: fn will not be
 * called. */
int remote_give_conn(struct guard *g, const struct channel *c, const char *node,
	const struct channel_secrets *keys, int fd, call_fn fn, void *ctx,
	struct call **ret) _must_check_;
int remote_conn_result(int error, const Belay__FromConn *m) _must_check_;

void remote_channel_of(const struct job *j, const uint8_t *id, struct channel *ret);

/* Rules that count, or want each one logged, are asked each time. */
static inline bool remote_leasable(const struct verdict *v)
{
	return v->allow && !v->connections && !v->rate && !v->permissive;
}

/* remote_lease.c: the connecting side of leases */
/* A connect under a lease. False: there is none, j is as it was. */
bool remote_lease_spend(struct job *j, struct remote_node *n);
/* A channel has been opened by asking. */
void remote_lease_note(struct job *j, struct remote_node *n, const uint8_t *channel);
void remote_take_reserved(struct guard *g, struct remote_node *n, Belay__ChannelReserved *m);
void remote_lease_ended(struct guard *g, const struct remote_node *n, uint64_t id);
/* n NULL: of all nodes. tell NULL: the other node is not told. */
void remote_leases_end(struct guard *g, const struct remote_node *n, const char *tell);
/* None of them is spent any more. */
void remote_leases_close(struct guard *g);
bool remote_leases_tick(struct guard *g); /* are there any left? */
/* maker: ours is the accepting side */
void remote_reserve_end_at(
	struct guard *g, const struct remote_node *n, uint64_t id, const char *reason, bool maker);
void remote_lease_timer(struct guard *g);
int remote_leases_init(struct guard *g) _must_check_;
void remote_leases_deinit(struct guard *g);

/* remote_stock.c: the accepting side */
void remote_take_reserve(struct guard *g, struct remote_node *n, const Belay__ChannelReserve *m);
void remote_stock_ended(struct guard *g, const struct remote_node *n, uint64_t id);
void remote_stocks_end(struct guard *g, const char *node, const char *tell);
void remote_stocks_drop(struct guard *g);
bool remote_stocks_tick(struct guard *g);

/* remote_serve.c */
void remote_take_open(struct guard *g, struct remote_node *n, Belay__ChannelOpen *m);
void remote_serves_drop(struct guard *g, struct remote_node *n);

/* remote_list.c: `belay node list` */
void remote_list(struct guard *g, uint64_t client);

/* remote_invite.c */
void remote_take_join(struct guard *g, const Belay__LinkJoinRequest *m);

/* remote_domain.c */
int remote_domain_init(struct guard *g) _must_check_;
void remote_domain_deinit(struct guard *g);
/* What our signer holds now: after it came up, and after each change. */
void remote_identity_ask(struct guard *g);
/* A link came up, so its certificate's end is to be seen. */
void remote_domain_look(struct guard *g);
void remote_renew(struct guard *g);
void remote_take_renew(struct guard *g, struct remote_node *n, const Belay__NodeRenew *m);
void remote_take_renewed(struct guard *g, struct remote_node *n, const Belay__NodeRenewed *m);
/* Our signer, as the domain's CA, for that node and those addresses. fn gets FromSigner. */
int remote_sign(struct guard *g, const char *node, const struct addr *addresses, size_t n,
	const ProtobufCBinaryData *csr, call_fn fn, void *ctx) _must_check_;

/* remote_removed.c */
int remote_removals_load(struct guard *g) _must_check_;
/* A certificate of that node, issued then (seconds since 1970), counts no more. */
bool remote_removed(const struct guard *g, const char *node, uint64_t issued);
void remote_removed_self(struct guard *g);
void remote_removals_tell(struct guard *g, const struct remote_node *n);
void remote_take_removals(struct guard *g, struct remote_node *n, const Belay__NodeRemovals *m);
