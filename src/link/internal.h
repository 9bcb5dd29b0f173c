/* What links.c and join.c share: the links of a node, its peers and sessions. */
#pragma once

#include "link/session.h"

/* Tags of NodeMessage's ping and pong: keep-alive is this process's, the guard never sees it. */
#define TAG_PING 0x2a
#define TAG_PONG 0x32
#define TAG_JOIN 0x3a
#define TAG_JOINED 0x42

struct peer {
	struct link_listed listed;
	uint64_t dial_at, backoff_ms;
};

struct links {
	uv_loop_t *loop;
	uv_timer_t *timer;
	uint64_t armed_ms; /* when it fires */
	struct links_ops ops;
	void *data;
	struct link_limits limits;
	struct tls_ctx *ctx;
	struct der cert;
	char self[X509_NODE_MAX];
	struct peer peers[LINK_PEERS_MAX];
	size_t n_peers, n_sessions;
	struct session_list sessions;
	uint64_t last_id;
	bool freeing;
};

/* links.c */
struct session *links_session_add(
	struct links *l, struct tls_ctx *ctx, enum session_kind kind, int fd, bool connecting);
/* Says goodbye, then ends it. */
void links_session_quit(struct session *s, const char *why);
/* A socket on its way to the address, or negative. */
int links_dial(const struct addr *a) _must_check_;

/* join.c */
void links_join_ask(struct session *s);
/* What a guest says, and what the node says that we join. Negative: a surprise. */
int links_join_asked(struct session *s, const uint8_t *buf, size_t len) _must_check_;
int links_join_answered(struct session *s, const uint8_t *buf, size_t len) _must_check_;
