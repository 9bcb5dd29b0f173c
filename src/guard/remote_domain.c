/*
 * This node's place in its domain: the CA, its own certificate and that one's renewal
 * (docs/protocol.md, 7). Input: its own signer; a node that says it holds the CA, whose answer
 * counts only if the signer finds it a certificate of our CA for the key it has made, and for the
 * name and addresses we have; other nodes' requests, granted for what their certificates name.
 *
 * Renewed at two thirds of its life, a little later by chance so that not all ask at once, then
 * again and again until it works: a third of the life is left for the CA's node to be away.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "crypto/random.h"
#include "guard/auditing.h"
#include "guard/pb.h"
#include "guard/remote.h"
#include "registry/registry.h"
#include "signer.pb-c.h"

#define META_CA "node.ca"
#define RETRY_MAX_S 3600u
#define LOOK_MAX_MS (24u * 3600 * 1000) /* the wall clock may be set meanwhile */
#define GRANT_EVERY_MS 5000             /* at most, to one node */

static uint64_t now_s(void)
{
	return clock_wall_ms() / 1000;
}

static void renew_log(struct guard *g, const char *node, int error)
{
	if (auditing_admin(g, 0, "node-renew", node, error) < 0)
		log_error("cannot log the renewal of node %s's certificate", node);
}

/* ---- time ---- */

static uint64_t renew_due(const struct domain *d)
{
	uint64_t life = d->not_after - d->issued;
	return d->issued + life * 2 / 3 + life / 24 * d->jitter / UINT8_MAX;
}

static void domain_timer(uv_timer_t *t);

static void timer_arm(struct guard *g)
{
	const struct domain *d = &g->remote->domain;
	uint64_t next = UINT64_MAX, now = now_s();
	if (d->not_after > d->issued && !d->out) {
		uint64_t again = (d->not_after - d->issued) / 256;
		again = again > RETRY_MAX_S ? RETRY_MAX_S : again ? again : 1;
		next = renew_due(d) > now ? renew_due(d) : now + again;
	}
	for (size_t i = 0; i < g->remote->n_nodes; i++) {
		const struct remote_node *n = g->remote->nodes[i];
		if (n->linked && n->not_after < next)
			next = n->not_after + 1;
	}
	uint64_t wait = next <= now ? 1000 : (next - now) * 1000;
	uv_update_time(&g->component.loop);
	if (next == UINT64_MAX)
		uv_timer_stop(d->timer);
	else
		uv_timer_start(d->timer, domain_timer, wait > LOOK_MAX_MS ? LOOK_MAX_MS : wait, 0);
}

void remote_domain_look(struct guard *g)
{
	timer_arm(g);
}

static void domain_timer(uv_timer_t *t)
{
	struct guard *g = t->data;
	const struct domain *d = &g->remote->domain;
	uint64_t now = now_s();
	for (size_t i = 0; i < g->remote->n_nodes; i++) {
		struct remote_node *n = g->remote->nodes[i];
		if (n->linked && n->not_after < now)
			remote_link_end(g, n, "its certificate is over");
	}
	if (d->not_after > d->issued && !d->out && renew_due(d) <= now)
		remote_renew(g);
	timer_arm(g);
}

/* ---- what the signer holds ---- */

static void ca_keep(struct guard *g, const ProtobufCBinaryData *ca)
{
	struct domain *d = &g->remote->domain;
	struct error e = ERROR_INIT;
	if (!ca->len || (ca->len == d->ca.len && memcmp(ca->data, d->ca.data, ca->len) == 0))
		return;
	uint8_t *copy = malloc(ca->len);
	if (!copy)
		return;
	memcpy(copy, ca->data, ca->len);
	der_clear(&d->ca);
	d->ca = (struct der){copy, ca->len};
	if (registry_meta_set(g->registry, META_CA, ca->data, ca->len, &e) < 0)
		log_error("%s", e.text);
}

static void identity_told(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)ctx, (void)fds, (void)n_fds;
	const Belay__FromSigner *m = reply;
	struct domain *d = g->remote ? &g->remote->domain : NULL;
	struct x509_node own;
	struct error e = ERROR_INIT;
	if (error || m->error || !d || !m->cert_der.len)
		return;
	ca_keep(g, &m->ca_der);
	d->holds_ca = m->holds_ca;
	if (x509_node_parse(m->cert_der.data, m->cert_der.len, &own, &e) < 0) {
		log_error("this node's own certificate: %s", e.text);
		return;
	}
	d->out = d->out && own.issued == d->issued;
	d->issued = own.issued;
	d->not_after = own.not_after;
	remote_removed_self(g);
	timer_arm(g);
}

void remote_identity_ask(struct guard *g)
{
	Belay__SignerPublic o = BELAY__SIGNER_PUBLIC__INIT;
	Belay__ToSigner m = BELAY__TO_SIGNER__INIT;
	m.body_case = BELAY__TO_SIGNER__BODY_PUBLIC_KEYS;
	m.public_keys = &o;
	if (arrow_call(g, ROLE_SIGNER, &m.base, NULL, 0, CALL_NOWAIT, identity_told, NULL, NULL) <
		0)
		log_warn("cannot ask the signer for this node's certificate");
}

/* ---- asking for a new one ---- */

static void renewed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)ctx, (void)fds, (void)n_fds;
	const Belay__FromSigner *m = reply;
	if (!error)
		error = m->error;
	if (error)
		log_error("this node's certificate cannot be renewed: %s",
			reply ? m->why : strerror(-error));
	renew_log(g, g->node, error);
	remote_identity_ask(g);
}

static void renew_made(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	const Belay__FromSigner *m = reply;
	if (error || m->error || m->cert_der.len) { /* with the CA here that was all */
		renewed(g, ctx, error, reply, fds, n_fds);
		return;
	}
	Belay__NodeRenew o = BELAY__NODE_RENEW__INIT;
	Belay__NodeMessage out = BELAY__NODE_MESSAGE__INIT;
	o.csr_der = m->data;
	out.body_case = BELAY__NODE_MESSAGE__BODY_RENEW;
	out.renew = &o;
	for (size_t i = 0; i < g->remote->n_nodes; i++) {
		struct remote_node *n = g->remote->nodes[i];
		if (n->ready && n->holds_ca)
			n->renew_asked = remote_send(g, n, &out) == 0;
	}
}

/* Whoever holds the CA and has a link is asked; nobody has: the timer comes again. */
void remote_renew(struct guard *g)
{
	bool can = g->remote->domain.holds_ca;
	for (size_t i = 0; i < g->remote->n_nodes; i++)
		can = can || (g->remote->nodes[i]->ready && g->remote->nodes[i]->holds_ca);
	Belay__SignerRenew o = BELAY__SIGNER_RENEW__INIT;
	Belay__ToSigner m = BELAY__TO_SIGNER__INIT;
	m.body_case = BELAY__TO_SIGNER__BODY_RENEW;
	m.renew = &o;
	if (can && arrow_call(g, ROLE_SIGNER, &m.base, NULL, 0, CALL_NOWAIT, renew_made, NULL,
			   NULL) < 0)
		log_warn("cannot ask the signer for a new certificate");
}

void remote_take_renewed(struct guard *g, struct remote_node *n, const Belay__NodeRenewed *m)
{
	if (!n->renew_asked)
		return;
	n->renew_asked = false;
	if (m->error) {
		log_warn("node %s does not renew this node's certificate: %.100s", n->name, m->why);
		return;
	}
	Belay__SignerInstall o = BELAY__SIGNER_INSTALL__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.ca_der = pb_bytes(g->remote->domain.ca.data, g->remote->domain.ca.len);
	o.cert_der = m->cert_der;
	out.body_case = BELAY__TO_SIGNER__BODY_INSTALL;
	out.install = &o;
	if (arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, CALL_NOWAIT, renewed, NULL, NULL) < 0)
		log_warn("cannot give the signer the new certificate");
}

/* ---- granting one ---- */

static void grant_answer(struct guard *g, const struct remote_node *n, int error, const char *why,
	const Belay__FromSigner *signed_by)
{
	Belay__NodeRenewed a = BELAY__NODE_RENEWED__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	a.error = error;
	a.why = pb_text(why);
	if (signed_by)
		a.cert_der = signed_by->cert_der;
	m.body_case = BELAY__NODE_MESSAGE__BODY_RENEWED;
	m.renewed = &a;
	if (remote_send(g, n, &m) < 0)
		log_warn("cannot answer node %s", n->name);
}

static void granted(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	const Belay__FromSigner *m = reply;
	_cleanup_free_ char *name = ctx;
	const struct remote_node *n = g->remote ? remote_node_find(g, name) : NULL;
	if (!error)
		error = m->error;
	if (!n || !n->ready)
		return; /* it asks again */
	renew_log(g, name, error);
	grant_answer(g, n, error,
		!error  ? ""
		: reply ? m->why
			: "the signer is away",
		error ? NULL : m);
}

static int grant_sign(struct guard *g, const struct remote_node *n, const ProtobufCBinaryData *csr)
{
	char *name = strdup(n->name);
	int r = name ? remote_sign(g, n->name, n->addresses, n->n_addresses, csr, granted, name)
		     : -ENOMEM;
	if (r < 0)
		free(name);
	return r;
}

void remote_take_renew(struct guard *g, struct remote_node *n, const Belay__NodeRenew *m)
{
	uint64_t now = clock_mono_ms();
	if (!g->remote->domain.holds_ca) {
		grant_answer(g, n, -ENOKEY, "this node does not hold the domain's CA", NULL);
		return;
	}
	/* An honest node asks late in its certificate's life, and not all the time. */
	if (now_s() < n->issued + (n->not_after - n->issued) / 2 ||
		(n->granted_ms && now - n->granted_ms < GRANT_EVERY_MS)) {
		grant_answer(g, n, -EAGAIN, "it is not due", NULL);
		return;
	}
	n->granted_ms = now;
	if (grant_sign(g, n, &m->csr_der) < 0)
		grant_answer(g, n, -EAGAIN, "the signer is away", NULL);
}

int remote_sign(struct guard *g, const char *node, const struct addr *addresses, size_t n,
	const ProtobufCBinaryData *csr, call_fn fn, void *ctx)
{
	char text[NODE_ADDRESSES_MAX][ADDR_TEXT_MAX], *list[NODE_ADDRESSES_MAX];
	for (size_t i = 0; i < n; i++) {
		addr_format(&addresses[i], false, text[i]);
		list[i] = text[i];
	}
	Belay__SignerCsr o = BELAY__SIGNER_CSR__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.csr_der = *csr;
	o.node = pb_text(node);
	o.n_addresses = n;
	o.addresses = list;
	out.body_case = BELAY__TO_SIGNER__BODY_CSR;
	out.csr = &o;
	return arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, fn, ctx, NULL);
}

/* ---- life ---- */

int remote_domain_init(struct guard *g)
{
	struct domain *d = &g->remote->domain;
	uint8_t buf[X509_DER_MAX];
	size_t len;
	d->timer = calloc(1, sizeof(*d->timer));
	if (!d->timer)
		return -ENOMEM;
	d->timer->data = g;
	random_bytes(&d->jitter, sizeof(d->jitter));
	int r = uv_timer_init(&g->component.loop, d->timer);
	if (r == 0 && (r = registry_meta_get(g->registry, META_CA, buf, sizeof(buf), &len)) == 0) {
		d->ca.data = malloc(len);
		if (!d->ca.data)
			return -ENOMEM;
		memcpy(d->ca.data, buf, len);
		d->ca.len = len;
	}
	return r == -ENOENT || r == 0 ? remote_removals_load(g) : r;
}

static void timer_free(uv_handle_t *h)
{
	free(h);
}

void remote_domain_deinit(struct guard *g)
{
	struct domain *d = &g->remote->domain;
	if (d->timer)
		uv_close((uv_handle_t *)d->timer, timer_free);
	der_clear(&d->ca);
	der_clear(&d->list);
	der_clear(&d->signature);
}
