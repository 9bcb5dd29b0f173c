/*
 * belay-link: the only process that sees the TLS between nodes, and the only holder of the node's
 * TLS key besides its signer. This file is its arrows and its life; the work is links.c's.
 *
 * Trust: the signer's identity and the guard's orders are obeyed, their shape is checked. Messages
 * of other nodes pass through unread: the guard unpacks and judges them, against the name this
 * process took from the peer's certificate.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "component.pb-c.h"
#include "ipc/component.h"
#include "link.pb-c.h"
#include "link/link.h"
#include "sandbox/sandbox.h"
#include "signer.pb-c.h"

struct link {
	struct component component;
	struct ipc_chan guard, signer;
	struct links *links;
};

static void tell(struct link *l, Belay__FromLink *m)
{
	if (ipc_chan_open(&l->guard) && ipc_send(&l->guard, &m->base, NULL, 0) < 0)
		log_warn("the guard does not read");
}

static ProtobufCBinaryData data_of(const void *p, size_t n)
{
	return (ProtobufCBinaryData){.len = n, .data = (uint8_t *)(uintptr_t)p};
}

static char *text_of(const char *s)
{
	return (char *)(uintptr_t)(s ? s : "");
}

static bool take_addr(const Belay__Addr *in, struct addr *ret)
{
	if (!in || (in->ip.len != 4 && in->ip.len != 16) || in->port > UINT16_MAX)
		return false;
	*ret = (struct addr){.ip_len = (uint8_t)in->ip.len, .port = (uint16_t)in->port};
	memcpy(ret->ip, in->ip.data, in->ip.len);
	return true;
}

/* ---- what the links report ---- */

static void on_up(void *data, const struct x509_node *n, const struct secret *exporter,
	bool we_dialed, const char *remote)
{
	char text[X509_ADDRESSES_MAX][ADDR_TEXT_MAX], *list[X509_ADDRESSES_MAX];
	for (size_t i = 0; i < n->n_addresses; i++) {
		addr_format(&n->addresses[i], false, text[i]);
		list[i] = text[i];
	}
	Belay__LinkUp up = BELAY__LINK_UP__INIT;
	up.node = text_of(n->node);
	up.n_addresses = n->n_addresses;
	up.addresses = list;
	up.exporter = data_of(exporter->bytes, SECRET_LEN);
	up.we_dialed = we_dialed;
	up.remote = text_of(remote);
	up.link = links_live(((struct link *)data)->links, n->node);
	up.issued = n->issued;
	up.not_after = n->not_after;
	Belay__FromLink m = BELAY__FROM_LINK__INIT;
	m.body_case = BELAY__FROM_LINK__BODY_UP;
	m.up = &up;
	tell(data, &m);
}

static void on_down(void *data, const char *node, const char *why)
{
	Belay__LinkDown down = BELAY__LINK_DOWN__INIT;
	down.node = text_of(node);
	down.why = text_of(why);
	Belay__FromLink m = BELAY__FROM_LINK__INIT;
	m.body_case = BELAY__FROM_LINK__BODY_DOWN;
	m.down = &down;
	tell(data, &m);
}

static int on_received(void *data, const char *node, const uint8_t *buf, size_t len)
{
	Belay__LinkReceived r = BELAY__LINK_RECEIVED__INIT;
	r.node = text_of(node);
	r.message = data_of(buf, len);
	Belay__FromLink m = BELAY__FROM_LINK__INIT;
	m.body_case = BELAY__FROM_LINK__BODY_RECEIVED;
	m.received = &r;
	tell(data, &m);
	return 0;
}

static void on_join_request(void *data, uint64_t join, const struct link_join *j)
{
	Belay__Addr listen = BELAY__ADDR__INIT;
	listen.ip = data_of(j->listen.ip, j->listen.ip_len);
	listen.port = j->listen.port;
	Belay__LinkJoinRequest r = BELAY__LINK_JOIN_REQUEST__INIT;
	r.join = join;
	r.token = data_of(j->token, LINK_TOKEN_LEN);
	r.csr_der = data_of(j->csr, j->csr_len);
	r.listen = &listen;
	Belay__FromLink m = BELAY__FROM_LINK__INIT;
	m.body_case = BELAY__FROM_LINK__BODY_JOIN_REQUEST;
	m.join_request = &r;
	tell(data, &m);
}

static void on_joined(void *data, uint64_t id, const struct link_joined *j)
{
	static Belay__LinkPeer peers[LINK_LISTED_MAX], *list[LINK_LISTED_MAX];
	static Belay__Addr addrs[LINK_LISTED_MAX];
	Belay__LinkJoinAnswer a = BELAY__LINK_JOIN_ANSWER__INIT;
	a.error = j->error;
	a.why = text_of(j->why);
	a.cert_der = data_of(j->cert, j->cert_len);
	a.ca_der = data_of(j->ca, j->ca_len);
	for (size_t i = 0; i < j->n_listed; i++) {
		belay__link_peer__init(&peers[i]);
		belay__addr__init(&addrs[i]);
		addrs[i].ip = data_of(j->listed[i].address.ip, j->listed[i].address.ip_len);
		addrs[i].port = j->listed[i].address.port;
		peers[i].node = text_of(j->listed[i].node);
		peers[i].address = &addrs[i];
		peers[i].owns = (char **)(uintptr_t)j->listed[i].owns;
		peers[i].n_owns = j->listed[i].n_owns;
		list[i] = &peers[i];
	}
	a.peer = list;
	a.n_peer = j->n_listed;
	Belay__FromLink m = BELAY__FROM_LINK__INIT;
	m.id = id;
	m.body_case = BELAY__FROM_LINK__BODY_JOINED;
	m.joined = &a;
	tell(data, &m);
}

/* ---- what the guard orders ---- */

static int listed_of(Belay__LinkPeer *const *in, size_t n, struct link_listed *ret)
{
	for (size_t i = 0; i < n; i++) {
		if (!x509_node_valid(in[i]->node) || !take_addr(in[i]->address, &ret[i].address))
			return -EBADMSG;
		snprintf(ret[i].node, sizeof(ret[i].node), "%s", in[i]->node);
		ret[i].owns = in[i]->owns;
		ret[i].n_owns = in[i]->n_owns;
	}
	return 0;
}

static int order_peers(struct link *l, const Belay__LinkPeers *m)
{
	static struct link_listed listed[LINK_PEERS_MAX];
	if (m->n_peer > LINK_PEERS_MAX || listed_of(m->peer, m->n_peer, listed) < 0)
		return -EBADMSG;
	for (size_t i = 0; i < m->n_peer; i++)
		listed[i].n_owns = 0; /* only who joins is told */
	return links_peers(l->links, listed, m->n_peer);
}

static int order_join(struct link *l, uint64_t id, const Belay__LinkJoin *m)
{
	struct link_join j = {.csr = m->csr_der.data, .csr_len = m->csr_der.len};
	if (m->token.len != LINK_TOKEN_LEN || m->ca_sha256.len != sizeof(j.ca_sha256) ||
		!m->csr_der.len || !take_addr(m->address, &j.address) ||
		!take_addr(m->listen, &j.listen))
		return -EBADMSG;
	memcpy(j.token, m->token.data, LINK_TOKEN_LEN);
	memcpy(j.ca_sha256, m->ca_sha256.data, sizeof(j.ca_sha256));
	links_join(l->links, id, &j);
	secret_zero(j.token, sizeof(j.token));
	return 0;
}

static int order_join_answer(struct link *l, const Belay__LinkJoinAnswer *m)
{
	static struct link_listed listed[LINK_LISTED_MAX];
	if (m->n_peer > LINK_LISTED_MAX || listed_of(m->peer, m->n_peer, listed) < 0)
		return -EBADMSG;
	links_join_answer(l->links, m->join,
		&(struct link_joined){.error = m->error,
			.why = m->why,
			.cert = m->cert_der.data,
			.cert_len = m->cert_der.len,
			.ca = m->ca_der.data,
			.ca_len = m->ca_der.len,
			.listed = listed,
			.n_listed = m->n_peer});
	return 0;
}

static int order(struct link *l, const Belay__ToLink *m)
{
	switch (m->body_case) {
	case BELAY__TO_LINK__BODY_PEERS:
		return order_peers(l, m->peers);
	case BELAY__TO_LINK__BODY_SEND:
		/* A link that has just gone has told so with LinkDown. */
		if (links_live(l->links, m->send->node) == m->send->link &&
			links_send(l->links, m->send->node, m->send->message.data,
				m->send->message.len) == -EMSGSIZE)
			log_error("a message to node %s is too large", m->send->node);
		return 0;
	case BELAY__TO_LINK__BODY_DROP:
		if (!m->drop->link || links_live(l->links, m->drop->node) == m->drop->link)
			links_drop(l->links, m->drop->node, m->drop->why);
		return 0;
	case BELAY__TO_LINK__BODY_JOIN:
		return order_join(l, m->id, m->join);
	case BELAY__TO_LINK__BODY_JOIN_ANSWER:
		return order_join_answer(l, m->join_answer);
	default:
		return -EBADMSG;
	}
}

static int on_order(struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	(void)fds;
	Belay__ToLink *m = n_fds ? NULL : ipc_unpack(&belay__to_link__descriptor, buf, len);
	int r = m ? order(chan->data, m) : -EBADMSG;
	ipc_free(m);
	return r;
}

/* ---- the signer's word ---- */

static int on_identity(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	(void)fds;
	struct link *l = chan->data;
	Belay__SignerToLink *m =
		n_fds ? NULL : ipc_unpack(&belay__signer_to_link__descriptor, buf, len);
	if (!m)
		return -EBADMSG;
	struct error e = ERROR_INIT;
	int r = 0;
	/* Empty: this node has no domain yet. */
	if (m->key_der.len && m->cert_der.len && m->ca_der.len) {
		struct der key = {m->key_der.data, m->key_der.len},
			   cert = {m->cert_der.data, m->cert_der.len},
			   ca = {m->ca_der.data, m->ca_der.len};
		r = links_identity(l->links, &key, &cert, &ca, &e);
		if (r < 0)
			log_error("the signer's identity is of no use: %s", e.text);
		secret_zero(m->key_der.data, m->key_der.len);
	}
	ipc_free(m);
	return r;
}

static void on_arrow_closed(struct ipc_chan *chan, int reason)
{
	(void)chan;
	log_info("an arrow closed: %s", strerror(-reason));
}

/* ---- life ---- */

static int on_arrow(struct component *comp, enum role peer, int fd)
{
	struct link *l = comp->data;
	struct ipc_chan *c = peer == ROLE_GUARD    ? &l->guard
			     : peer == ROLE_SIGNER ? &l->signer
						   : NULL;
	if (!c) {
		close(fd);
		return -EBADMSG;
	}
	ipc_chan_deinit(c);
	int r = ipc_chan_init(c, &comp->loop, fd, peer == ROLE_GUARD ? on_order : on_identity,
		on_arrow_closed, l);
	if (r == 0 && peer == ROLE_GUARD)
		links_announce(l->links);
	return r;
}

static int on_connection(struct component *comp, const Belay__Connection *m, int *fds, size_t n_fds)
{
	struct link *l = comp->data;
	(void)n_fds;
	if (m->kind != BELAY__CONNECTION_KIND__CONNECTION_LINK)
		return -EBADMSG;
	links_accept(l->links, take_fd(&fds[0]));
	return 0;
}

static int link_open(struct link *l, int argc, char **argv, struct error *e)
{
	static const struct component_ops ops = {
		.on_arrow = on_arrow, .on_connection = on_connection};
	static const struct links_ops reports = {.up = on_up,
		.down = on_down,
		.received = on_received,
		.join_request = on_join_request,
		.joined = on_joined};
	int r = component_open(&l->component, argc, argv, &ops, l, e);
	if (r < 0)
		return r;
	if (l->component.heritage.role != ROLE_LINK)
		return error_set(
			e, -EINVAL, "started as %s", role_name(l->component.heritage.role));
	r = links_new(&l->component.loop, &reports, l, NULL, &l->links);
	if (r < 0)
		return error_errno(e, r, "cannot make the links");
	return sandbox_enter(SANDBOX_LINK, NULL, e);
}

int main(int argc, char **argv)
{
	static struct link l;
	struct error e = ERROR_INIT;
	if (link_open(&l, argc, argv, &e) < 0) {
		fprintf(stderr, "belay-link: %s\n", e.text);
		return 1;
	}
	int r = component_run(&l.component);
	links_free(l.links);
	return r;
}
