/*
 * The nodes and their links (remote.h; docs/protocol.md, 2). What is known of a node lasts in the
 * registry; that its link is up, its exporter and the secret of its data connections live here
 * only: a new guard's links come up afresh.
 */
#include "guard/remote.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "component.pb-c.h"
#include "conn.pb-c.h"
#include "crypto/channel_keys.h"
#include "crypto/random.h"
#include "guard/auditing.h"
#include "guard/channel.h"
#include "guard/pb.h"
#include "registry/registry.h"

static void admin_log(struct guard *g, const char *what, const char *detail, int error)
{
	if (auditing_admin(g, 0, what, detail, error) < 0)
		log_error("cannot log %s of node %s", what, detail);
}

/* ---- who there is ---- */

struct remote_node *remote_node_find(struct guard *g, const char *name)
{
	for (size_t i = 0; i < g->remote->n_nodes; i++)
		if (strcmp(g->remote->nodes[i]->name, name) == 0)
			return g->remote->nodes[i];
	return NULL;
}

struct remote_node *remote_node_get(struct guard *g, const char *name)
{
	struct remote_node *n = remote_node_find(g, name);
	if (n || g->remote->n_nodes >= REMOTE_NODES_MAX || strlen(name) >= NAME_MAX_LEN)
		return n;
	n = calloc(1, sizeof(*n));
	if (!n)
		return NULL;
	snprintf(n->name, sizeof(n->name), "%s", name);
	snprintf(n->why, sizeof(n->why), "no link yet");
	n->changed_ms = clock_wall_ms();
	n->down_ms = clock_mono_ms();
	TAILQ_INIT(&n->asking);
	TAILQ_INIT(&n->serving);
	g->remote->nodes[g->remote->n_nodes++] = n;
	return n;
}

const char *remote_node_of(struct guard *g, const struct addr *a)
{
	for (size_t i = 0; i < g->remote->n_nodes; i++) {
		const struct remote_node *n = g->remote->nodes[i];
		for (size_t k = 0; k < n->n_addresses; k++)
			if (addr_same_ip(&n->addresses[k], a))
				return n->name;
	}
	return NULL;
}

/* An invitation still open, of another name, that has the address. */
static const char *invited_with(struct guard *g, const struct addr *a, const char *name)
{
	const struct invitation *v;
	uint64_t now = clock_wall_ms();
	for (size_t i = 0; (v = registry_invitation(g->registry, i)); i++)
		for (size_t k = 0; v->until_ms > now && strcmp(v->node, name) && k < v->n_addresses;
			k++) {
			struct addr other;
			if (addr_parse(v->addresses[k], &other) == 0 && addr_same_ip(&other, a))
				return v->node;
		}
	return NULL;
}

const char *remote_address_taken(struct guard *g, const struct addr *a, const char *name)
{
	for (size_t i = 0; i < g->n_addresses; i++)
		if (addr_same_ip(&g->addresses[i], a))
			return g->node;
	if (addr_is_loopback(a) || addr_is_any(a))
		return "every node";
	const char *node = remote_node_of(g, a);
	return node ? node : invited_with(g, a, name);
}

int remote_node_save(struct guard *g, const struct remote_node *n, struct error *e)
{
	struct node row = {0};
	snprintf(row.name, sizeof(row.name), "%s", n->name);
	row.joined_ms = n->issued * 1000;
	if (n->link.ip_len)
		addr_format(&n->link, true, row.link);
	if (n->data.ip_len)
		addr_format(&n->data, true, row.data);
	for (size_t i = 0; i < n->n_addresses && i < REGISTRY_NODE_ADDRESSES_MAX; i++)
		addr_format(&n->addresses[i], false, row.addresses[row.n_addresses++]);
	return registry_node_put(g->registry, &row, e);
}

static void conn_peer_down(struct guard *g, const struct remote_node *n)
{
	Belay__ConnPeerDown d = BELAY__CONN_PEER_DOWN__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	d.node = pb_text(n->name);
	m.body_case = BELAY__TO_CONN__BODY_PEER_DOWN;
	m.peer_down = &d;
	if (arrow_up(g, ROLE_CONN) && arrow_send(g, ROLE_CONN, &m.base, NULL, 0) < 0)
		log_error("cannot tell conn that node %s is gone", n->name);
}

static void link_drop(struct guard *g, const char *node, uint64_t link, const char *why)
{
	Belay__LinkDrop d = BELAY__LINK_DROP__INIT;
	Belay__ToLink m = BELAY__TO_LINK__INIT;
	d.node = pb_text(node);
	d.why = pb_text(why);
	d.link = link;
	m.body_case = BELAY__TO_LINK__BODY_DROP;
	m.drop = &d;
	if (arrow_up(g, ROLE_LINK) && arrow_send(g, ROLE_LINK, &m.base, NULL, 0) < 0)
		log_error("cannot tell link to drop node %s", node);
}

static void node_down(struct guard *g, struct remote_node *n, const char *why)
{
	if (n->linked) {
		admin_log(g, "node-down", n->name, 0);
		n->down_ms = clock_mono_ms();
	}
	n->linked = n->ready = false;
	secret_clear(&n->exporter);
	secret_clear(&n->data_secret);
	n->changed_ms = clock_wall_ms();
	snprintf(n->why, sizeof(n->why), "%s", why);
	remote_leases_end(g, n, NULL);
	remote_stocks_end(g, n->name, NULL);
	remote_opens_drop(g, n);
}

void remote_node_forget(struct guard *g, struct remote_node *n, const char *why)
{
	struct remote *r = g->remote;
	node_down(g, n, why);
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		if (c->via == CHANNEL_REMOTE &&
			((c->from && strcmp(c->from->node, n->name) == 0) ||
				(c->to && strcmp(c->to->node, n->name) == 0)))
			channel_end(g, c, "the node was removed");
	}
	conn_peer_down(g, n);
	link_drop(g, n->name, 0, why);
	for (size_t i = 0; i < r->n_nodes; i++)
		if (r->nodes[i] == n)
			r->nodes[i] = r->nodes[--r->n_nodes];
	n->gone = true;
	if (!n->n_asking)
		free(n);
	remote_tell_peers(g);
}

void remote_link_end(struct guard *g, struct remote_node *n, const char *why)
{
	link_drop(g, n->name, n->link_number, why);
	node_down(g, n, why);
}

void remote_surprise(struct guard *g, struct remote_node *n, const char *what)
{
	char text[REASON_MAX];
	snprintf(text, sizeof(text), "node %s: %s", n->name, what);
	log_peer("%s; its link ends", text);
	admin_log(g, "node-surprise", text, 0);
	remote_link_end(g, n, what);
}

/* ---- messages out ---- */

int remote_send(struct guard *g, const struct remote_node *n, const Belay__NodeMessage *m)
{
	size_t len = belay__node_message__get_packed_size(m);
	if (!n->linked || !arrow_up(g, ROLE_LINK))
		return -ENOTCONN;
	_cleanup_free_ uint8_t *buf = malloc(len ? len : 1);
	if (!buf)
		return -ENOMEM;
	belay__node_message__pack(m, buf);
	Belay__LinkSend s = BELAY__LINK_SEND__INIT;
	Belay__ToLink out = BELAY__TO_LINK__INIT;
	s.node = pb_text(n->name);
	s.message = pb_bytes(buf, len);
	s.link = n->link_number;
	out.body_case = BELAY__TO_LINK__BODY_SEND;
	out.send = &s;
	int r = arrow_send(g, ROLE_LINK, &out.base, NULL, 0);
	secret_zero(buf, len); /* a channel key may be in it */
	return r;
}

void remote_tell_peers(struct guard *g)
{
	struct remote *r = g->remote;
	Belay__LinkPeer peers[REMOTE_NODES_MAX], *list[REMOTE_NODES_MAX];
	Belay__Addr addrs[REMOTE_NODES_MAX];
	Belay__LinkPeers p = BELAY__LINK_PEERS__INIT;
	Belay__ToLink m = BELAY__TO_LINK__INIT;
	for (size_t i = 0; i < r->n_nodes; i++) {
		if (!r->nodes[i]->link.ip_len || r->domain.out)
			continue;
		belay__link_peer__init(&peers[p.n_peer]);
		addrs[p.n_peer] = pb_addr(&r->nodes[i]->link);
		peers[p.n_peer].node = r->nodes[i]->name;
		peers[p.n_peer].address = &addrs[p.n_peer];
		list[p.n_peer] = &peers[p.n_peer];
		p.n_peer++;
	}
	p.peer = list;
	p.self = g->node;
	m.body_case = BELAY__TO_LINK__BODY_PEERS;
	m.peers = &p;
	if (arrow_up(g, ROLE_LINK) && arrow_send(g, ROLE_LINK, &m.base, NULL, 0) < 0)
		log_error("cannot tell link the list of nodes");
}

static void tell_conn(struct guard *g, const struct remote_node *n)
{
	Belay__ConnPeer p = BELAY__CONN_PEER__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	Belay__Addr data = pb_addr(&n->data);
	p.node = pb_text(n->name);
	p.self = g->node;
	p.secret = pb_bytes(n->data_secret.bytes, SECRET_LEN);
	p.we_dial = n->we_dialed;
	p.data = &data;
	m.body_case = BELAY__TO_CONN__BODY_PEER;
	m.peer = &p;
	if (arrow_up(g, ROLE_CONN) && arrow_send(g, ROLE_CONN, &m.base, NULL, 0) < 0)
		log_error("cannot tell conn of node %s", n->name);
}

/* ---- link's events ---- */

static int take_up(struct guard *g, const Belay__LinkUp *m)
{
	if (m->exporter.len != SECRET_LEN || m->n_addresses > NODE_ADDRESSES_MAX)
		return -EBADMSG;
	if (remote_removed(g, m->node, m->issued)) {
		link_drop(g, m->node, m->link, "this node was removed");
		admin_log(g, "node-surprise", m->node, -EKEYREVOKED);
		return 0;
	}
	struct remote_node *n = remote_node_get(g, m->node);
	if (!n) {
		link_drop(g, m->node, m->link, "too many nodes");
		return 0;
	}
	if (n->linked)
		node_down(g, n, "replaced by a newer link");
	n->n_addresses = 0;
	for (size_t i = 0; i < m->n_addresses; i++)
		if (addr_parse(m->addresses[i], &n->addresses[n->n_addresses]) == 0)
			n->n_addresses++;
	n->linked = true;
	n->link_number = m->link;
	n->we_dialed = m->we_dialed;
	n->issued = m->issued;
	n->not_after = m->not_after;
	n->holds_ca = n->renew_asked = false;
	n->granted_ms = 0;
	n->changed_ms = clock_wall_ms();
	n->why[0] = '\0';
	memcpy(n->exporter.bytes, m->exporter.data, SECRET_LEN);
	random_bytes(n->nonce, sizeof(n->nonce));
	admin_log(g, "node-up", n->name, 0);
	Belay__NodeHello h = BELAY__NODE_HELLO__INIT;
	Belay__NodeMessage out = BELAY__NODE_MESSAGE__INIT;
	Belay__Addr data = pb_addr(&g->remote->data);
	h.node = g->node;
	h.version = REMOTE_VERSION;
	h.nonce = pb_bytes(n->nonce, sizeof(n->nonce));
	h.data = &data;
	h.boot = g->remote->boot;
	h.holds_ca = g->remote->domain.holds_ca;
	out.body_case = BELAY__NODE_MESSAGE__BODY_HELLO;
	out.hello = &h;
	if (remote_send(g, n, &out) < 0)
		log_error("cannot greet node %s", n->name);
	remote_domain_look(g);
	return 0;
}

static void take_hello(struct guard *g, struct remote_node *n, const Belay__NodeHello *m)
{
	struct error e = ERROR_INIT;
	struct addr data;
	if (n->ready || strcmp(m->node, n->name) != 0 || m->nonce.len != REMOTE_NONCE_LEN ||
		pb_addr_read(m->data, &data) < 0) {
		remote_surprise(g, n, "its greeting is not one");
		return;
	}
	if (m->version != REMOTE_VERSION) {
		remote_surprise(
			g, n, "it speaks another version of the protocol (upgrade the older node)");
		return;
	}
	const uint8_t *dialer = n->we_dialed ? n->nonce : m->nonce.data;
	const uint8_t *answerer = n->we_dialed ? m->nonce.data : n->nonce;
	if (channel_data_secret(&n->exporter, dialer, answerer, &n->data_secret) < 0) {
		remote_surprise(g, n, "no key could be derived");
		return;
	}
	if (data.ip_len)
		n->data = data;
	n->ready = true;
	n->holds_ca = m->holds_ca;
	if (remote_node_save(g, n, &e) < 0)
		log_error("%s", e.text);
	tell_conn(g, n);
	remote_removals_tell(g, n);
}

static void take_message(struct guard *g, struct remote_node *n, Belay__NodeMessage *m)
{
	if (m->body_case == BELAY__NODE_MESSAGE__BODY_HELLO) {
		take_hello(g, n, m->hello);
		return;
	}
	if (!n->ready) {
		remote_surprise(g, n, "it does not greet first");
		return;
	}
	if (m->body_case == BELAY__NODE_MESSAGE__BODY_OPEN)
		remote_take_open(g, n, m->open);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_ANSWER)
		remote_take_answer(g, n, m->answer);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_END)
		remote_take_end(g, n, m->end);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_REMOVALS)
		remote_take_removals(g, n, m->removals);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_RENEW)
		remote_take_renew(g, n, m->renew);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_RENEWED)
		remote_take_renewed(g, n, m->renewed);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_RESERVE)
		remote_take_reserve(g, n, m->reserve);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_RESERVED)
		remote_take_reserved(g, n, m->reserved);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_RESERVE_END && m->reserve_end->maker)
		remote_lease_ended(g, n, m->reserve_end->lease);
	else if (m->body_case == BELAY__NODE_MESSAGE__BODY_RESERVE_END)
		remote_stock_ended(g, n, m->reserve_end->lease);
	/* Anything else is of a newer version: ignored, as unknown fields are. */
}

static int take_received(struct guard *g, const Belay__LinkReceived *in)
{
	struct remote_node *n = remote_node_find(g, in->node);
	if (!n || !n->linked)
		return 0; /* sent before we ended the link */
	Belay__NodeMessage *m = ipc_unpack_lenient(
		&belay__node_message__descriptor, in->message.data, in->message.len);
	if (!m)
		remote_surprise(g, n, "it sent what is no message");
	else
		take_message(g, n, m);
	ipc_free(m);
	return 0;
}

int remote_link_message(struct guard *g, const void *from_link)
{
	const Belay__FromLink *m = from_link;
	struct remote_node *n;
	switch (m->body_case) {
	case BELAY__FROM_LINK__BODY_UP:
		return take_up(g, m->up);
	case BELAY__FROM_LINK__BODY_DOWN:
		n = remote_node_find(g, m->down->node);
		if (n)
			node_down(g, n, m->down->why);
		return 0;
	case BELAY__FROM_LINK__BODY_RECEIVED:
		return take_received(g, m->received);
	case BELAY__FROM_LINK__BODY_JOIN_REQUEST:
		remote_take_join(g, m->join_request);
		return 0;
	case BELAY__FROM_LINK__BODY_JOINED: /* after its time-out */
		return 0;
	default:
		return -EBADMSG;
	}
}

int remote_conn_message(struct guard *g, const void *from_conn)
{
	const Belay__FromConn *m = from_conn;
	if (m->body_case != BELAY__FROM_CONN__BODY_DATA_DOWN)
		/* An answer whose question was dropped meanwhile is no surprise. */
		return m->body_case == BELAY__FROM_CONN__BODY_OPENED ||
				       m->body_case == BELAY__FROM_CONN__BODY_STATS ||
				       m->body_case == BELAY__FROM_CONN__BODY_RESERVE_ENDED
			       ? 0
			       : -EBADMSG;
	log_info("data connection to node %s: %s", m->data_down->node, m->data_down->why);
	const struct remote_node *n = remote_node_find(g, m->data_down->node);
	if (n) {
		remote_leases_end(g, n, "a data connection is lost");
		remote_stocks_end(g, n->name, "a data connection is lost");
	}
	if (m->data_down->tampered)
		admin_log(g, "tamper", m->data_down->node, 0);
	return 0;
}

/* ---- arrows ---- */

void remote_arrow_up(struct guard *g, enum role role)
{
	if (role == ROLE_LINK)
		remote_tell_peers(g);
	if (role == ROLE_SIGNER)
		remote_identity_ask(g);
	for (size_t i = 0; role == ROLE_CONN && i < g->remote->n_nodes; i++)
		if (g->remote->nodes[i]->ready)
			tell_conn(g, g->remote->nodes[i]);
}

void remote_arrow_down(struct guard *g, enum role role)
{
	if (role == ROLE_CONN || role == ROLE_FABRIC) {
		remote_leases_end(g, NULL, "a component was restarted");
		remote_stocks_end(g, NULL, "a component was restarted");
	}
	for (size_t i = 0; role == ROLE_LINK && i < g->remote->n_nodes; i++)
		node_down(g, g->remote->nodes[i], "this node's link process is away");
}
