/*
 * One TLS connection (session.h). Input: encrypted bytes of a stranger, then of a node. Messages
 * are 4 bytes of length and that many bytes; a length of 0 or above LINK_MESSAGE_MAX ends the
 * connection, and memory for a message grows with what has arrived, not with what was announced.
 */
#include "link/session.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#define READ_CHUNK 16384

static void on_ready(uv_poll_t *p, int status, int events);

static void session_watch(struct session *s)
{
	int ev = s->connecting ? UV_WRITABLE : UV_READABLE | (s->out_len ? UV_WRITABLE : 0);
	if (ev != s->watched) /* libuv would tell the kernel also what it knows */
		uv_poll_start(s->poll, ev, on_ready);
	s->watched = ev;
}

static void poll_free(uv_handle_t *h)
{
	free(h);
}

struct session *session_new(
	struct links *l, struct tls_ctx *ctx, enum session_kind kind, int fd, bool connecting)
{
	struct session *s = calloc(1, sizeof(*s));
	uv_poll_t *p = calloc(1, sizeof(*p));
	enum tls_role role = kind == SESSION_ACCEPTED ? TLS_ANSWER_JOIN : TLS_DIAL;
	if (!s || !p || tls_conn_new(ctx, role, &s->tls) < 0) {
		free(p);
		free(s);
		close(fd);
		return NULL;
	}
	s->links = l;
	s->kind = kind;
	s->fd = fd;
	s->connecting = connecting;
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	if (getpeername(fd, (struct sockaddr *)&ss, &len) == 0 &&
		addr_from_sockaddr(&ss, len, &s->from) == 0)
		addr_format(&s->from, true, s->remote);
	s->started_ms = links_now(l);
	if (uv_poll_init(links_loop(l), p, fd) < 0) {
		tls_conn_free(s->tls);
		free(p);
		free(s);
		close(fd);
		return NULL;
	}
	s->poll = p;
	p->data = s;
	session_watch(s);
	return s;
}

void session_free(struct session *s)
{
	uv_poll_stop(s->poll);
	uv_close((uv_handle_t *)s->poll, poll_free);
	close(s->fd);
	tls_conn_free(s->tls);
	if (s->in)
		secret_zero(s->in, s->in_cap);
	free(s->in);
	free(s->out);
	secret_zero(s->join.token, sizeof(s->join.token));
	free((void *)(uintptr_t)s->join.csr);
	free(s);
}

/* ---- out ---- */

/* Return: false when the socket is broken. */
static bool session_write(struct session *s, const uint8_t *p, size_t n, size_t *ret_sent)
{
	ssize_t r = send(s->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	*ret_sent = r > 0 ? (size_t)r : 0;
	return r >= 0 || errno == EAGAIN || errno == EINTR;
}

static bool session_drain(struct session *s)
{
	size_t n;
	if (!s->out_len)
		return true;
	if (!session_write(s, s->out + s->out_at, s->out_len, &n))
		return false;
	s->out_at += n;
	s->out_len -= n;
	if (!s->out_len) {
		free(take_ptr(s->out));
		s->out_at = 0;
	}
	return true;
}

static bool session_push(struct session *s)
{
	uint8_t buf[READ_CHUNK];
	size_t n, sent;
	/* What the socket does not take stays here, and the rest in TLS, which bounds it. */
	while (!s->out_len && (n = tls_conn_take(s->tls, buf, sizeof(buf))) > 0) {
		if (!session_write(s, buf, n, &sent))
			return false;
		if (sent == n)
			continue;
		s->out = malloc(n - sent);
		if (!s->out)
			return false;
		memcpy(s->out, buf + sent, n - sent);
		s->out_len = n - sent;
		s->out_at = 0;
	}
	return true;
}

void session_flush(struct session *s)
{
	if (s->dying || s->connecting)
		return;
	if (!session_drain(s) || !session_push(s))
		links_session_end(s, "the connection broke");
	else
		session_watch(s);
}

int session_send(struct session *s, const uint8_t *buf, size_t len)
{
	if (len == 0 || len > LINK_MESSAGE_MAX)
		return -EMSGSIZE;
	/* Length and message are one record. */
	static uint8_t out[4 + LINK_MESSAGE_MAX];
	out[0] = 0;
	out[1] = (uint8_t)(len >> 16);
	out[2] = (uint8_t)(len >> 8);
	out[3] = (uint8_t)len;
	memcpy(out + 4, buf, len);
	int r = tls_conn_write(s->tls, out, 4 + len);
	secret_zero(out, 4 + len); /* may hold a channel key */
	if (r < 0)
		return r;
	if (!s->unheard_ms) {
		s->unheard_ms = links_now(s->links);
		links_session_said(s);
	}
	session_flush(s);
	return 0;
}

/* ---- in ---- */

/* Return: 0, or negative: what arrived is not messages, or a message was a surprise. */
static int session_messages(struct session *s)
{
	size_t at = 0;
	while (!s->dying && s->in_len - at >= 4) {
		const uint8_t *p = s->in + at;
		size_t len = (size_t)p[0] << 24 | (size_t)p[1] << 16 | (size_t)p[2] << 8 | p[3];
		if (len == 0 || len > LINK_MESSAGE_MAX)
			return -EBADMSG;
		if (s->in_len - at - 4 < len)
			break;
		int r = links_session_message(s, p + 4, len);
		if (r < 0)
			return r;
		at += 4 + len;
	}
	if (s->dying)
		return 0;
	memmove(s->in, s->in + at, s->in_len - at);
	s->in_len -= at;
	return 0;
}

static int session_append(struct session *s, const uint8_t *p, size_t n)
{
	if (s->in_len + n > s->in_cap) {
		size_t cap = s->in_cap ? s->in_cap : 4096;
		while (cap < s->in_len + n)
			cap *= 2;
		uint8_t *q = realloc(s->in, cap);
		if (!q)
			return -ENOMEM;
		s->in = q;
		s->in_cap = cap;
	}
	memcpy(s->in + s->in_len, p, n);
	s->in_len += n;
	return 0;
}

/* Everything TLS has decrypted. Return: false when the session ended. */
static bool session_plaintext(struct session *s)
{
	uint8_t buf[READ_CHUNK];
	bool open = s->live || s->kind == SESSION_GUEST;
	if (!open && tls_conn_state(s->tls) == TLS_OPEN) {
		links_session_open(s);
	}
	for (;;) {
		if (s->dying)
			return false;
		ssize_t n = tls_conn_state(s->tls) == TLS_HANDSHAKE
				    ? -EAGAIN
				    : tls_conn_read(s->tls, buf, sizeof(buf));
		if (n == -EAGAIN)
			return true;
		if (n <= 0) {
			const char *why = tls_conn_why(s->tls);
			links_session_end(s, n == 0 ? "closed by the other node"
					     : *why ? why
						    : "TLS failed");
			return false;
		}
		s->unheard_ms = 0;
		s->pinged = false;
		int r = session_append(s, buf, (size_t)n);
		secret_zero(buf, (size_t)n);
		if (r == 0)
			r = session_messages(s);
		if (r < 0) {
			links_session_end(s, "the other node sent what is no message");
			return false;
		}
	}
}

static void session_read(struct session *s)
{
	uint8_t buf[READ_CHUNK];
	ssize_t n = recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n <= 0) {
		links_session_end(s, n ? strerror(errno) : "the connection was closed");
		return;
	}
	int r = tls_conn_feed(s->tls, buf, (size_t)n);
	if (r < 0) {
		const char *why = tls_conn_why(s->tls);
		if (session_push(s)) /* the alert, so that the other side knows why */
			links_session_end(s, *why ? why : "TLS failed");
		else
			links_session_end(s, "TLS failed");
		return;
	}
	if (session_plaintext(s))
		session_flush(s);
}

static void on_ready(uv_poll_t *p, int status, int events)
{
	struct session *s = p->data;
	if (s->connecting) {
		int err = 0;
		socklen_t len = sizeof(err);
		getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err) {
			links_session_end(s, strerror(err));
			return;
		}
		s->connecting = false;
		if (tls_conn_handshake(s->tls) < 0)
			links_session_end(s, "TLS failed");
		else
			session_flush(s);
		return;
	}
	if (status < 0)
		events = UV_READABLE;
	if (events & UV_WRITABLE)
		session_flush(s);
	if ((events & UV_READABLE) && !s->dying)
		session_read(s);
}
