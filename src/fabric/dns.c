/*
 * The relay, its slots and its UDP half (dns.h). Input: programs' queries, hostile; resolvers'
 * answers, hardly less. A query is parsed, made anew with a random id and asked from a random port
 * by a *connected* socket, so that the kernel itself drops what does not come from the resolver; an
 * answer goes to the one who asked, if id and question match, and to nobody otherwise.
 *
 * The sockets that ask belong to the host's network: they are made before the process leaves it,
 * and used again and again, because dissolving a connection (AF_UNSPEC) makes both UDP and TCP
 * sockets as new, with another port. So no process needs to stay behind. Their number bounds the
 * questions under way.
 */
#include "fabric/dns.h"

#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <unistd.h>

#include "base/log.h"
#include "fabric/sock.h"

#define DNS_TURN 16 /* messages read in one turn of the loop */

/* ---- slots ---- */

void dns_prepare(struct dns *d)
{
	static const struct {
		int n;
		bool tcp, v6;
	} kinds[] = {{DNS_UDP4, false, false}, {DNS_UDP6, false, true}, {DNS_TCP4, true, false},
		{DNS_TCP6, true, true}};
	struct dns_slot *s = d->slots;
	memset(d, 0, sizeof(*d));
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
		for (int i = 0; i < kinds[k].n; i++, s++) {
			int type = (kinds[k].tcp ? SOCK_STREAM : SOCK_DGRAM) | SOCK_NONBLOCK;
			*s = (struct dns_slot){.dns = d, .tcp = kinds[k].tcp, .v6 = kinds[k].v6};
			s->fd = socket(s->v6 ? AF_INET6 : AF_INET, type | SOCK_CLOEXEC, 0);
		}
}

int dns_id(uint16_t *ret)
{
	return getrandom(ret, sizeof(*ret), 0) == sizeof(*ret) ? 0 : -EIO;
}

static void slot_dissolve(struct dns_slot *s)
{
	struct sockaddr sa = {.sa_family = AF_UNSPEC};
	(void)!connect(s->fd, &sa, sizeof(sa));
}

void dns_slot_release(struct dns_slot *s)
{
	uv_poll_stop(&s->poll);
	uv_timer_stop(&s->timer);
	slot_dissolve(s);
	free(s->buf);
	s->buf = NULL;
	s->client = NULL;
	s->place = NULL;
	s->len = s->done = 0;
	s->busy = false;
}

int dns_slot_connect(struct dns_slot *s, const struct addr *resolver)
{
	struct sockaddr_storage sa;
	socklen_t len;
	slot_dissolve(s);
	int r = addr_to_sockaddr(resolver, s->v6 ? AF_INET6 : AF_INET, &sa, &len);
	if (r < 0)
		return r;
	return connect(s->fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS ? -errno : 0;
}

/* ---- answers over UDP ---- */

static void udp_reply(const struct dns_slot *s, const uint8_t *buf, size_t len)
{
	/* A program that has gone, or whose answer the filter no longer knows, gets nothing. */
	(void)!sendto(s->place->udp, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL,
		(const struct sockaddr *)&s->from, s->from_len);
}

static void udp_refuse(const struct dns_slot *s, enum dns_rcode code, bool truncated)
{
	uint8_t buf[DNS_BUILD_MAX];
	udp_reply(s, buf, dns_refusal_build(&s->query, code, truncated, buf));
}

static void udp_answer(uv_poll_t *p, int status, int events)
{
	struct dns_slot *s = p->data;
	uint8_t buf[DNS_EDNS_MAX + 1];
	(void)events;
	for (int i = 0; i < DNS_TURN; i++) {
		ssize_t n = status < 0 ? -1 : recv(s->fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (n < 0 && status >= 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n < 0) {
			udp_refuse(s, DNS_SERVFAIL, false);
			dns_slot_release(s);
			return;
		}
		/* An answer to a question of before, or a forgery: not for this asker. */
		if (!dns_answer_matches(buf, (size_t)n, &s->query, s->id))
			continue;
		if ((size_t)n > s->query.size_max) {
			udp_refuse(s, DNS_OK, true);
		} else {
			dns_answer_set_id(buf, s->query.id);
			udp_reply(s, buf, (size_t)n);
		}
		dns_slot_release(s);
		return;
	}
}

static void slot_timeout(uv_timer_t *t)
{
	struct dns_slot *s = t->data;
	if (s->tcp) {
		dns_tcp_end(s, false);
		return;
	}
	udp_refuse(s, DNS_SERVFAIL, false);
	dns_slot_release(s);
}

/* ---- questions over UDP ---- */

static int udp_ask(struct dns_slot *s, const struct addr *resolver)
{
	uint8_t buf[DNS_BUILD_MAX];
	int r = dns_id(&s->id);
	if (r >= 0)
		r = dns_slot_connect(s, resolver);
	if (r < 0)
		return r;
	size_t len = dns_query_build(&s->query, s->id, buf);
	if (send(s->fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL) < 0)
		return -errno;
	uv_update_time(s->dns->loop);
	uv_timer_start(&s->timer, slot_timeout, DNS_TIMEOUT_MS, 0);
	return uv_poll_start(&s->poll, UV_READABLE, udp_answer);
}

static void udp_query(struct dns_place *p, const uint8_t *buf, size_t len,
	const struct sockaddr_storage *from, socklen_t from_len, uint32_t asker)
{
	struct dns_query q;
	int code = dns_query_parse(buf, len, &q);
	if (code < 0)
		return;
	struct dns_slot refusal = {.dns = p->dns, .query = q, .place = p};
	refusal.from = *from;
	refusal.from_len = from_len;
	if (code != DNS_OK) {
		udp_refuse(&refusal, (enum dns_rcode)code, false);
		return;
	}
	struct dns_slot *s = dns_slot_take(p->dns, false, p->resolver.ip_len == 16, asker);
	if (!s)
		return; /* its share is under way: the program asks again */
	s->query = q;
	s->place = refusal.place;
	s->from = *from;
	s->from_len = from_len;
	if (udp_ask(s, &p->resolver) < 0) {
		udp_refuse(s, DNS_SERVFAIL, false);
		dns_slot_release(s);
	}
}

static void udp_ready(uv_poll_t *poll, int status, int events)
{
	struct dns_place *p = poll->data;
	uint8_t buf[DNS_QUERY_MAX + 1];
	(void)events;
	if (status < 0) /* an error of the socket, which reading takes off; libuv stopped looking */
		uv_poll_start(poll, UV_READABLE, udp_ready);
	for (int i = 0; i < DNS_TURN; i++) {
		struct sockaddr_storage from;
		socklen_t from_len;
		uint32_t asker;
		ssize_t n = dns_receive(p->udp, buf, sizeof(buf), &from, &from_len, &asker);
		if (n < 0)
			return; /* also the ICMP error of a program that did not wait */
		if (dns_rate(p->dns, asker))
			udp_query(p, buf, (size_t)n, &from, from_len, asker);
	}
}

/* ---- places ---- */

static int place_socket(const struct addr *a, int type)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int one = 1, family = a->ip_len == 4 ? AF_INET : AF_INET6;
	_cleanup_close_ int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	int r = addr_to_sockaddr(a, family, &sa, &len);
	if (r < 0)
		return r;
	/* TCP: a predecessor's connections may linger. Never for UDP, where it would share the
	 * port. */
	if (type == SOCK_STREAM && setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0)
		return -errno;
	if ((type == SOCK_DGRAM && dns_tell_mark(fd) < 0) ||
		bind(fd, (struct sockaddr *)&sa, len) < 0 ||
		(type == SOCK_STREAM && listen(fd, DNS_CLIENTS_MAX) < 0))
		return -errno;
	return take_fd(&fd);
}

static void place_freed(uv_handle_t *h)
{
	struct dns_place *p = h->data;
	if (--p->open_handles == 0)
		free(p);
}

/* What was asked there is forgotten: programs ask again. */
static void place_close(struct dns_place *p)
{
	for (size_t i = 0; i < DNS_SLOTS; i++)
		if (p->dns->slots[i].place == p)
			dns_slot_release(&p->dns->slots[i]);
	uv_poll_stop(&p->udp_poll);
	uv_poll_stop(&p->tcp_poll);
	uv_close((uv_handle_t *)&p->udp_poll, place_freed);
	uv_close((uv_handle_t *)&p->tcp_poll, place_freed);
	close(p->udp);
	close(p->tcp);
}

static int place_open(struct dns *d, const struct addr *resolver, struct dns_place **ret)
{
	struct addr at = *resolver;
	at.port = 53; /* what programs ask, wherever the resolver itself listens */
	_cleanup_close_ int udp = place_socket(&at, SOCK_DGRAM);
	if (udp < 0)
		return udp;
	_cleanup_close_ int tcp = place_socket(&at, SOCK_STREAM);
	if (tcp < 0)
		return tcp;
	struct dns_place *p = calloc(1, sizeof(*p));
	if (!p)
		return -ENOMEM;
	*p = (struct dns_place){.dns = d, .resolver = *resolver, .open_handles = 2};
	/* Cannot fail: both are sockets and new to the loop. */
	if (uv_poll_init(d->loop, &p->udp_poll, udp) < 0 ||
		uv_poll_init(d->loop, &p->tcp_poll, tcp) < 0)
		abort();
	if (sock_inode(udp, &p->inode[0]) < 0 || sock_inode(tcp, &p->inode[1]) < 0)
		abort();
	p->udp = take_fd(&udp);
	p->tcp = take_fd(&tcp);
	p->udp_poll.data = p->tcp_poll.data = p;
	uv_poll_start(&p->udp_poll, UV_READABLE, udp_ready);
	uv_poll_start(&p->tcp_poll, UV_READABLE, dns_tcp_accept);
	*ret = p;
	return 0;
}

int dns_configure(struct dns *d, const struct addr *resolvers, size_t n)
{
	struct addr want[DNS_RESOLVERS_MAX];
	bool same = n == d->n_places;
	if (n > DNS_RESOLVERS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < n; i++) {
		want[i] = resolvers[i];
		want[i].port = want[i].port ? want[i].port : 53;
		same = same && addr_equal(&want[i], &d->places[i]->resolver);
	}
	if (same || !n)
		return 0;
	while (d->n_places)
		place_close(d->places[--d->n_places]);
	for (size_t i = 0; i < n; i++) {
		int r = place_open(d, &want[i], &d->places[d->n_places]);
		if (r < 0) {
			char text[ADDR_TEXT_MAX];
			addr_format(&want[i], true, text);
			log_error("cannot answer DNS queries at %s: %s", text, strerror(-r));
			return r;
		}
		d->n_places++;
	}
	return 0;
}

bool dns_is_own(const struct dns *d, uint64_t inode)
{
	for (size_t i = 0; inode && i < d->n_places; i++)
		if (d->places[i]->inode[0] == inode || d->places[i]->inode[1] == inode)
			return true;
	return false;
}

int dns_start(struct dns *d, uv_loop_t *loop)
{
	d->loop = loop;
	for (size_t i = 0; i < DNS_SLOTS; i++) {
		struct dns_slot *s = &d->slots[i];
		if (s->fd < 0)
			continue;
		int r = uv_poll_init(loop, &s->poll, s->fd);
		if (r >= 0)
			r = uv_timer_init(loop, &s->timer);
		if (r < 0)
			return r;
		s->poll.data = s->timer.data = s;
	}
	return 0;
}
