/*
 * TLS 1.3 between nodes, without a socket: bytes from the network are fed in, bytes for the network
 * are taken out. Only our own CA counts; no tickets, no resumption, no early data, no
 * renegotiation, no other version.
 *
 * Input is a stranger's until tls_conn_state() is TLS_OPEN; then it is the node's whose certificate
 * tls_conn_peer() shows. After every feed and write, take until nothing is left.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/secret.h"
#include "crypto/x509.h"

#define TLS_PENDING_MAX (256u * 1024) /* fed and not yet read, or written and not yet taken */
#define TLS_ALPN_LINK "belay-link/1"
#define TLS_ALPN_JOIN "belay-join/1" /* the joining side proves nothing but what it later says */
#define TLS_EXPORTER_LABEL "EXPORTER-belay-link"

struct tls_ctx;
/* A node's context: proves itself with cert, accepts peers whose certificate this CA signed. */
int tls_ctx_new(const uint8_t *key, size_t key_len, const uint8_t *cert, size_t cert_len,
	const uint8_t *ca, size_t ca_len, struct tls_ctx **ret, struct error *e) _must_check_;
/*
 * A joining node's context: no certificate yet, accepts a server whose chain is (node certificate,
 * CA) with the CA's SHA-256 exactly as the invitation says. Only for TLS_DIAL.
 */
int tls_ctx_new_join(
	const uint8_t ca_sha256[32], struct tls_ctx **ret, struct error *e) _must_check_;
struct tls_ctx *tls_ctx_free(struct tls_ctx *c); /* connections made of it live on */

enum tls_role {
	TLS_DIAL,
	TLS_ANSWER,      /* the peer must have a certificate */
	TLS_ANSWER_JOIN, /* the peer may have none: then tls_conn_peer() is NULL and only joining is
			    allowed */
};
enum tls_state { TLS_HANDSHAKE, TLS_OPEN, TLS_CLOSED /* orderly */, TLS_FAILED };

struct tls_conn;
int tls_conn_new(struct tls_ctx *ctx, enum tls_role role, struct tls_conn **ret) _must_check_;
struct tls_conn *tls_conn_free(struct tls_conn *c);

/* Drives the handshake as far as it goes; called by feed. A dialer calls it once to begin. 0, or
 * -EPROTO. */
int tls_conn_handshake(struct tls_conn *c) _must_check_;
/* Bytes from the network, all or nothing: -ENOBUFS when too much is pending, -EPROTO when failed.
 */
int tls_conn_feed(struct tls_conn *c, const void *p, size_t n) _must_check_;
/* Bytes for the network: how many were put into p; 0 when there are none. */
size_t tls_conn_take(struct tls_conn *c, void *p, size_t n);
/* Plaintext. Read: >0, -EAGAIN, 0 at the orderly end, -EPROTO. Write: 0 for all of it, -ENOBUFS,
 * -ENOTCONN. */
ssize_t tls_conn_read(struct tls_conn *c, void *p, size_t n) _must_check_;
int tls_conn_write(struct tls_conn *c, const void *p, size_t n) _must_check_;
/* Queues a close notification. */
void tls_conn_close(struct tls_conn *c);

enum tls_state tls_conn_state(const struct tls_conn *c);
/* One line for people when TLS_FAILED, else "". */
const char *tls_conn_why(const struct tls_conn *c);
/* What the peer's verified certificate says; NULL before TLS_OPEN or if it has none
 * (TLS_ANSWER_JOIN). */
const struct x509_node *tls_conn_peer(const struct tls_conn *c);
/* The CA a joining node has accepted, valid while c lives; NULL in other contexts. */
const struct der *tls_conn_ca(const struct tls_conn *c);
/* RFC 8446, 7.5, label TLS_EXPORTER_LABEL, no context. Both ends get the same 32 bytes. -ENOTCONN
 * before TLS_OPEN. */
int tls_conn_exporter(struct tls_conn *c, struct secret *ret) _must_check_;

static inline void tls_conn_freep(struct tls_conn **c)
{
	*c = tls_conn_free(*c);
}
static inline void tls_ctx_freep(struct tls_ctx **c)
{
	*c = tls_ctx_free(*c);
}
#define _cleanup_tls_conn_ _cleanup_(tls_conn_freep)
#define _cleanup_tls_ctx_ _cleanup_(tls_ctx_freep)
