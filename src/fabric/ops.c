/*
 * The guard's orders (fabric.h, proto/fabric.proto). The guard decides, we execute: an order that
 * is not one of the schema, with its descriptors, is a surprise and ends the arrow. The descriptor
 * beside an order was taken from a program and may be anything: it is refused unless it is a TCP or
 * UDP socket of this network namespace (the kernel's cookie of the namespace says so; a program can
 * make sockets of its own namespaces).
 *
 * Hot path: connect, 12 system calls when the grant is installed, 3 more when it is not.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fds.h"
#include "base/log.h"
#include "fabric/datagram.h"
#include "fabric/fabric.h"
#include "fabric/ns.h"
#include "fabric/sock.h"

/* A reply being made, and what belongs to it. */
struct reply {
	Belay__FromFabric m;
	Belay__Addr addr;
	struct addr local;
	int fds[FDS_PASS_MAX];
	size_t n_fds;
	bool later; /* answered by somebody else */
};

struct dial {
	LIST_ENTRY(dial) link;
	struct fabric *fabric;
	uv_poll_t poll;
	uv_timer_t timer;
	int open_handles;
	int fd;
	uint64_t id;
	struct addr destination;
};

/* ---- addresses ---- */

int fabric_addr_read(const Belay__Addr *m, struct addr *ret)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	memset(ret, 0, sizeof(*ret));
	if (!m || (m->ip.len != 4 && m->ip.len != 16) || m->port > UINT16_MAX)
		return -EBADMSG;
	if (m->ip.len == 16 && !memcmp(m->ip.data, mapped, sizeof(mapped)))
		return -EBADMSG;
	ret->ip_len = (uint8_t)m->ip.len;
	memcpy(ret->ip, m->ip.data, m->ip.len);
	ret->port = (uint16_t)m->port;
	return 0;
}

void fabric_addr_write(const struct addr *a, Belay__Addr *ret)
{
	belay__addr__init(ret);
	ret->ip.data = (uint8_t *)(uintptr_t)a->ip;
	ret->ip.len = a->ip_len;
	ret->port = a->port;
}

/* ---- replies ---- */

static void reply_socket(struct reply *r, int fd)
{
	if (sock_local(fd, &r->local) >= 0) {
		fabric_addr_write(&r->local, &r->addr);
		r->m.local = &r->addr;
	}
	(void)!sock_inode(fd, &r->m.inode);
}

static void reply_send(struct fabric *f, struct reply *r)
{
	f->send(f->data, &r->m, r->fds, r->n_fds);
	for (size_t i = 0; i < r->n_fds; i++)
		close(r->fds[i]);
	r->n_fds = 0;
}

static int transport_udp(Belay__Transport t, bool *ret)
{
	if (t != BELAY__TRANSPORT__TRANSPORT_TCP && t != BELAY__TRANSPORT__TRANSPORT_UDP)
		return -EBADMSG;
	*ret = t == BELAY__TRANSPORT__TRANSPORT_UDP;
	return 0;
}

/* The program's socket, of the transport the order says. -EPERM is the program's fault, not the
 * guard's. */
static int program_socket(struct fabric *f, int fd, bool udp, struct sock_facts *ret)
{
	int r = sock_facts(fd, f->cookie, ret);
	return r < 0 ? r : ret->udp == udp ? 0 : -EPERM;
}

/* ---- grants ---- */

static void expire_tick(uv_timer_t *t)
{
	struct fabric *f = t->data;
	int r = grants_expire(&f->grants, clock_mono_ms());
	if (r < 0)
		log_error("cannot take idle grants out of the packet filter: %s", strerror(-r));
	if (r == 0)
		uv_timer_stop(t);
}

static int install(struct fabric *f, uint32_t mark, bool udp, const struct addr *to, uint16_t from)
{
	struct nft_grant g = {.mark = mark, .udp = udp, .destination = *to, .from = from};
	uv_update_time(f->loop);
	int r = grants_add(&f->grants, &g, clock_mono_ms());
	if (r >= 0 && !udp && !uv_is_active((uv_handle_t *)&f->expire))
		uv_timer_start(&f->expire, expire_tick, GRANT_IDLE_MS, GRANT_IDLE_MS);
	return r;
}

/* Of this datagram socket alone, which gets the port it would get with its first packet. */
static int install_channel(struct fabric *f, uint32_t mark, int fd, const struct sock_facts *facts,
	const struct addr *to)
{
	struct addr own;
	int r = sock_bind_any(fd, facts);
	if (r >= 0)
		r = sock_local(fd, &own);
	return r < 0 ? r : install(f, mark, true, to, own.port);
}

/* ---- orders on a program's socket ---- */

static int order_connect(
	struct fabric *f, const Belay__FabricConnect *m, int fd, struct reply *reply)
{
	struct sock_facts facts;
	struct addr to;
	bool udp;
	if (transport_udp(m->transport, &udp) < 0)
		return -EBADMSG;
	if (!m->disconnect && fabric_addr_read(m->destination, &to) < 0)
		return -EBADMSG;
	int r = program_socket(f, fd, udp, &facts);
	if (r < 0)
		return r;
	if (m->disconnect) {
		r = sock_disconnect(fd);
	} else {
		sock_destination(&to);
		r = m->channel && udp ? install_channel(f, m->mark, fd, &facts, &to)
				      : install(f, m->mark, udp, &to, 0);
		if (r >= 0)
			r = sock_connect(fd, &facts, m->mark, &to);
	}
	reply_socket(reply, fd);
	return r;
}

static int order_bind(struct fabric *f, const Belay__FabricBind *m, int fd, struct reply *reply)
{
	struct sock_facts facts;
	struct addr a;
	bool udp;
	if (transport_udp(m->transport, &udp) < 0 || fabric_addr_read(m->address, &a) < 0)
		return -EBADMSG;
	int r = program_socket(f, fd, udp, &facts);
	if (r >= 0)
		r = sock_bind(fd, &facts, &a);
	if (r >= 0 && udp && a.port)
		r = datagram_share(fd);
	if (r >= 0)
		reply_socket(reply, fd);
	return r;
}

static int order_listen(struct fabric *f, const Belay__FabricListen *m, int fd, struct reply *reply)
{
	struct sock_facts facts;
	int r = program_socket(f, fd, false, &facts);
	if (r >= 0 && listen(fd, m->backlog) < 0)
		r = -errno;
	if (r >= 0)
		reply_socket(reply, fd);
	return r;
}

/* The name an unbound socket gets towards another node: an address of ours, of the peer's family.
 */
static void own_address(const struct fabric *f, const struct addr *remote, struct addr *ret)
{
	for (size_t i = 0; !addr_is_loopback(remote) && i < f->n_addresses; i++) {
		if (f->addresses[i].ip_len != remote->ip_len)
			continue;
		*ret = f->addresses[i];
		ret->port = 0;
		return;
	}
}

/* The program's socket is granted its destination, and gets the other end of it for conn. */
static int pair_datagrams(struct fabric *f, const Belay__FabricPair *m, int fd,
	const struct sock_facts *facts, const struct addr *local, const struct addr *remote,
	int *ret_far)
{
	int r = local->ip_len ? datagram_route(&f->route, remote, local) : 0;
	if (r >= 0)
		r = install_channel(f, m->mark, fd, facts, remote);
	if (r >= 0)
		r = m->connect ? sock_connect(fd, facts, m->mark, remote) : sock_mark(fd, m->mark);
	return r < 0 ? r : datagram_far_end(fd, remote, ret_far);
}

static int order_pair(struct fabric *f, const Belay__FabricPair *m, int fd, struct reply *reply)
{
	struct sock_facts facts;
	struct addr local = {0}, remote;
	int peer = -1;
	bool udp;
	if (transport_udp(m->transport, &udp) < 0 || fabric_addr_read(m->remote, &remote) < 0 ||
		!remote.port || (m->local && fabric_addr_read(m->local, &local) < 0))
		return -EBADMSG;
	int r = program_socket(f, fd, udp, &facts);
	if (r < 0)
		return r;
	sock_destination(&remote);
	if (!local.ip_len && !udp)
		own_address(f, &remote, &local);
	r = udp ? pair_datagrams(f, m, fd, &facts, &local, &remote, &peer)
		: sock_pair(fd, &facts, &local, &remote, &peer);
	if (r >= 0)
		reply_socket(reply, fd);
	if (r >= 0 && peer >= 0)
		reply->fds[reply->n_fds++] = peer;
	return r;
}

static int order_udp_grant(
	struct fabric *f, const Belay__FabricUdpGrant *m, int fd, struct reply *reply)
{
	struct sock_facts facts;
	struct addr to;
	if (fabric_addr_read(m->destination, &to) < 0)
		return -EBADMSG;
	int r = program_socket(f, fd, true, &facts);
	if (r < 0)
		return r;
	sock_destination(&to);
	/* The port the kernel would choose at the first packet is chosen now: an answer comes to
	 * it. */
	r = m->channel ? install_channel(f, m->mark, fd, &facts, &to) : sock_bind_any(fd, &facts);
	if (r >= 0 && !m->channel)
		r = install(f, m->mark, true, &to, 0);
	if (r >= 0)
		r = sock_mark(fd, m->mark);
	if (r >= 0)
		reply_socket(reply, fd);
	return r;
}

/* ---- dial ---- */

static void dial_closed(uv_handle_t *h)
{
	struct dial *d = h->data;
	if (--d->open_handles == 0)
		free(d);
}

/* result 0: fd is connected and handed over. Nothing is sent when the asker is gone (id 0). */
static void dial_end(struct dial *d, int result)
{
	struct fabric *f = d->fabric;
	struct reply r = {.m = BELAY__FROM_FABRIC__INIT};
	uv_poll_stop(&d->poll);
	LIST_REMOVE(d, link);
	f->n_dials--;
	r.m.id = d->id;
	r.m.error = result;
	if (result == 0) {
		reply_socket(&r, d->fd);
		r.fds[r.n_fds++] = take_fd(&d->fd);
	}
	if (d->id)
		reply_send(f, &r);
	uv_close((uv_handle_t *)&d->poll, dial_closed);
	uv_close((uv_handle_t *)&d->timer, dial_closed);
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

static void dial_ready(uv_poll_t *p, int status, int events)
{
	struct dial *d = p->data;
	(void)events;
	/* A refusal comes as an error of the socket, at which libuv stops looking: only the socket
	 * knows. */
	int r = sock_dial_finish(d->fd, &d->destination);
	if (r != -EALREADY || status < 0)
		dial_end(d, r);
}

static void dial_timeout(uv_timer_t *t)
{
	dial_end(t->data, -ETIMEDOUT);
}

static int dial_wait(struct fabric *f, uint64_t id, int *fd, const struct addr *to)
{
	_cleanup_free_ struct dial *d = calloc(1, sizeof(*d));
	if (!d || f->n_dials >= FABRIC_DIALS_MAX)
		return -ENOBUFS;
	d->fabric = f;
	d->id = id;
	d->destination = *to;
	int r = uv_poll_init(f->loop, &d->poll, *fd);
	if (r < 0)
		return r;
	uv_timer_init(f->loop, &d->timer);
	d->poll.data = d->timer.data = d;
	d->open_handles = 2;
	d->fd = take_fd(fd);
	uv_poll_start(&d->poll, UV_WRITABLE, dial_ready);
	uv_update_time(f->loop);
	uv_timer_start(&d->timer, dial_timeout, FABRIC_DIAL_MS, 0);
	LIST_INSERT_HEAD(&f->dials, d, link);
	f->n_dials++;
	(void)take_ptr(d);
	return 0;
}

/* A client of another node: its answers find the way back whatever address the server has. */
static int dial_datagrams(struct fabric *f, const Belay__FabricDial *m, const struct addr *from,
	const struct addr *to, struct reply *reply)
{
	int fd = -1;
	int r = datagram_route(&f->route, from, to);
	if (r >= 0)
		r = install(f, m->mark, true, to, 0);
	if (r >= 0)
		r = datagram_dial(from, to, m->mark, &fd);
	if (r < 0)
		return r;
	reply_socket(reply, fd);
	reply->fds[reply->n_fds++] = fd;
	return 0;
}

static int order_dial(
	struct fabric *f, uint64_t id, const Belay__FabricDial *m, struct reply *reply)
{
	struct addr from, to;
	int result = 0;
	bool udp;
	if (transport_udp(m->transport, &udp) < 0 || fabric_addr_read(m->source, &from) < 0 ||
		fabric_addr_read(m->destination, &to) < 0)
		return -EBADMSG;
	sock_destination(&to);
	if (udp)
		return dial_datagrams(f, m, &from, &to, reply);
	_cleanup_close_ int fd = sock_dial(&from, &to, &result);
	if (fd < 0)
		return fd;
	if (result == -EINPROGRESS) {
		int r = dial_wait(f, id, &fd, &to);
		reply->later = r >= 0;
		return r;
	}
	reply_socket(reply, fd);
	reply->fds[reply->n_fds++] = take_fd(&fd);
	return 0;
}

static int order_dialers(struct fabric *f, const Belay__FabricDialers *m, struct reply *reply)
{
	struct addr from, to;
	if (fabric_addr_read(m->source, &from) < 0 || from.port ||
		fabric_addr_read(m->destination, &to) < 0 || !to.port || from.ip_len != to.ip_len ||
		!m->count || m->count > FDS_PASS_MAX)
		return -EBADMSG;
	sock_destination(&to);
	int r = install(f, m->mark, false, &to, 0);
	for (uint32_t i = 0; r >= 0 && i < m->count; i++) {
		r = sock_dialer(&from, m->mark);
		if (r >= 0)
			reply->fds[reply->n_fds++] = r;
	}
	while (r < 0 && reply->n_fds)
		close(reply->fds[--reply->n_fds]);
	return r;
}

/* ---- other orders ---- */

static int order_config(struct fabric *f, const Belay__FabricConfig *m)
{
	struct addr resolvers[DNS_RESOLVERS_MAX];
	if (m->n_addresses > FABRIC_ADDRESSES_MAX || m->n_resolvers > DNS_RESOLVERS_MAX)
		return -EBADMSG;
	for (size_t i = 0; i < m->n_addresses; i++)
		if (fabric_addr_read(m->addresses[i], &f->addresses[i]) < 0)
			return -EBADMSG;
	for (size_t i = 0; i < m->n_resolvers; i++)
		if (fabric_addr_read(m->resolvers[i], &resolvers[i]) < 0)
			return -EBADMSG;
	f->n_addresses = m->n_addresses;
	int r = grants_flush(&f->grants);
	if (r < 0)
		return r;
	f->configured = true;
	return dns_configure(&f->dns, resolvers, m->dns ? m->n_resolvers : 0);
}

static int order_sockets(const Belay__FabricSockets *m, struct reply *reply)
{
	bool udp;
	if (transport_udp(m->transport, &udp) < 0 || m->mark == NFT_MARK_OWN || !m->count ||
		m->count > FDS_PASS_MAX || (m->family != AF_INET && m->family != AF_INET6))
		return -EBADMSG;
	for (uint32_t i = 0; i < m->count; i++) {
		int fd = sock_new((int)m->family, udp, false);
		if (fd < 0)
			return i ? 0 : fd;
		if (m->mark && sock_mark(fd, m->mark) < 0) {
			close(fd);
			return i ? 0 : -EPERM;
		}
		reply->fds[reply->n_fds++] = fd;
	}
	return 0;
}

static int order_revoke(struct fabric *f, const Belay__FabricRevoke *m)
{
	struct nft_grant g = {.mark = m->mark, .from = (uint16_t)m->from};
	if (transport_udp(m->transport, &g.udp) < 0 || m->from > UINT16_MAX ||
		(m->destination && fabric_addr_read(m->destination, &g.destination) < 0))
		return -EBADMSG;
	sock_destination(&g.destination);
	return grants_revoke(&f->grants, &g);
}

static bool order_has_socket(const Belay__ToFabric *m)
{
	switch (m->body_case) {
	case BELAY__TO_FABRIC__BODY_CONNECT:
	case BELAY__TO_FABRIC__BODY_BIND:
	case BELAY__TO_FABRIC__BODY_LISTEN:
	case BELAY__TO_FABRIC__BODY_PAIR:
	case BELAY__TO_FABRIC__BODY_UDP_GRANT:
		return true;
	default:
		return false;
	}
}

static int order_run(struct fabric *f, const Belay__ToFabric *m, int fd, struct reply *reply)
{
	switch (m->body_case) {
	case BELAY__TO_FABRIC__BODY_CONFIG:
		return order_config(f, m->config);
	case BELAY__TO_FABRIC__BODY_SOCKETS:
		return order_sockets(m->sockets, reply);
	case BELAY__TO_FABRIC__BODY_CONNECT:
		return order_connect(f, m->connect, fd, reply);
	case BELAY__TO_FABRIC__BODY_BIND:
		return order_bind(f, m->bind, fd, reply);
	case BELAY__TO_FABRIC__BODY_LISTEN:
		return order_listen(f, m->listen, fd, reply);
	case BELAY__TO_FABRIC__BODY_PAIR:
		return order_pair(f, m->pair, fd, reply);
	case BELAY__TO_FABRIC__BODY_DIAL:
		return order_dial(f, m->id, m->dial, reply);
	case BELAY__TO_FABRIC__BODY_DIALERS:
		return order_dialers(f, m->dialers, reply);
	case BELAY__TO_FABRIC__BODY_REVOKE:
		return order_revoke(f, m->revoke);
	case BELAY__TO_FABRIC__BODY_DESTROY:
		return fabric_destroy(f, m->destroy);
	case BELAY__TO_FABRIC__BODY_STATS:
		reply->later = true;
		return fabric_stats(f, m->id, m->stats);
	case BELAY__TO_FABRIC__BODY_DUMP:
		reply->later = true;
		return fabric_dump(f, m->id);
	case BELAY__TO_FABRIC__BODY_UDP_GRANT:
		return order_udp_grant(f, m->udp_grant, fd, reply);
	default:
		return -EBADMSG;
	}
}

int fabric_order(struct fabric *f, const Belay__ToFabric *m, int *fds, size_t n_fds)
{
	struct reply reply = {.m = BELAY__FROM_FABRIC__INIT};
	size_t want = order_has_socket(m) ? 1 : 0;
	/* An id of 0 is an event's, and nothing is done for a guard that has not said what holds.
	 */
	if (n_fds != want || !m->id ||
		(!f->configured && m->body_case != BELAY__TO_FABRIC__BODY_CONFIG))
		return -EBADMSG;
	reply.m.id = m->id;
	int r = order_run(f, m, want ? fds[0] : -1, &reply);
	if (r == -EBADMSG)
		return r;
	if (r >= 0 && reply.later)
		return 0;
	reply.m.error = r < 0 ? r : 0;
	reply_send(f, &reply);
	return 0;
}

/* ---- life ---- */

void fabric_reset(struct fabric *f)
{
	f->configured = false;
	while (!LIST_EMPTY(&f->dials)) {
		struct dial *d = LIST_FIRST(&f->dials);
		d->id = 0;
		dial_end(d, -ECANCELED);
	}
}

static void tell_wants(void *data, uint64_t inode, const struct addr *to)
{
	struct fabric *f = data;
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	Belay__FabricWants w = BELAY__FABRIC_WANTS__INIT;
	Belay__Addr destination;
	fabric_addr_write(to, &destination);
	w.inode = inode;
	w.destination = &destination;
	m.wants = &w;
	if (f->configured)
		f->send(f->data, &m, NULL, 0);
}

int fabric_init(struct fabric *f, uv_loop_t *loop, fabric_send_fn send, void *data, struct error *e)
{
	f->loop = loop;
	f->send = send;
	f->data = data;
	LIST_INIT(&f->dials);
	int r = nft_open(&f->nft, e);
	if (r < 0)
		return r;
	r = ns_cookie(&f->cookie);
	if (r < 0)
		return error_errno(e, r,
			"cannot tell namespaces apart (SO_NETNS_COOKIE: try Linux 5.14 or newer)");
	r = grants_init(&f->grants, &f->nft);
	if (r >= 0)
		r = diag_open(&f->diag);
	if (r >= 0)
		r = netlink_open(&f->route, NETLINK_ROUTE, 0);
	if (r >= 0)
		r = uv_timer_init(loop, &f->expire);
	f->expire.data = f;
	if (r >= 0)
		r = fabric_watch(f);
	if (r >= 0)
		r = dns_start(&f->dns, loop);
	f->dns.diag = &f->diag;
	/* Without it programs have to ask before they send; nothing is let through. */
	if (r >= 0 && f->nft.asks && asks_start(&f->asks, loop, &f->diag, tell_wants, f) < 0)
		log_warn("datagrams sent without asking are not asked for");
	return r < 0 ? error_errno(e, r, "cannot watch the fabric's sockets") : 0;
}
