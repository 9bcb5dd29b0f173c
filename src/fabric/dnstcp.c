/*
 * The relay's TCP half (dns.h): a program's connection, one query at a time, each asked over a TCP
 * socket of the host's network. Input: as in dns.c. A client that sends anything but a well-framed
 * query, or is slower than the time-out, is disconnected; every buffer is bounded by the two length
 * bytes of DNS over TCP.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "fabric/diag.h"
#include "fabric/dns.h"
#include "fabric/sock.h"

struct dns_client {
	struct dns *dns;
	struct addr resolver;
	int fd;
	uint32_t asker, *place; /* mark of who asks; its place among all */
	uv_poll_t poll;
	uv_timer_t timer;
	int open_handles;
	struct dns_slot *slot; /* the question under way */
	uint8_t in[2 + DNS_QUERY_MAX];
	size_t in_len;
	uint8_t *out; /* the answer being written */
	size_t out_len, out_done;
};

static void client_read(uv_poll_t *p, int status, int events);
static void client_frame(struct dns_client *c);

static void client_freed(uv_handle_t *h)
{
	struct dns_client *c = h->data;
	if (--c->open_handles == 0)
		free(c);
}

static void client_close(struct dns_client *c)
{
	if (c->slot)
		dns_slot_release(c->slot);
	c->slot = NULL;
	free(c->out);
	c->out = NULL;
	*c->place = 0;
	uv_poll_stop(&c->poll);
	uv_close((uv_handle_t *)&c->poll, client_freed);
	uv_close((uv_handle_t *)&c->timer, client_freed);
	close(c->fd);
}

static void client_timeout(uv_timer_t *t)
{
	client_close(t->data);
}

static void client_wait(struct dns_client *c, int events, uv_poll_cb cb)
{
	uv_update_time(c->dns->loop);
	uv_timer_start(&c->timer, client_timeout, 2 * DNS_TIMEOUT_MS, 0);
	uv_poll_start(&c->poll, events, cb);
}

/* ---- the answer to the program ---- */

static void client_write(uv_poll_t *p, int status, int events)
{
	struct dns_client *c = p->data;
	(void)events;
	ssize_t n = status < 0 ? -1
			       : send(c->fd, c->out + c->out_done, c->out_len - c->out_done,
					 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && (status < 0 || errno != EAGAIN)) {
		client_close(c);
		return;
	}
	c->out_done += n > 0 ? (size_t)n : 0;
	if (c->out_done < c->out_len) {
		client_wait(c, UV_WRITABLE, client_write);
		return;
	}
	free(c->out);
	c->out = NULL;
	client_wait(c, UV_READABLE, client_read);
	client_frame(c); /* a second query may have come with the first */
}

/* Takes buf: two bytes of length, then the message. */
static void client_send(struct dns_client *c, uint8_t *buf, size_t len)
{
	c->out = buf;
	c->out_len = len;
	c->out_done = 0;
	client_write(&c->poll, 0, 0);
}

static void client_refuse(struct dns_client *c, const struct dns_query *q, enum dns_rcode code)
{
	uint8_t *buf = malloc(2 + DNS_BUILD_MAX);
	if (!buf) {
		client_close(c);
		return;
	}
	size_t len = dns_refusal_build(q, code, false, buf + 2);
	buf[0] = (uint8_t)(len >> 8);
	buf[1] = (uint8_t)len;
	client_send(c, buf, len + 2);
}

void dns_tcp_end(struct dns_slot *s, bool answered)
{
	struct dns_client *c = s->client;
	struct dns_query q = s->query;
	uint8_t *buf = NULL;
	size_t len = s->len;
	if (answered) {
		buf = s->buf;
		s->buf = NULL;
		dns_answer_set_id(buf + 2, q.id);
	}
	dns_slot_release(s);
	c->slot = NULL;
	if (buf)
		client_send(c, buf, len);
	else
		client_refuse(c, &q, DNS_SERVFAIL);
}

/* ---- the question to the resolver ---- */

static void upstream_read(uv_poll_t *p, int status, int events)
{
	struct dns_slot *s = p->data;
	(void)events;
	/* First the two bytes of length, then as much as they say. */
	size_t want = s->done < 2 ? 2 : s->len;
	ssize_t n = status < 0 ? -1 : recv(s->fd, s->buf + s->done, want - s->done, MSG_DONTWAIT);
	if (n < 0 && status >= 0 && errno == EAGAIN)
		return;
	if (n <= 0) {
		dns_tcp_end(s, false);
		return;
	}
	s->done += (size_t)n;
	if (s->done == 2 && want == 2) {
		s->len = 2u + (size_t)(s->buf[0] << 8 | s->buf[1]);
		if (s->len < 2 + DNS_HEADER)
			dns_tcp_end(s, false);
	} else if (s->done > 2 && s->done == s->len) {
		dns_tcp_end(s, dns_answer_matches(s->buf + 2, s->len - 2, &s->query, s->id));
	}
}

static void upstream_write(uv_poll_t *p, int status, int events)
{
	struct dns_slot *s = p->data;
	(void)events;
	ssize_t n = status < 0 ? -1
			       : send(s->fd, s->buf + s->done, s->len - s->done,
					 MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && status >= 0 && errno == EAGAIN)
		return;
	if (n < 0) {
		dns_tcp_end(s, false);
		return;
	}
	s->done += (size_t)n;
	if (s->done < s->len)
		return;
	s->len = s->done = 0;
	uv_poll_start(&s->poll, UV_READABLE, upstream_read);
}

static void upstream_timeout(uv_timer_t *t)
{
	dns_tcp_end(t->data, false);
}

static void client_ask(struct dns_client *c, const struct dns_query *q)
{
	struct dns *d = c->dns;
	struct dns_slot *s = dns_slot_take(d, true, c->resolver.ip_len == 16, c->asker);
	if (!s) {
		client_refuse(c, q, DNS_SERVFAIL);
		return;
	}
	s->query = *q;
	s->client = c;
	c->slot = s;
	s->buf = malloc(2 + UINT16_MAX);
	if (!s->buf || dns_id(&s->id) < 0 || dns_slot_connect(s, &c->resolver) < 0) {
		dns_tcp_end(s, false);
		return;
	}
	size_t len = dns_query_build(q, s->id, s->buf + 2);
	s->buf[0] = (uint8_t)(len >> 8);
	s->buf[1] = (uint8_t)len;
	s->len = len + 2;
	s->done = 0;
	uv_poll_stop(&c->poll); /* one question at a time */
	uv_update_time(d->loop);
	uv_timer_start(&s->timer, upstream_timeout, DNS_TIMEOUT_MS, 0);
	uv_poll_start(&s->poll, UV_WRITABLE, upstream_write);
}

/* ---- the program's side ---- */

static void client_query(struct dns_client *c, size_t len)
{
	struct dns_query q;
	int code = dns_rate(c->dns, c->asker) ? dns_query_parse(c->in + 2, len, &q) : -1;
	c->in_len -= 2 + len;
	memmove(c->in, c->in + 2 + len, c->in_len);
	if (code < 0)
		client_close(c);
	else if (code != DNS_OK)
		client_refuse(c, &q, (enum dns_rcode)code);
	else
		client_ask(c, &q);
}

/* The next query, if all of it is there. */
static void client_frame(struct dns_client *c)
{
	if (c->in_len < 2)
		return;
	size_t len = (size_t)(c->in[0] << 8 | c->in[1]);
	if (len > DNS_QUERY_MAX || len < DNS_HEADER)
		client_close(c);
	else if (c->in_len >= 2 + len)
		client_query(c, len);
}

static void client_read(uv_poll_t *p, int status, int events)
{
	struct dns_client *c = p->data;
	(void)events;
	if (c->in_len < 2 || c->in_len < 2u + (size_t)(c->in[0] << 8 | c->in[1])) {
		ssize_t n = status < 0 ? -1
				       : recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len,
						 MSG_DONTWAIT);
		if (n < 0 && status >= 0 && errno == EAGAIN)
			return;
		if (n <= 0) {
			client_close(c);
			return;
		}
		c->in_len += (size_t)n;
	}
	client_frame(c);
}

/* The mark of the socket at the other end; 0: it has gone. */
static uint32_t client_asker(struct dns *d, int fd)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct addr own, peer;
	struct diag_sock s;
	if (sock_local(fd, &own) < 0 || getpeername(fd, (struct sockaddr *)&sa, &len) < 0 ||
		addr_from_sockaddr(&sa, len, &peer) < 0)
		return 0;
	return diag_get(d->diag, &peer, &own, &s) < 0 ? 0 : s.mark;
}

void dns_tcp_accept(uv_poll_t *poll, int status, int events)
{
	struct dns_place *p = poll->data;
	(void)events;
	int fd = status < 0 ? -1 : accept4(p->tcp, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	if (fd < 0)
		return;
	uint32_t asker = client_asker(p->dns, fd), *place = dns_client_take(p->dns, asker);
	struct dns_client *c = place ? calloc(1, sizeof(*c)) : NULL;
	if (place && !c)
		*place = 0;
	if (!c || uv_poll_init(p->dns->loop, &c->poll, fd) < 0) {
		if (c)
			*place = 0;
		free(c);
		close(fd);
		return;
	}
	uv_timer_init(p->dns->loop, &c->timer);
	c->dns = p->dns;
	c->resolver = p->resolver;
	c->fd = fd;
	c->open_handles = 2;
	c->poll.data = c->timer.data = c;
	c->asker = asker;
	c->place = place;
	client_wait(c, UV_READABLE, client_read);
}
