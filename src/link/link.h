/*
 * Links: one live mutual TLS connection to every other node, for the guard's messages. Knows
 * nothing of arrows: main.c and the tests drive it; one loop, one thread.
 *
 * Trust: a peer is a stranger until its certificate is verified under our CA, then the node that
 * certificate names and nobody else. What it says is framed and bounded here, unpacked by the
 * guard. A stranger without a certificate may say one thing: a join request.
 *
 * Cost: not on a data path; a channel's start is one message each way. Idle: one wake-up every two
 * seconds while a link is up or wanted, none otherwise.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <uv.h>

#include "base/addr.h"
#include "base/error.h"
#include "base/secret.h"
#include "crypto/x509.h"

#define LINK_MESSAGE_MAX (60u * 1024) /* fits an arrow's message with its envelope */
#define LINK_PEERS_MAX 256
#define LINK_SESSIONS_MAX 512
#define LINK_STRANGERS_MAX 32 /* accepted and not yet proven */
#define LINK_LISTED_MAX 256
#define LINK_TOKEN_LEN 32

struct links;

struct link_listed {
	char node[X509_NODE_MAX];
	struct addr address;
	char *const *owns; /* its own addresses, as the CA's node knows them; borrowed, passed on
			      unread */
	size_t n_owns;
};
struct link_joined {
	int error; /* 0 or negative errno */
	const char *why;
	const uint8_t *cert, *ca;
	size_t cert_len, ca_len;
	const struct link_listed *listed;
	size_t n_listed;
};
struct link_join {
	struct addr address;
	uint8_t token[LINK_TOKEN_LEN], ca_sha256[32];
	const uint8_t *csr;
	size_t csr_len;
	struct addr listen;
};
struct links_ops {
	void (*up)(void *data, const struct x509_node *peer, const struct secret *exporter,
		bool we_dialed, const char *remote);
	void (*down)(void *data, const char *node, const char *why);
	/* Negative: a surprise, the link ends. */
	int (*received)(void *data, const char *node, const uint8_t *buf, size_t len);
	/* A stranger with a token; answered with links_join_answer(). */
	void (*join_request)(void *data, uint64_t join, const struct link_join *j);
	/* The end of our own links_join(). */
	void (*joined)(void *data, uint64_t id, const struct link_joined *j);
};

struct link_limits {
	uint64_t ping_ms, dead_ms, handshake_ms, retry_first_ms, retry_last_ms;
};
extern const struct link_limits link_limits_default;

int links_new(uv_loop_t *loop, const struct links_ops *ops, void *data,
	const struct link_limits *limits, struct links **ret) _must_check_;
struct links *links_free(struct links *l);

/* Who we are. Another certificate than before ends every link. */
int links_identity(struct links *l, const struct der *key, const struct der *cert,
	const struct der *ca, struct error *e) _must_check_;
/* The full set of nodes to dial. Links that are up stay: whom to drop is the guard's word
 * (links_drop). */
int links_peers(struct links *l, const struct link_listed *peers, size_t n) _must_check_;
/*
 * A new guard: it knows none of the nonces of our links, so they end and come up afresh. Channels
 * do not depend on them.
 */
void links_announce(struct links *l);
/* An accepted connection. Takes fd. */
void links_accept(struct links *l, int fd);
/* The number of the link that lives; 0: there is none. */
uint64_t links_live(struct links *l, const char *node);
/* -ENOTCONN, -EMSGSIZE; -ENOBUFS: the peer does not read, the link ends. */
int links_send(struct links *l, const char *node, const uint8_t *buf, size_t len) _must_check_;
void links_drop(struct links *l, const char *node, const char *why);
void links_join(struct links *l, uint64_t id, const struct link_join *j);
void links_join_answer(struct links *l, uint64_t join, const struct link_joined *j);
