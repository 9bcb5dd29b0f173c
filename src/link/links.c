/*
 * Which links there are (link.h): dialing with back-off, one live session for each node,
 * keep-alive; join.c has the rest.
 *
 * Tie: of two sessions between two nodes the one dialed by the node whose name sorts first stays;
 * of two dialed by the same side the newer. Both ends see the same names, so both keep the same
 * one. The other side's dial comes a little later in the first place.
 */
#include "link/link.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/crowd.h"
#include "base/log.h"
#include "ipc/ipc.h"
#include "link/internal.h"
#include "node.pb-c.h"

const struct link_limits link_limits_default = {
	.ping_ms = 2000,
	.dead_ms = 6000,
	.handshake_ms = 5000,
	.retry_first_ms = 100,
	.retry_last_ms = 5000,
};

#define DIAL_COURTESY_MS 700 /* the node whose name sorts later lets the other dial first */

uv_loop_t *links_loop(const struct links *l)
{
	return l->loop;
}

static void links_arm(struct links *l);

static struct peer *peer_find(struct links *l, const char *node)
{
	for (size_t i = 0; i < l->n_peers; i++)
		if (strcmp(l->peers[i].listed.node, node) == 0)
			return &l->peers[i];
	return NULL;
}

static struct session *session_live(struct links *l, const char *node)
{
	struct session *s;
	LIST_FOREACH (s, &l->sessions, link)
		if (s->live && !s->dying && strcmp(s->node, node) == 0)
			return s;
	return NULL;
}

uint64_t links_live(struct links *l, const char *node)
{
	const struct session *s = session_live(l, node);
	return s ? s->id : 0;
}

static void peer_retry(struct links *l, const char *node)
{
	struct peer *p = peer_find(l, node);
	if (!p || session_live(l, node))
		return;
	p->dial_at = links_now(l) + p->backoff_ms;
	p->backoff_ms = p->backoff_ms * 2 > l->limits.retry_last_ms ? l->limits.retry_last_ms
								    : p->backoff_ms * 2;
}

/* ---- sessions begin and end ---- */

struct session *links_session_add(
	struct links *l, struct tls_ctx *ctx, enum session_kind kind, int fd, bool connecting)
{
	if (!ctx || l->n_sessions >= LINK_SESSIONS_MAX) {
		close(fd);
		return NULL;
	}
	struct session *s = session_new(l, ctx, kind, fd, connecting);
	if (!s)
		return NULL;
	s->id = ++l->last_id;
	LIST_INSERT_HEAD(&l->sessions, s, link);
	l->n_sessions++;
	links_arm(l);
	return s;
}

/* Its memory goes with the next tick: a caller up the stack may still look at it. */
void links_session_end(struct session *s, const char *why)
{
	struct links *l = s->links;
	if (s->dying)
		return;
	s->dying = true;
	snprintf(s->why, sizeof(s->why), "%s", why);
	uv_poll_stop(s->poll);
	bool was_live = s->live;
	if (!was_live && !l->freeing)
		log_peer("no link with %s: %s", s->remote[0] ? s->remote : "a stranger", s->why);
	s->live = false;
	if (l->freeing)
		return;
	if (s->kind == SESSION_JOINING && !s->asked)
		l->ops.joined(l->data, s->id,
			&(struct link_joined){.error = -ECONNABORTED, .why = s->why});
	if (was_live && s->node[0] && !session_live(l, s->node))
		l->ops.down(l->data, s->node, s->why);
	if (s->node[0] && (was_live || s->kind == SESSION_DIALED))
		peer_retry(l, s->node);
	links_arm(l);
}

void links_session_quit(struct session *s, const char *why)
{
	tls_conn_close(s->tls);
	session_flush(s);
	links_session_end(s, why);
}

/* Of two live sessions with one node: does the new one stay? */
static bool tie_new_wins(
	const struct links *l, const struct session *old, const struct session *new)
{
	bool old_ours = old->kind == SESSION_DIALED, new_ours = new->kind == SESSION_DIALED;
	if (old_ours == new_ours)
		return true;
	bool ours_wins = strcmp(l->self, new->node) < 0;
	return new_ours == ours_wins;
}

/*
 * While nothing is said the kernel finds out whether the network is still there, without a wake-up
 * of ours; whether the other process is, a ping after what we say (session_tick).
 */
static void session_keep_alive(int fd, const struct link_limits *k)
{
	unsigned dead = (unsigned)k->dead_ms;
	int on = 1, count = 2, every = (int)(k->ping_ms / 1000);
	every = every ? every : 1;
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
}

static void session_open_node(struct session *s, const struct x509_node *n)
{
	struct links *l = s->links;
	struct secret exporter;
	if (s->kind == SESSION_DIALED && strcmp(s->node, n->node) != 0) {
		char why[2 * X509_NODE_MAX + ADDR_TEXT_MAX + 32];
		snprintf(why, sizeof(why), "%s is node %s, not %s", s->remote, n->node, s->node);
		links_session_quit(s, why);
		return;
	}
	memcpy(s->node, n->node, sizeof(s->node));
	if (strcmp(s->node, l->self) == 0 || tls_conn_exporter(s->tls, &exporter) < 0) {
		links_session_quit(s, "that is this node itself");
		return;
	}
	struct session *old = session_live(l, s->node);
	if (old && !tie_new_wins(l, old, s)) {
		secret_clear(&exporter);
		links_session_quit(s, "another link to that node stays");
		return;
	}
	s->live = true;
	session_keep_alive(s->fd, &l->limits);
	struct peer *p = peer_find(l, s->node);
	if (p) {
		p->backoff_ms = l->limits.retry_first_ms;
		p->dial_at = 0;
	}
	if (old) {
		l->ops.down(l->data, s->node, "replaced by a newer link");
		links_session_quit(old, "replaced by a newer link");
	}
	l->ops.up(l->data, n, &exporter, s->kind == SESSION_DIALED, s->remote);
	secret_clear(&exporter);
	links_arm(l);
}

void links_session_open(struct session *s)
{
	const struct x509_node *n = tls_conn_peer(s->tls);
	if (s->kind == SESSION_JOINING)
		links_join_ask(s);
	else if (n)
		session_open_node(s, n);
	else if (s->kind == SESSION_ACCEPTED)
		s->kind = SESSION_GUEST;
	else
		links_session_quit(s, "the other node shows no certificate");
}

/* ---- dialing ---- */

int links_dial(const struct addr *a)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int family = a->ip_len == 4 ? AF_INET : AF_INET6;
	int r = addr_to_sockaddr(a, family, &ss, &len);
	if (r < 0)
		return r;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&ss, len) < 0 && errno != EINPROGRESS) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

static bool peer_dialing(struct links *l, const char *node)
{
	struct session *s;
	LIST_FOREACH (s, &l->sessions, link)
		if (!s->dying && s->kind == SESSION_DIALED && strcmp(s->node, node) == 0)
			return true;
	return false;
}

static void peer_dial(struct links *l, struct peer *p)
{
	p->dial_at = 0;
	if (!l->ctx || session_live(l, p->listed.node) || peer_dialing(l, p->listed.node))
		return;
	int fd = links_dial(&p->listed.address);
	struct session *s = fd < 0 ? NULL : links_session_add(l, l->ctx, SESSION_DIALED, fd, true);
	if (!s) {
		peer_retry(l, p->listed.node);
		return;
	}
	memcpy(s->node, p->listed.node, sizeof(s->node));
	addr_format(&p->listed.address, true, s->remote);
}

int links_peers(struct links *l, const struct link_listed *peers, size_t n)
{
	if (n > LINK_PEERS_MAX)
		return -ENOBUFS;
	struct peer *fresh = calloc(LINK_PEERS_MAX, sizeof(*fresh));
	if (!fresh)
		return -ENOMEM;
	uint64_t now = links_now(l);
	for (size_t i = 0; i < n; i++) {
		struct peer *old = peer_find(l, peers[i].node);
		bool same = old && addr_equal(&old->listed.address, &peers[i].address);
		fresh[i] = same ? *old
				: (struct peer){.listed = peers[i],
					  .backoff_ms = l->limits.retry_first_ms};
		if (!same && !session_live(l, peers[i].node))
			fresh[i].dial_at =
				now + (strcmp(l->self, peers[i].node) < 0 ? 1 : DIAL_COURTESY_MS);
	}
	memcpy(l->peers, fresh, sizeof(l->peers));
	l->n_peers = n;
	free(fresh);
	links_arm(l);
	return 0;
}

/* All places for strangers are taken: makes one for who comes from there, or does not. */
static bool make_place(struct session *const *strangers, size_t n, int fd)
{
	struct addr from[LINK_STRANGERS_MAX], newcomer = {0};
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0 ||
		addr_from_sockaddr(&ss, len, &newcomer) < 0)
		return false;
	for (size_t i = 0; i < n; i++)
		from[i] = strangers[i]->from;
	size_t who = crowd_gives_way(from, n, &newcomer);
	if (who == n)
		return false;
	links_session_end(strangers[who], "strangers from elsewhere wait");
	return true;
}

void links_accept(struct links *l, int fd)
{
	struct session *s, *strangers[LINK_STRANGERS_MAX];
	size_t n = 0;
	LIST_FOREACH (s, &l->sessions, link)
		if (!s->dying && !s->live && n < LINK_STRANGERS_MAX &&
			(s->kind == SESSION_ACCEPTED || s->kind == SESSION_GUEST))
			strangers[n++] = s;
	if (n == LINK_STRANGERS_MAX && !make_place(strangers, n, fd)) {
		close(fd);
		return;
	}
	(void)links_session_add(l, l->ctx, SESSION_ACCEPTED, fd, false);
}

/* ---- messages ---- */

int links_send(struct links *l, const char *node, const uint8_t *buf, size_t len)
{
	struct session *s = session_live(l, node);
	if (!s)
		return -ENOTCONN;
	int r = session_send(s, buf, len);
	if (r == -ENOBUFS)
		links_session_end(s, "the other node does not read");
	return r;
}

void links_drop(struct links *l, const char *node, const char *why)
{
	struct session *s, *next;
	for (s = LIST_FIRST(&l->sessions); s; s = next) {
		next = LIST_NEXT(s, link);
		if (!s->dying && strcmp(s->node, node) == 0)
			links_session_quit(s, why);
	}
}

void links_announce(struct links *l)
{
	struct session *s;
	LIST_FOREACH (s, &l->sessions, link)
		if (!s->dying)
			links_session_quit(s, "the guard was replaced");
}

int links_session_message(struct session *s, const uint8_t *buf, size_t len)
{
	if (s->kind == SESSION_GUEST)
		return links_join_asked(s, buf, len);
	if (s->kind == SESSION_JOINING)
		return links_join_answered(s, buf, len);
	if (!s->live || buf[0] == TAG_JOIN || buf[0] == TAG_JOINED)
		return -EBADMSG;
	static const uint8_t pong[] = {TAG_PONG, 0};
	if (buf[0] == TAG_PING) {
		int r = session_send(s, pong, sizeof(pong));
		s->unheard_ms = 0; /* nobody answers an answer */
		return r;
	}
	if (buf[0] == TAG_PONG)
		return 0; /* that something was heard is noted already */
	return s->links->ops.received(s->links->data, s->node, buf, len);
}

/* ---- identity ---- */

int links_identity(struct links *l, const struct der *key, const struct der *cert,
	const struct der *ca, struct error *e)
{
	if (l->ctx && l->cert.len == cert->len && memcmp(l->cert.data, cert->data, cert->len) == 0)
		return 0;
	struct x509_node self;
	struct tls_ctx *ctx = NULL;
	int r = x509_node_verify(cert->data, cert->len, ca->data, ca->len, &self, e);
	if (r == 0)
		r = tls_ctx_new(
			key->data, key->len, cert->data, cert->len, ca->data, ca->len, &ctx, e);
	struct der copy = {.data = r == 0 ? malloc(cert->len) : NULL, .len = cert->len};
	if (r < 0 || !copy.data) {
		tls_ctx_free(ctx);
		return r < 0 ? r : error_set(e, -ENOMEM, "out of memory");
	}
	memcpy(copy.data, cert->data, cert->len);
	struct session *s;
	LIST_FOREACH (s, &l->sessions, link)
		if (s->kind != SESSION_JOINING && s->kind != SESSION_GUEST)
			links_session_quit(s, "this node has a new certificate");
	tls_ctx_free(l->ctx);
	der_clear(&l->cert);
	l->ctx = ctx;
	l->cert = copy;
	memcpy(l->self, self.node, sizeof(l->self));
	for (size_t i = 0; i < l->n_peers; i++)
		l->peers[i].dial_at = links_now(l) + 1;
	links_arm(l);
	return 0;
}

/* ---- time ---- */

static bool session_is_link(const struct session *s)
{
	return s->live && s->kind != SESSION_JOINING;
}

/* When a session that stays silent is over. Joining waits for people's guards and a signature. */
static uint64_t session_deadline(const struct session *s)
{
	const struct link_limits *k = &s->links->limits;
	if (session_is_link(s))
		return s->unheard_ms ? s->unheard_ms + k->dead_ms : UINT64_MAX;
	return s->started_ms + (s->asked || s->live ? 4 : 1) * k->handshake_ms;
}

/* When session_tick() has something to do. */
static uint64_t session_due(const struct session *s)
{
	if (session_is_link(s) && s->unheard_ms && !s->pinged)
		return s->unheard_ms + s->links->limits.ping_ms;
	return session_deadline(s);
}

static void session_tick(struct session *s, uint64_t now)
{
	static const uint8_t ping[] = {TAG_PING, 0};
	bool link = session_is_link(s);
	if (now >= session_deadline(s)) {
		links_session_end(
			s, link ? "nothing heard for too long" : "the handshake took too long");
	} else if (link && now >= session_due(s)) {
		s->pinged = true;
		if (session_send(s, ping, sizeof(ping)) < 0)
			links_session_end(s, "the other node does not read");
	}
}

/* Something has been said that wants an answer. The timer is not moved while it stands earlier. */
void links_session_said(struct session *s)
{
	struct links *l = s->links;
	if (!uv_is_active((uv_handle_t *)l->timer) || l->armed_ms > session_due(s))
		links_arm(l);
}

static void links_tick(uv_timer_t *t)
{
	struct links *l = t->data;
	uint64_t now = links_now(l);
	struct session *s, *next;
	LIST_FOREACH (s, &l->sessions, link)
		if (!s->dying)
			session_tick(s, now);
	for (s = LIST_FIRST(&l->sessions); s; s = next) {
		next = LIST_NEXT(s, link);
		if (!s->dying)
			continue;
		LIST_REMOVE(s, link);
		l->n_sessions--;
		session_free(s);
	}
	for (size_t i = 0; i < l->n_peers; i++)
		if (l->peers[i].dial_at && l->peers[i].dial_at <= now)
			peer_dial(l, &l->peers[i]);
	links_arm(l);
}

/* The next moment at which something is due; none, and the timer stands still. */
static void links_arm(struct links *l)
{
	uint64_t now = links_now(l), next = UINT64_MAX;
	struct session *s;
	LIST_FOREACH (s, &l->sessions, link) {
		uint64_t at = s->dying ? now : session_due(s);
		next = at < next ? at : next;
	}
	for (size_t i = 0; i < l->n_peers; i++)
		if (l->peers[i].dial_at && l->peers[i].dial_at < next)
			next = l->peers[i].dial_at;
	if (l->freeing)
		return;
	l->armed_ms = next;
	uv_update_time(l->loop);
	if (next == UINT64_MAX)
		uv_timer_stop(l->timer);
	else
		uv_timer_start(l->timer, links_tick, next > now ? next - now : 0, 0);
}

/* ---- life ---- */

int links_new(uv_loop_t *loop, const struct links_ops *ops, void *data,
	const struct link_limits *limits, struct links **ret)
{
	struct links *l = calloc(1, sizeof(*l));
	uv_timer_t *t = calloc(1, sizeof(*t));
	if (!l || !t) {
		free(l);
		free(t);
		return -ENOMEM;
	}
	l->loop = loop;
	l->ops = *ops;
	l->data = data;
	l->limits = limits ? *limits : link_limits_default;
	LIST_INIT(&l->sessions);
	(void)uv_timer_init(loop, t);
	t->data = l;
	l->timer = t;
	*ret = l;
	return 0;
}

static void timer_free(uv_handle_t *h)
{
	free(h);
}

struct links *links_free(struct links *l)
{
	if (!l)
		return NULL;
	l->freeing = true;
	while (!LIST_EMPTY(&l->sessions)) {
		struct session *s = LIST_FIRST(&l->sessions);
		LIST_REMOVE(s, link);
		session_free(s);
	}
	uv_close((uv_handle_t *)l->timer, timer_free);
	tls_ctx_free(l->ctx);
	der_clear(&l->cert);
	free(l);
	return NULL;
}
