/*
 * `belay node`: init, invite, join, remove (docs/protocol.md, 1). Input: the instance's
 * administrator; a token from another node's administrator; a stranger's join request, whose token
 * is compared in constant time and taken away at once.
 *
 * Of a token (token.h) the inviting guard keeps only the hash of its secret, in memory: a restart
 * forgets invitations.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "control.pb-c.h"
#include "crypto/random.h"
#include "crypto/sha256.h"
#include "crypto/x509.h"
#include "guard/auditing.h"
#include "guard/control.h"
#include "guard/pb.h"
#include "guard/remote.h"
#include "guard/token.h"
#include "registry/registry.h"
#include "signer.pb-c.h"

#define DOMAIN_DEFAULT "belay.internal"

/* A verb that waits for signer or link. */
struct verb {
	struct guard *guard;
	uint64_t client;
	uint32_t uid;
	char name[NAME_MAX_LEN];
	struct addr addresses[NODE_ADDRESSES_MAX];
	size_t n_addresses;
	struct addr listen, data;
	struct token token;
	struct link_peers_seen {
		char node[NAME_MAX_LEN];
		struct addr address;
	} seen[REMOTE_NODES_MAX];
	size_t n_seen;
	uint64_t join; /* a stranger's: link's number */
};

static void verb_free(struct verb *v)
{
	secret_zero(v, sizeof(*v));
	free(v);
}

static struct verb *verb_new(struct guard *g, uint64_t client)
{
	struct verb *v = calloc(1, sizeof(*v));
	const struct client *c = control_client(g, client);
	if (!v)
		return NULL;
	v->guard = g;
	v->client = client;
	v->uid = c ? c->uid : 0;
	return v;
}

static void verb_fail(struct verb *v, int error, const char *what, const char *why)
{
	control_error(v->guard, v->client, error, "cannot %s: %s", what,
		why && *why ? why : strerror(-error));
	verb_free(v);
}

/* "ip:port" with both. */
static int port_parse(const char *text, struct addr *ret)
{
	return addr_parse(text, ret) == 0 && ret->port ? 0 : -EINVAL;
}

/* Name and addresses of a node to be; says what is wrong with them. */
static int names_parse(struct verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (!x509_node_valid(m->name)) {
		control_error(g, v->client, -EINVAL,
			"'%.64s' cannot be a node's name (letters, digits, . _ -)", m->name);
		return -EINVAL;
	}
	if (!m->n_addresses || m->n_addresses > X509_ADDRESSES_MAX) {
		control_error(g, v->client, -EINVAL,
			"a node needs 1 to %d addresses of its own (try --address 10.77.0.1)",
			X509_ADDRESSES_MAX);
		return -EINVAL;
	}
	snprintf(v->name, sizeof(v->name), "%s", m->name);
	for (size_t i = 0; i < m->n_addresses; i++) {
		struct addr *a = &v->addresses[i];
		const char *taken = NULL;
		if (addr_parse(m->addresses[i], a) == 0 && !a->port)
			taken = remote_address_taken(g, a);
		else
			taken = "no address, or one with a port";
		if (taken) {
			control_error(g, v->client, -EADDRINUSE, "%.64s cannot be %s's: %s%s",
				m->addresses[i], m->name,
				taken[0] == 'n' && taken[1] == 'o' ? "it is " : "it belongs to ",
				taken);
			return -EADDRINUSE;
		}
	}
	v->n_addresses = m->n_addresses;
	return 0;
}

static int ports_parse(struct verb *v, const Belay__NodeRequest *m)
{
	if (port_parse(m->listen, &v->listen) < 0 ||
		(*m->data && port_parse(m->data, &v->data) < 0)) {
		control_error(v->guard, v->client, -EINVAL,
			"--listen and --data take ADDRESS:PORT (try --listen 192.0.2.1:7421)");
		return -EINVAL;
	}
	if (!*m->data) {
		v->data = v->listen;
		v->data.port++;
	}
	return 0;
}

static int need_free(struct guard *g, uint64_t client)
{
	if (!g->node[0])
		return 0;
	control_error(g, client, -EEXIST, "this is node %s of a domain already", g->node);
	return -EEXIST;
}

/* ---- init ---- */

static void inited(struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct error e = ERROR_INIT;
	if (error || m->error) {
		verb_fail(v, error ? error : m->error, "make a domain", error ? NULL : m->why);
		return;
	}
	int r = remote_self_set(g, v->name, v->addresses, v->n_addresses, &v->listen, &v->data, &e);
	if (r < 0) {
		verb_fail(v, r, "keep the node's name", e.text);
		return;
	}
	if (auditing_admin(g, v->uid, "node-join", v->name, 0) < 0)
		log_error("cannot log that node %s was made", v->name);
	char text[256], at[ADDR_TEXT_MAX];
	addr_format(&v->listen, true, at);
	snprintf(text, sizeof(text), "node %s, first of its domain, listens on %s", v->name, at);
	control_text(g, v->client, text);
	verb_free(v);
}

static void verb_init(struct verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (need_free(g, v->client) < 0 || names_parse(v, m) < 0 || ports_parse(v, m) < 0) {
		verb_free(v);
		return;
	}
	const char *domain = *m->trust_domain ? m->trust_domain : DOMAIN_DEFAULT;
	Belay__SignerInit o = BELAY__SIGNER_INIT__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.trust_domain = pb_text(domain);
	o.node = v->name;
	o.n_addresses = m->n_addresses;
	o.addresses = m->addresses;
	out.body_case = BELAY__TO_SIGNER__BODY_INIT;
	out.init = &o;
	int r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, inited, v, NULL);
	if (r < 0)
		verb_fail(v, r, "ask the signer", NULL);
}

/* ---- invite ---- */

static void invited(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct remote *r = g->remote;
	uint64_t now = clock_mono_ms();
	struct error e = ERROR_INIT;
	/* What is over makes room; one name has one open invitation, the last. */
	for (size_t i = 0; i < r->n_invites; i++)
		if (r->invites[i].until_ms <= now || !strcmp(r->invites[i].node, v->name))
			r->invites[i--] = r->invites[--r->n_invites];
	if (error || m->error || m->data.len != 32 || r->n_invites >= REMOTE_INVITES_MAX) {
		error = error ? error : m->error ? m->error : -ENOBUFS;
		verb_fail(v, error, "invite", reply ? m->why : NULL);
		return;
	}
	/* A node that was removed may be invited again under its name. */
	int u = registry_unrevoke(g->registry, REVOKED_NODE, v->name, &e);
	if (u < 0 && u != -ENOENT) {
		verb_fail(v, u, "invite", e.text);
		return;
	}
	struct invite *in = &r->invites[r->n_invites++];
	*in = (struct invite){.until_ms = now + REMOTE_INVITE_MS, .n_addresses = v->n_addresses};
	snprintf(in->node, sizeof(in->node), "%s", v->name);
	memcpy(in->addresses, v->addresses, sizeof(in->addresses));
	struct token t = {.to = r->listen};
	char text[TOKEN_TEXT_MAX];
	memcpy(t.ca_sha256, m->data.data, sizeof(t.ca_sha256));
	random_bytes(t.secret, sizeof(t.secret));
	snprintf(t.node, sizeof(t.node), "%s", v->name);
	sha256_of(t.secret, sizeof(t.secret), in->hash);
	token_format(&t, text);
	if (auditing_admin(g, v->uid, "node-invite", v->name, 0) < 0) {
		r->n_invites--;
		verb_fail(v, -EIO, "invite", "the audit log cannot be written");
	} else {
		control_text(g, v->client, text);
		verb_free(v);
	}
	secret_zero(&t, sizeof(t));
	secret_zero(text, sizeof(text));
}

static void verb_invite(struct verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (!g->node[0]) {
		verb_fail(
			v, -ENOENT, "invite", "this instance is no node yet (try belay node init)");
		return;
	}
	if (strcmp(m->name, g->node) == 0 || remote_node_find(g, m->name)) {
		verb_fail(v, -EEXIST, "invite",
			"that name is a node's already (try belay node remove)");
		return;
	}
	if (names_parse(v, m) < 0) {
		verb_free(v);
		return;
	}
	Belay__SignerInvite o = BELAY__SIGNER_INVITE__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	out.body_case = BELAY__TO_SIGNER__BODY_INVITE;
	out.invite = &o;
	int r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, invited, v, NULL);
	if (r < 0)
		verb_fail(v, r, "ask the signer", NULL);
}

/* ---- a stranger with a token ---- */

static void join_answer(
	struct guard *g, uint64_t join, int error, const char *why, const Belay__FromSigner *m)
{
	struct remote *r = g->remote;
	static Belay__LinkPeer peers[REMOTE_NODES_MAX + 1], *list[REMOTE_NODES_MAX + 1];
	static Belay__Addr addrs[REMOTE_NODES_MAX + 1];
	Belay__LinkJoinAnswer a = BELAY__LINK_JOIN_ANSWER__INIT;
	Belay__ToLink out = BELAY__TO_LINK__INIT;
	a.join = join;
	a.error = error;
	a.why = pb_text(why);
	for (size_t i = 0; m && i <= r->n_nodes; i++) {
		const struct remote_node *n = i < r->n_nodes ? r->nodes[i] : NULL;
		const struct addr *at = n ? &n->link : &r->listen;
		if (!at->ip_len)
			continue;
		belay__link_peer__init(&peers[a.n_peer]);
		addrs[a.n_peer] = pb_addr(at);
		peers[a.n_peer].node = n ? pb_text(n->name) : g->node;
		peers[a.n_peer].address = &addrs[a.n_peer];
		list[a.n_peer] = &peers[a.n_peer];
		a.n_peer++;
	}
	a.peer = list;
	if (m) {
		a.cert_der = m->cert_der;
		a.ca_der = m->ca_der;
	}
	out.body_case = BELAY__TO_LINK__BODY_JOIN_ANSWER;
	out.join_answer = &a;
	if (arrow_send(g, ROLE_LINK, &out.base, NULL, 0) < 0)
		log_error("cannot answer a joining node");
}

static void join_signed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct error e = ERROR_INIT;
	if (error || m->error) {
		join_answer(g, v->join, error ? error : m->error,
			error ? "the signer is away" : m->why, NULL);
		verb_free(v);
		return;
	}
	/* The list for the new node does not name itself: answered before it is entered. */
	if (auditing_admin(g, 0, "node-join", v->name, 0) < 0) {
		join_answer(g, v->join, -EIO, "the audit log cannot be written", NULL);
		verb_free(v);
		return;
	}
	join_answer(g, v->join, 0, "", m);
	struct remote_node *n = remote_node_get(g, v->name);
	if (n) {
		memcpy(n->addresses, v->addresses, sizeof(n->addresses));
		n->n_addresses = v->n_addresses;
		n->link = v->listen;
		if (remote_node_save(g, n, &e) < 0)
			log_error("%s", e.text);
		remote_tell_peers(g);
	}
	verb_free(v);
}

void remote_take_join(struct guard *g, const Belay__LinkJoinRequest *m)
{
	struct remote *r = g->remote;
	struct invite in = {0};
	uint8_t hash[32];
	if (m->token.len == TOKEN_RANDOM) {
		sha256_of(m->token.data, m->token.len, hash);
		for (size_t i = 0; i < r->n_invites; i++) {
			if (!secret_equal(hash, r->invites[i].hash, sizeof(hash)))
				continue;
			in = r->invites[i]; /* one use, whatever follows */
			r->invites[i--] = r->invites[--r->n_invites];
		}
	}
	struct verb *v = in.node[0] && in.until_ms > clock_mono_ms() ? verb_new(g, 0) : NULL;
	if (!v) {
		log_peer("a join request with a wrong, used or expired token");
		if (auditing_admin(g, 0, "node-refused", "wrong, used or expired token", -EACCES) <
			0)
			log_error("cannot log a refused join");
		join_answer(g, m->join, -EACCES,
			"the token is wrong, was used or has expired (ask for another invitation)",
			NULL);
		return;
	}
	v->join = m->join;
	snprintf(v->name, sizeof(v->name), "%s", in.node);
	memcpy(v->addresses, in.addresses, sizeof(v->addresses));
	v->n_addresses = in.n_addresses;
	if (pb_addr_read(m->listen, &v->listen) < 0)
		v->listen = (struct addr){0};
	char text[NODE_ADDRESSES_MAX][ADDR_TEXT_MAX], *list[NODE_ADDRESSES_MAX];
	for (size_t i = 0; i < v->n_addresses; i++) {
		addr_format(&v->addresses[i], false, text[i]);
		list[i] = text[i];
	}
	Belay__SignerCsr o = BELAY__SIGNER_CSR__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.csr_der = m->csr_der;
	o.node = v->name;
	o.n_addresses = v->n_addresses;
	o.addresses = list;
	out.body_case = BELAY__TO_SIGNER__BODY_CSR;
	out.csr = &o;
	if (arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, join_signed, v, NULL) < 0) {
		join_answer(g, v->join, -EAGAIN, "the signer is away", NULL);
		verb_free(v);
	}
}

/* ---- join ---- */

static void installed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct error e = ERROR_INIT;
	if (error || m->error) {
		verb_fail(v, error ? error : m->error, "join", error ? NULL : m->why);
		return;
	}
	for (size_t i = 0; i < v->n_seen; i++) {
		struct remote_node *n = remote_node_get(g, v->seen[i].node);
		if (!n)
			continue;
		n->link = v->seen[i].address;
		if (remote_node_save(g, n, &e) < 0)
			log_error("%s", e.text);
	}
	int r = remote_self_set(g, v->name, v->addresses, v->n_addresses, &v->listen, &v->data, &e);
	if (r < 0) {
		verb_fail(v, r, "keep the node's name", e.text);
		return;
	}
	if (auditing_admin(g, v->uid, "node-join", v->name, 0) < 0)
		log_error("cannot log that this became node %s", v->name);
	char text[256];
	snprintf(text, sizeof(text), "this is node %s now, one of %zu", v->name, v->n_seen + 1);
	control_text(g, v->client, text);
	verb_free(v);
}

static void seen_take(struct verb *v, const Belay__LinkJoinAnswer *a)
{
	for (size_t i = 0; i < a->n_peer && v->n_seen < REMOTE_NODES_MAX; i++) {
		struct link_peers_seen *s = &v->seen[v->n_seen];
		if (!x509_node_valid(a->peer[i]->node) ||
			pb_addr_read(a->peer[i]->address, &s->address) < 0 || !s->address.port ||
			strcmp(a->peer[i]->node, v->name) == 0)
			continue;
		snprintf(s->node, sizeof(s->node), "%s", a->peer[i]->node);
		v->n_seen++;
	}
}

static void join_done(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct verb *v = ctx;
	const Belay__FromLink *m = reply;
	struct error e = ERROR_INIT;
	struct x509_node self;
	if (error || m->body_case != BELAY__FROM_LINK__BODY_JOINED || m->joined->error) {
		bool told = !error && m->body_case == BELAY__FROM_LINK__BODY_JOINED;
		verb_fail(v,
			error  ? error
			: told ? m->joined->error
			       : -EPROTO,
			"join", told ? m->joined->why : NULL);
		return;
	}
	const Belay__LinkJoinAnswer *a = m->joined;
	uint8_t print[32];
	x509_fingerprint(a->ca_der.data, a->ca_der.len, print);
	int r = secret_equal(print, v->token.ca_sha256, sizeof(print))
			? x509_node_verify(a->cert_der.data, a->cert_der.len, a->ca_der.data,
				  a->ca_der.len, &self, &e)
			: error_set(&e, -EKEYREJECTED, "the CA is not the one the token names");
	if (r == 0 && strcmp(self.node, v->name) != 0)
		r = error_set(&e, -EKEYREJECTED, "the certificate is for node %s", self.node);
	if (r < 0) {
		verb_fail(v, r, "join", e.text);
		return;
	}
	memcpy(v->addresses, self.addresses, self.n_addresses * sizeof(self.addresses[0]));
	v->n_addresses = self.n_addresses;
	seen_take(v, a);
	Belay__SignerInstall o = BELAY__SIGNER_INSTALL__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.ca_der = a->ca_der;
	o.cert_der = a->cert_der;
	out.body_case = BELAY__TO_SIGNER__BODY_INSTALL;
	out.install = &o;
	r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, installed, v, NULL);
	if (r < 0)
		verb_fail(v, r, "ask the signer", NULL);
}

static void join_request_made(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct verb *v = ctx;
	const Belay__FromSigner *m = reply;
	if (error || m->error) {
		verb_fail(v, error ? error : m->error, "make a certificate request",
			error ? NULL : m->why);
		return;
	}
	Belay__LinkJoin o = BELAY__LINK_JOIN__INIT;
	Belay__ToLink out = BELAY__TO_LINK__INIT;
	Belay__Addr to = pb_addr(&v->token.to), listen = pb_addr(&v->listen);
	o.address = &to;
	o.token = pb_bytes(v->token.secret, sizeof(v->token.secret));
	o.ca_sha256 = pb_bytes(v->token.ca_sha256, sizeof(v->token.ca_sha256));
	o.csr_der = m->data;
	o.node = v->name;
	o.listen = &listen;
	out.body_case = BELAY__TO_LINK__BODY_JOIN;
	out.join = &o;
	int r = arrow_call(g, ROLE_LINK, &out.base, NULL, 0, 0, join_done, v, NULL);
	if (r < 0)
		verb_fail(v, r, "ask link", NULL);
}

static void verb_join(struct verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (need_free(g, v->client) < 0 || ports_parse(v, m) < 0) {
		verb_free(v);
		return;
	}
	if (token_parse(m->token, &v->token) < 0) {
		verb_fail(v, -EINVAL, "join", "that is no token (belay node invite prints one)");
		return;
	}
	memcpy(v->name, v->token.node, sizeof(v->name));
	Belay__SignerMakeCsr o = BELAY__SIGNER_MAKE_CSR__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.node = v->name;
	out.body_case = BELAY__TO_SIGNER__BODY_MAKE_CSR;
	out.make_csr = &o;
	int r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, join_request_made, v, NULL);
	if (r < 0)
		verb_fail(v, r, "ask the signer", NULL);
}

/* ---- remove ---- */

static void verb_remove(struct verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	struct remote_node *n = remote_node_find(g, m->name);
	struct error e = ERROR_INIT;
	if (!n) {
		verb_fail(v, -ENOENT, "remove", "there is no such node (try belay node list)");
		return;
	}
	snprintf(v->name, sizeof(v->name), "%s", n->name);
	/* Revoked first: whatever fails after that, it is not let in again. */
	int r = registry_revoke(g->registry, REVOKED_NODE, v->name, "removed", &e);
	if (r == 0) {
		r = registry_node_remove(g->registry, v->name, &e);
		r = r == -ENOENT ? 0 : r;
	}
	if (auditing_admin(g, v->uid, "node-remove", v->name, r) < 0)
		log_error("cannot log that node %s was removed", v->name);
	remote_node_forget(g, n, "this node was removed");
	if (r < 0) {
		verb_fail(v, r, "remove", e.text);
		return;
	}
	char text[NAME_MAX_LEN + 64];
	snprintf(text, sizeof(text), "node %s is removed here; other nodes keep their own lists",
		v->name);
	control_text(g, v->client, text);
	verb_free(v);
}

void remote_control(struct guard *g, uint64_t client, const void *node_request)
{
	const Belay__NodeRequest *m = node_request;
	struct verb *v = verb_new(g, client);
	if (!v) {
		control_error(g, client, -ENOMEM, "out of memory");
		return;
	}
	switch (m->verb) {
	case BELAY__NODE_REQUEST__VERB__INIT:
		verb_init(v, m);
		return;
	case BELAY__NODE_REQUEST__VERB__INVITE:
		verb_invite(v, m);
		return;
	case BELAY__NODE_REQUEST__VERB__JOIN:
		verb_join(v, m);
		return;
	case BELAY__NODE_REQUEST__VERB__LIST:
		remote_list(g, client);
		verb_free(v);
		return;
	case BELAY__NODE_REQUEST__VERB__REMOVE:
		verb_remove(v, m);
		return;
	default:
		verb_fail(v, -ENOSYS, "do that", "there is no such request");
	}
}
