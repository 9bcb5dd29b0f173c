/* One TLS connection: socket, handshake, messages. links.c decides what it is for. */
#pragma once

#include <sys/queue.h>

#include "base/clock.h"
#include "crypto/tls.h"
#include "link/link.h"

enum session_kind {
	SESSION_DIALED,   /* to a node of the list */
	SESSION_ACCEPTED, /* a stranger until TLS is open */
	SESSION_JOINING,  /* ours, to an inviting node */
	SESSION_GUEST,    /* a stranger's, after TLS without a certificate */
};

struct session {
	LIST_ENTRY(session) link;
	struct links *links;
	enum session_kind kind;
	uint64_t id;
	int fd;
	uv_poll_t *poll;
	struct tls_conn *tls;
	int watched; /* events libuv has been asked for */
	bool connecting, live, asked,
		dying; /* live: the link of its node; asked: a guest has said its one thing */
	char node[X509_NODE_MAX]; /* dialed: whom we mean to reach; then: the certificate's */
	char remote[ADDR_TEXT_MAX];
	struct addr from; /* whoever is at the other end of the socket */
	char why[256];
	uint64_t started_ms;
	uint64_t unheard_ms; /* when the first of what had no answer yet was said; 0: nothing */
	bool pinged;         /* since then */
	uint8_t *in;         /* of a message under way: 4 bytes length, then itself */
	size_t in_len, in_cap;
	uint8_t *out; /* TLS bytes the socket did not take */
	size_t out_at, out_len;
	struct link_join join; /* joining: csr owned */
};
LIST_HEAD(session_list, session);

/* Takes fd. tls is made of ctx. */
struct session *session_new(
	struct links *l, struct tls_ctx *ctx, enum session_kind kind, int fd, bool connecting);
/* 0, -EMSGSIZE, -ENOBUFS, -ENOTCONN. */
int session_send(struct session *s, const uint8_t *buf, size_t len) _must_check_;
/* Sends what TLS has to say; ends the session when the socket is broken. */
void session_flush(struct session *s);
void session_free(struct session *s);

/* links.c, called by session.c */
void links_session_open(struct session *s);
void links_session_said(struct session *s);
/* Negative: a surprise. */
int links_session_message(struct session *s, const uint8_t *buf, size_t len) _must_check_;
void links_session_end(struct session *s, const char *why);
uv_loop_t *links_loop(const struct links *l);
static inline uint64_t links_now(const struct links *l)
{
	(void)l;
	return clock_mono_ms();
}
