/*
 * A data connection that has proven nothing yet (docs/protocol.md, 3): dialed or accepted. Its
 * input is anybody's: at most a few hundred bytes are read, the number of such connections and
 * their time are bounded, and nothing but the preamble's own steps happens. Bytes behind the
 * preamble stay in the kernel.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/crowd.h"
#include "conn/internal.h"
#include "crypto/hmac.h"
#include "crypto/random.h"

enum proof_step {
	PROOF_CONNECTING,  /* dialer */
	PROOF_WAIT_REPLY,  /* dialer */
	PROOF_WAIT_HELLO,  /* acceptor */
	PROOF_WAIT_ANSWER, /* acceptor */
};

struct proof {
	struct watch watch;
	LIST_ENTRY(proof) link;
	enum proof_step step;
	struct carrier *carrier; /* dialer: whose this will be; acceptor: after the hello */
	struct peer *peer;
	int fd;
	struct addr from; /* acceptor: whoever that is */
	uint64_t deadline;
	size_t have, need; /* of the message being read, at `base` */
	size_t base;
	uint8_t buf[PREAMBLE_MAX]; /* everything said so far: what the MACs cover */
};

void proof_free(struct engine *e, struct proof *p)
{
	bool dialing = p->step == PROOF_CONNECTING || p->step == PROOF_WAIT_REPLY;
	if (dialing) {
		struct carrier *c = p->carrier;
		c->proof = NULL;
		if (!c->up && !c->peer->retired) {
			c->backoff_ms =
				c->backoff_ms * 2 > DIAL_LAST_MS ? DIAL_LAST_MS : c->backoff_ms * 2;
			c->redial_at = e->now + c->backoff_ms;
			engine_schedule(e, c->redial_at);
		}
	}
	if (p->fd >= 0) {
		engine_unwatch(e, p->fd);
		close(p->fd);
	}
	LIST_REMOVE(p, link);
	e->n_proofs--;
	secret_zero(p->buf, sizeof(p->buf));
	engine_bury(e, &p->watch);
}

static struct proof *proof_new(struct engine *e, int fd, enum proof_step step)
{
	struct proof *p = calloc(1, sizeof(*p));
	if (!p || engine_watch(e, fd, &p->watch, WATCH_PROOF) < 0) {
		free(p);
		close(fd);
		return NULL;
	}
	p->fd = fd;
	p->step = step;
	p->deadline = e->now + e->limits.proof_ms;
	LIST_INSERT_HEAD(&e->proofs, p, link);
	e->n_proofs++;
	engine_schedule(e, p->deadline);
	return p;
}

/* A place among those who have proven nothing; when all are taken, one of another's. */
static bool make_place(struct engine *e, const struct addr *newcomer)
{
	struct addr from[ENGINE_PROOFS_MAX];
	struct proof *p, *accepted[ENGINE_PROOFS_MAX];
	size_t n = 0;
	LIST_FOREACH (p, &e->proofs, link)
		if (p->step >= PROOF_WAIT_HELLO && n < ENGINE_PROOFS_MAX) {
			from[n] = p->from;
			accepted[n++] = p;
		}
	if (n < ENGINE_PROOFS_MAX)
		return true;
	size_t who = crowd_gives_way(from, n, newcomer);
	if (who < n)
		proof_free(e, accepted[who]);
	return who < n;
}

void proof_accept(struct engine *e, int fd)
{
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr from = {0};
	if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0 &&
		addr_from_sockaddr(&ss, len, &from) < 0)
		from = (struct addr){0};
	if (!make_place(e, &from)) {
		close(fd);
		return;
	}
	struct proof *p = proof_new(e, fd, PROOF_WAIT_HELLO);
	if (!p)
		return;
	p->need = 8;
	p->from = from;
}

void proof_dial(struct carrier *c)
{
	struct engine *e = c->engine;
	struct sockaddr_storage sa;
	socklen_t len;
	int family = c->peer->data.ip_len == 4 ? AF_INET : AF_INET6;
	c->redial_at = 0;
	if (c->proof || c->up || addr_to_sockaddr(&c->peer->data, family, &sa, &len) < 0)
		return;
	int fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS)
		close(take_fd(&fd));
	struct proof *p = fd >= 0 ? proof_new(e, fd, PROOF_CONNECTING) : NULL;
	if (!p) {
		c->redial_at = e->now + DIAL_LAST_MS;
		engine_schedule(e, c->redial_at);
		return;
	}
	p->carrier = c;
	p->peer = c->peer;
	c->proof = p;
}

/* A fresh socket takes a preamble whole; one that does not is of no use. */
static int proof_send(struct proof *p, size_t from, size_t len)
{
	return send(p->fd, p->buf + from, len, MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)len
		       ? 0
		       : -EPIPE;
}

static int proof_dialed(struct proof *p)
{
	int err = 0;
	socklen_t len = sizeof(err);
	if (getsockopt(p->fd, SOL_SOCKET, SO_ERROR, &err, &len) < 0 || err)
		return -EPIPE;
	struct preamble_hello h = {.index = p->carrier->index};
	memcpy(h.from, p->peer->self, sizeof(h.from));
	memcpy(h.to, p->peer->node, sizeof(h.to));
	random_bytes(h.nonce, sizeof(h.nonce));
	int n = preamble_hello_encode(&h, p->buf);
	if (n < 0)
		return n;
	p->base = (size_t)n;
	p->have = 0;
	p->need = PREAMBLE_REPLY_LEN;
	p->step = PROOF_WAIT_REPLY;
	return proof_send(p, 0, (size_t)n);
}

/* Dialer: the acceptor knows the secret; show that we do. */
static int proof_replied(struct proof *p)
{
	uint8_t mac[HMAC_LEN], *theirs = p->buf + p->base + PREAMBLE_NONCE_LEN;
	int r = hmac_sha256(p->peer->acceptor_key, 32, p->buf, p->base + PREAMBLE_NONCE_LEN, mac);
	if (r < 0 || !secret_equal(mac, theirs, HMAC_LEN))
		return -EACCES;
	r = hmac_sha256(p->peer->dialer_key, 32, p->buf, p->base + PREAMBLE_REPLY_LEN, mac);
	if (r < 0)
		return r;
	memcpy(p->buf, mac, HMAC_LEN);
	r = proof_send(p, 0, HMAC_LEN);
	return r < 0 ? r : 1;
}

/* Acceptor: somebody names a node; answer so that it can check us, and ask for its proof. */
static int proof_hello(struct engine *e, struct proof *p)
{
	struct preamble_hello h;
	int n = preamble_hello_decode(p->buf, p->have, &h);
	if (n < 0)
		return n;
	if (n == 0) { /* the fixed part is there: it tells the length */
		p->need = 8u + p->buf[6] + p->buf[7] + PREAMBLE_NONCE_LEN;
		return 0;
	}
	struct peer *q;
	LIST_FOREACH (q, &e->peers, link)
		if (!q->retired && strcmp(q->node, h.from) == 0)
			break;
	if (!q || q->we_dial || strcmp(q->self, h.to) != 0 || h.index >= ENGINE_CARRIERS)
		return -EACCES;
	p->peer = q;
	p->carrier = &q->carriers[h.index];
	size_t at = (size_t)n;
	random_bytes(p->buf + at, PREAMBLE_NONCE_LEN);
	int r = hmac_sha256(q->acceptor_key, 32, p->buf, at + PREAMBLE_NONCE_LEN,
		p->buf + at + PREAMBLE_NONCE_LEN);
	if (r < 0)
		return r;
	/* The answer is read behind the transcript; hello is at most PREAMBLE_HELLO_MAX, so it fits
	 * below. */
	uint8_t mac[HMAC_LEN];
	r = hmac_sha256(q->dialer_key, 32, p->buf, at + PREAMBLE_REPLY_LEN, mac);
	if (r == 0)
		r = proof_send(p, at, PREAMBLE_REPLY_LEN);
	memcpy(p->buf, mac, HMAC_LEN); /* what we expect */
	secret_zero(mac, sizeof(mac));
	p->base = HMAC_LEN;
	p->have = 0;
	p->need = HMAC_LEN;
	p->step = PROOF_WAIT_ANSWER;
	return r;
}

static int proof_answered(struct proof *p)
{
	return !p->peer->retired && secret_equal(p->buf, p->buf + p->base, HMAC_LEN) ? 1 : -EACCES;
}

/* Return: 1 proven, 0 more is to come, negative: close. */
static int proof_step(struct engine *e, struct proof *p)
{
	while (p->have < p->need) {
		ssize_t n =
			recv(p->fd, p->buf + p->base + p->have, p->need - p->have, MSG_DONTWAIT);
		if (n < 0 && errno == EAGAIN)
			return 0;
		if (n <= 0)
			return -EPIPE;
		p->have += (size_t)n;
		if (p->have < p->need)
			continue;
		int r = p->step == PROOF_WAIT_REPLY   ? proof_replied(p)
			: p->step == PROOF_WAIT_HELLO ? proof_hello(e, p)
						      : proof_answered(p);
		if (r)
			return r;
	}
	return 0;
}

void proof_event(struct engine *e, struct proof *p, uint32_t events)
{
	int r = 0;
	if (p->step == PROOF_CONNECTING) {
		if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
			return;
		r = proof_dialed(p);
	}
	if (r == 0)
		r = proof_step(e, p);
	if (r == 0)
		return;
	struct carrier *c = p->carrier;
	int fd = r == 1 ? take_fd(&p->fd) : -1;
	if (fd >= 0)
		carrier_up(c, fd);
	proof_free(e, p);
}

uint64_t proofs_tick(struct engine *e, uint64_t next)
{
	struct proof *p, *after;
	for (p = LIST_FIRST(&e->proofs); p; p = after) {
		after = LIST_NEXT(p, link);
		if (p->deadline <= e->now)
			proof_free(e, p);
		else if (p->deadline < next)
			next = p->deadline;
	}
	return next;
}

/* Those that answered a hello of this peer must not outlive it. */
void proofs_forget(struct engine *e, const struct peer *q)
{
	struct proof *p, *after;
	for (p = LIST_FIRST(&e->proofs); p; p = after) {
		after = LIST_NEXT(p, link);
		if (p->peer == q)
			proof_free(e, p);
	}
}

void proofs_drop(struct engine *e)
{
	while (!LIST_EMPTY(&e->proofs))
		proof_free(e, LIST_FIRST(&e->proofs));
}
