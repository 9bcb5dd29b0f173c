/*
 * Invitations (docs/protocol.md, 1), at the node that gives them. Input: the instance's
 * administrator; a stranger's join request, whose token is compared in constant time and taken away
 * at once.
 *
 * Of a token (token.h) only the hash of its secret is kept, in the registry, until it is used or
 * over; it is taken out of there for good before anything is done with it.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "crypto/random.h"
#include "crypto/sha256.h"
#include "guard/auditing.h"
#include "guard/control.h"
#include "guard/node_verb.h"
#include "guard/pb.h"
#include "registry/registry.h"
#include "signer.pb-c.h"

#define JOIN_OWNS_MAX 512 /* addresses told to who joins: with the names they fit one message */

/* Makes and keeps the invitation, and its token. */
static int invitation_make(struct node_verb *v, struct token *t, struct error *e)
{
	struct invitation in = {
		.until_ms = clock_wall_ms() + REMOTE_INVITE_MS, .n_addresses = v->n_addresses};
	t->to = v->guard->remote->listen;
	random_bytes(t->secret, sizeof(t->secret));
	snprintf(t->node, sizeof(t->node), "%s", v->name);
	snprintf(in.node, sizeof(in.node), "%s", v->name);
	for (size_t i = 0; i < v->n_addresses; i++)
		addr_format(&v->addresses[i], false, in.addresses[i]);
	sha256_of(t->secret, sizeof(t->secret), in.secret.bytes);
	return registry_invitation_put(v->guard->registry, &in, clock_wall_ms(), e);
}

static void invited(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct node_verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct error e = ERROR_INIT;
	if (error || m->error || m->data.len != 32) {
		error = error ? error : m->error ? m->error : -EPROTO;
		node_verb_fail(v, error, "invite", reply ? m->why : NULL);
		return;
	}
	if (auditing_admin(g, v->uid, "node-invite", v->name, 0) < 0) {
		node_verb_fail(v, -EIO, "invite", "the audit log cannot be written");
		return;
	}
	struct token t;
	char text[TOKEN_TEXT_MAX];
	memcpy(t.ca_sha256, m->data.data, sizeof(t.ca_sha256));
	int r = invitation_make(v, &t, &e);
	if (r < 0) {
		node_verb_fail(v, r, "invite", e.text);
	} else {
		token_format(&t, text);
		control_text(g, v->client, text);
		node_verb_free(v);
	}
	secret_zero(&t, sizeof(t));
	secret_zero(text, sizeof(text));
}

void node_verb_invite(struct node_verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (!g->node[0]) {
		node_verb_fail(
			v, -ENOENT, "invite", "this instance is no node yet (try belay node init)");
		return;
	}
	if (strcmp(m->name, g->node) == 0 || remote_node_find(g, m->name)) {
		node_verb_fail(v, -EEXIST, "invite",
			"that name is a node's already (try belay node remove)");
		return;
	}
	if (node_names_parse(v, m) < 0) {
		node_verb_free(v);
		return;
	}
	Belay__SignerInvite o = BELAY__SIGNER_INVITE__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	out.body_case = BELAY__TO_SIGNER__BODY_INVITE;
	out.invite = &o;
	int r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, invited, v, NULL);
	if (r < 0)
		node_verb_fail(v, r, "ask the signer", NULL);
}

/* ---- a stranger with a token ---- */

/* The nodes there are, for one that joins: where each listens, and what it owns. */
struct listing {
	Belay__LinkPeer peer[REMOTE_NODES_MAX + 1], *list[REMOTE_NODES_MAX + 1];
	Belay__Addr addr[REMOTE_NODES_MAX + 1];
	char text[JOIN_OWNS_MAX][ADDR_TEXT_MAX], *owns[JOIN_OWNS_MAX];
	size_t n, n_owns;
};

static void listing_add(struct listing *l, const char *name, const struct addr *at,
	const struct addr *addresses, size_t n)
{
	Belay__LinkPeer *p = &l->peer[l->n];
	if (!at->ip_len)
		return;
	belay__link_peer__init(p);
	l->addr[l->n] = pb_addr(at);
	p->node = pb_text(name);
	p->address = &l->addr[l->n];
	p->owns = &l->owns[l->n_owns];
	for (; p->n_owns < n && l->n_owns < JOIN_OWNS_MAX; l->n_owns++) {
		addr_format(&addresses[p->n_owns++], false, l->text[l->n_owns]);
		l->owns[l->n_owns] = l->text[l->n_owns];
	}
	l->list[l->n++] = p;
}

static void join_answer(
	struct guard *g, uint64_t join, int error, const char *why, const Belay__FromSigner *m)
{
	static struct listing l;
	Belay__LinkJoinAnswer a = BELAY__LINK_JOIN_ANSWER__INIT;
	Belay__ToLink out = BELAY__TO_LINK__INIT;
	l.n = l.n_owns = 0;
	a.join = join;
	a.error = error;
	a.why = pb_text(why);
	if (m) {
		listing_add(&l, g->node, &g->remote->listen, g->addresses, g->n_addresses);
		for (size_t i = 0; i < g->remote->n_nodes; i++) {
			const struct remote_node *n = g->remote->nodes[i];
			listing_add(&l, n->name, &n->link, n->addresses, n->n_addresses);
		}
		a.cert_der = m->cert_der;
		a.ca_der = m->ca_der;
	}
	a.peer = l.list;
	a.n_peer = l.n;
	out.body_case = BELAY__TO_LINK__BODY_JOIN_ANSWER;
	out.join_answer = &a;
	if (arrow_send(g, ROLE_LINK, &out.base, NULL, 0) < 0)
		log_error("cannot answer a joining node");
}

static void join_signed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct node_verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct error e = ERROR_INIT;
	if (error || m->error) {
		join_answer(g, v->join, error ? error : m->error,
			error ? "the signer is away" : m->why, NULL);
		node_verb_free(v);
		return;
	}
	/* The list for the new node does not name itself: answered before it is entered. */
	if (auditing_admin(g, 0, "node-join", v->name, 0) < 0) {
		join_answer(g, v->join, -EIO, "the audit log cannot be written", NULL);
		node_verb_free(v);
		return;
	}
	join_answer(g, v->join, 0, "", m);
	struct remote_node *n = remote_node_get(g, v->name);
	struct x509_node made;
	if (n) {
		if (x509_node_parse(m->cert_der.data, m->cert_der.len, &made, &e) == 0)
			n->issued = made.issued;
		memcpy(n->addresses, v->addresses, sizeof(n->addresses));
		n->n_addresses = v->n_addresses;
		n->link = v->listen;
		if (remote_node_save(g, n, &e) < 0)
			log_error("%s", e.text);
		remote_tell_peers(g);
	}
	node_verb_free(v);
}

/* The invitation of a token, used up by this; NULL: there is none. */
static struct node_verb *invitation_use(struct guard *g, const ProtobufCBinaryData *token)
{
	struct invitation in;
	struct digest secret;
	struct error e = ERROR_INIT;
	if (token->len != TOKEN_RANDOM)
		return NULL;
	sha256_of(token->data, token->len, secret.bytes);
	int r = registry_invitation_take(g->registry, &secret, &in, &e);
	if (r < 0 && r != -ENOENT)
		log_error("%s", e.text);
	struct node_verb *v = r == 0 && in.until_ms > clock_wall_ms() ? node_verb_new(g, 0) : NULL;
	if (!v)
		return NULL;
	snprintf(v->name, sizeof(v->name), "%s", in.node);
	for (size_t i = 0; i < in.n_addresses && i < NODE_ADDRESSES_MAX; i++)
		if (addr_parse(in.addresses[i], &v->addresses[v->n_addresses]) == 0)
			v->n_addresses++;
	return v;
}

void remote_take_join(struct guard *g, const Belay__LinkJoinRequest *m)
{
	struct node_verb *v = invitation_use(g, &m->token);
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
	if (pb_addr_read(m->listen, &v->listen) < 0)
		v->listen = (struct addr){0};
	if (remote_sign(g, v->name, v->addresses, v->n_addresses, &m->csr_der, join_signed, v) <
		0) {
		join_answer(g, v->join, -EAGAIN, "the signer is away", NULL);
		node_verb_free(v);
	}
}
