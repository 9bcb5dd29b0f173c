/*
 * `belay node join`: this instance becomes a node of the domain that its token names
 * (docs/protocol.md, 1). Input: the administrator's token; the answer of whoever listens at the
 * token's address, held against the CA whose hash the token has.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "crypto/x509.h"
#include "guard/auditing.h"
#include "guard/control.h"
#include "guard/node_verb.h"
#include "guard/pb.h"
#include "registry/registry.h"
#include "signer.pb-c.h"

static void installed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct node_verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct error e = ERROR_INIT;
	if (error || m->error) {
		node_verb_fail(v, error ? error : m->error, "join", error ? NULL : m->why);
		return;
	}
	for (size_t i = 0; i < v->n_seen; i++) {
		struct remote_node *n = remote_node_get(g, v->seen[i].node);
		if (!n)
			continue;
		n->link = v->seen[i].address;
		memcpy(n->addresses, v->seen[i].owns, sizeof(n->addresses));
		n->n_addresses = v->seen[i].n_owns;
		if (remote_node_save(g, n, &e) < 0)
			log_error("%s", e.text);
	}
	int r = remote_self_set(g, v->name, v->addresses, v->n_addresses, &v->listen, &v->data, &e);
	if (r < 0) {
		node_verb_fail(v, r, "keep the node's name", e.text);
		return;
	}
	remote_identity_ask(g);
	if (auditing_admin(g, v->uid, "node-join", v->name, 0) < 0)
		log_error("cannot log that this became node %s", v->name);
	char text[256];
	snprintf(text, sizeof(text), "this is node %s now, one of %zu", v->name, v->n_seen + 1);
	control_text(g, v->client, text);
	node_verb_free(v);
}

/* Until a node's first link its certificate is not known; then that one counts. */
static int seen_take(struct node_verb *v, const Belay__LinkJoinAnswer *a)
{
	v->seen = calloc(REMOTE_NODES_MAX, sizeof(*v->seen));
	if (!v->seen)
		return -ENOMEM;
	for (size_t i = 0; i < a->n_peer && v->n_seen < REMOTE_NODES_MAX; i++) {
		const Belay__LinkPeer *p = a->peer[i];
		struct node_seen *s = &v->seen[v->n_seen];
		if (!x509_node_valid(p->node) || pb_addr_read(p->address, &s->address) < 0 ||
			!s->address.port || strcmp(p->node, v->name) == 0)
			continue;
		snprintf(s->node, sizeof(s->node), "%s", p->node);
		for (size_t k = 0; k < p->n_owns && s->n_owns < NODE_ADDRESSES_MAX; k++) {
			struct addr *o = &s->owns[s->n_owns];
			if (addr_parse(p->owns[k], o) == 0 && !addr_is_loopback(o) &&
				!addr_is_any(o))
				s->n_owns++;
		}
		v->n_seen++;
	}
	return 0;
}

static void join_done(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct node_verb *v = ctx;
	const Belay__FromLink *m = reply;
	struct error e = ERROR_INIT;
	struct x509_node self;
	if (error || m->body_case != BELAY__FROM_LINK__BODY_JOINED || m->joined->error) {
		bool told = !error && m->body_case == BELAY__FROM_LINK__BODY_JOINED;
		node_verb_fail(v,
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
		node_verb_fail(v, r, "join", e.text);
		return;
	}
	memcpy(v->addresses, self.addresses, self.n_addresses * sizeof(self.addresses[0]));
	v->n_addresses = self.n_addresses;
	r = seen_take(v, a);
	if (r < 0) {
		node_verb_fail(v, r, "join", NULL);
		return;
	}
	Belay__SignerInstall o = BELAY__SIGNER_INSTALL__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.ca_der = a->ca_der;
	o.cert_der = a->cert_der;
	out.body_case = BELAY__TO_SIGNER__BODY_INSTALL;
	out.install = &o;
	r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, installed, v, NULL);
	if (r < 0)
		node_verb_fail(v, r, "ask the signer", NULL);
}

static void join_request_made(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct node_verb *v = ctx;
	const Belay__FromSigner *m = reply;
	if (error || m->error) {
		node_verb_fail(v, error ? error : m->error, "make a certificate request",
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
		node_verb_fail(v, r, "ask link", NULL);
}

void node_verb_join(struct node_verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (node_need_free(g, v->client) < 0 || node_ports_parse(v, m) < 0) {
		node_verb_free(v);
		return;
	}
	if (token_parse(m->token, &v->token) < 0) {
		node_verb_fail(
			v, -EINVAL, "join", "that is no token (belay node invite prints one)");
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
		node_verb_fail(v, r, "ask the signer", NULL);
}
