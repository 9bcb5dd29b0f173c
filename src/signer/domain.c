/*
 * What takes the CA's key (signer.h): making it, certificates, the list of removed nodes. Input:
 * the guard; name and addresses of a certificate are its word, the list only ever grows.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "signer/signer.h"

#define LIFE_MIN_S 10
#define LIFE_USUAL_S ((uint64_t)X509_NODE_DAYS * 86400)

static int addresses_parse(
	char *const *text, size_t n, struct addr ret[X509_ADDRESSES_MAX], struct error *e)
{
	if (n > X509_ADDRESSES_MAX)
		return error_set(
			e, -E2BIG, "a node may have at most %d addresses", X509_ADDRESSES_MAX);
	for (size_t i = 0; i < n; i++)
		if (addr_parse(text[i], &ret[i]) < 0)
			return error_set(e, -EINVAL, "%.64s is not an address", text[i]);
	return 0;
}

/* The CA of an init that was cut short is used again if the domain is the same. */
static int ca_make(struct signer *s, const char *domain, struct error *e)
{
	char have[X509_DOMAIN_MAX];
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der key = {0}, cert = {0}, none = {0};
	if (s->ca_key) {
		if (x509_ca_check(s->ca_cert.data, s->ca_cert.len, have, e) < 0)
			return -EKEYREJECTED;
		return !strcmp(have, domain)
			       ? 0
			       : error_set(e, -EEXIST,
					 "this node has the CA of the domain %s already", have);
	}
	int r = x509_key_new(&k);
	if (!r)
		r = x509_key_to_der(k, &key);
	if (r < 0)
		return error_errno(e, r, "cannot make a key");
	r = x509_ca_make(k, domain, &cert, e);
	if (r < 0)
		return r;
	r = signer_identity_put(s->dir, "ca.identity", &key, &cert, &none);
	if (r < 0)
		return error_errno(e, r, "cannot keep the CA");
	s->ca_key = take_ptr(k);
	s->ca_cert = cert;
	cert = (struct der){0};
	return 0;
}

static int life_set(struct signer *s, uint64_t life_s, struct error *e)
{
	uint8_t text[8];
	s->life_s = life_s ? life_s : LIFE_USUAL_S;
	if (s->life_s < LIFE_MIN_S || s->life_s > LIFE_USUAL_S)
		return error_set(e, -EINVAL, "certificates hold for %d seconds to %d days",
			LIFE_MIN_S, X509_NODE_DAYS);
	for (int i = 0; i < 8; i++)
		text[i] = (uint8_t)(s->life_s >> (56 - 8 * i));
	int r = signer_file_put(s->dir, "ca.life", text, sizeof(text), true);
	return r < 0 ? error_errno(e, r, "cannot keep how long certificates hold") : 0;
}

/* A new key and certificate as the node's identity. */
static int own_make(struct signer *s, const char *node, const struct addr *addrs, size_t n,
	struct signer_reply *ret, struct error *e)
{
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der key = {0}, csr = {0}, cert = {0}, ca = {0};
	const struct x509_term term = {.life_s = s->life_s};
	int r = x509_key_new(&k);
	if (!r)
		r = x509_key_to_der(k, &key);
	if (!r)
		r = signer_der_copy(s->ca_cert.data, s->ca_cert.len, &ca);
	if (r < 0)
		return error_errno(e, r, "cannot make a key");
	r = x509_csr_make(k, node, &csr, e);
	if (!r)
		r = x509_node_issue(s->ca_key, ca.data, ca.len, csr.data, csr.len, node, addrs, n,
			&term, &cert, e);
	return r < 0 ? r : signer_identity_set(s, &key, &cert, &ca, ret, e);
}

int signer_init(
	struct signer *s, const Belay__SignerInit *m, struct signer_reply *ret, struct error *e)
{
	struct addr addrs[X509_ADDRESSES_MAX];
	int r = signer_no_identity(s, e);
	if (!r)
		r = addresses_parse(m->addresses, m->n_addresses, addrs, e);
	if (!r)
		r = life_set(s, m->life_s, e);
	if (!r)
		r = ca_make(s, m->trust_domain, e);
	return r < 0 ? r : own_make(s, m->node, addrs, m->n_addresses, ret, e);
}

int signer_renew_own(struct signer *s, struct signer_reply *ret, struct error *e)
{
	const struct x509_node now = s->node;
	return own_make(s, now.node, now.addresses, now.n_addresses, ret, e);
}

static int need_ca(const struct signer *s, struct error *e)
{
	return s->ca_key ? 0
			 : error_set(e, -ENOKEY,
				   "this node does not hold the domain's CA (ask on the node of "
				   "belay node init)");
}

int signer_invite(struct signer *s, struct signer_reply *ret, struct error *e)
{
	uint8_t print[32];
	int r = need_ca(s, e);
	if (r < 0)
		return r;
	x509_fingerprint(s->ca_cert.data, s->ca_cert.len, print);
	r = signer_der_copy(print, sizeof(print), &ret->data);
	if (!r)
		r = signer_der_copy(s->ca_cert.data, s->ca_cert.len, &ret->ca);
	return r < 0 ? error_errno(e, r, "cannot answer") : 0;
}

/*
 * When a certificate of that name counts as made: after its last removal, whatever the clock says.
 * And until when those that were made are void if it is removed now: the same, so that one made
 * since the last removal, in a second yet to come perhaps, is among them.
 */
static uint64_t issue_time(const struct signer *s, const char *node)
{
	uint64_t now = (uint64_t)time(NULL);
	for (size_t i = 0; i < s->removals.n; i++)
		if (!strcmp(s->removals.list[i].node, node) && s->removals.list[i].before >= now)
			return s->removals.list[i].before + 1;
	return now;
}

int signer_csr(
	struct signer *s, const Belay__SignerCsr *m, struct signer_reply *ret, struct error *e)
{
	struct addr addrs[X509_ADDRESSES_MAX];
	int r = need_ca(s, e);
	if (!r)
		r = addresses_parse(m->addresses, m->n_addresses, addrs, e);
	if (r < 0)
		return r;
	if (!strcmp(m->node, s->node.node))
		return error_set(e, -EPERM, "%s is this node's own name", m->node);
	const struct x509_term term = {issue_time(s, m->node), s->life_s};
	r = x509_node_issue(s->ca_key, s->ca_cert.data, s->ca_cert.len, m->csr_der.data,
		m->csr_der.len, m->node, addrs, m->n_addresses, &term, &ret->cert, e);
	if (r < 0)
		return r;
	r = signer_der_copy(s->ca_cert.data, s->ca_cert.len, &ret->ca);
	return r < 0 ? error_errno(e, r, "cannot answer") : 0;
}

int signer_remove(
	struct signer *s, const Belay__SignerRemove *m, struct signer_reply *ret, struct error *e)
{
	static struct removals next;
	static uint8_t buf[REMOVALS_BYTES_MAX];
	uint64_t now = (uint64_t)time(NULL);
	int r = need_ca(s, e);
	if (r < 0)
		return r;
	if (!strcmp(m->node, s->node.node))
		return error_set(e, -EPERM, "%s is this node's own name", m->node);
	next = s->removals;
	snprintf(next.domain, sizeof(next.domain), "%s", s->node.domain);
	next.version++;
	removals_prune(&next, now - LIFE_USUAL_S - X509_SKEW_S);
	r = removals_add(&next, m->node, issue_time(s, m->node));
	int n = r < 0 ? r : removals_encode(&next, buf);
	if (n < 0)
		return error_errno(
			e, n, "cannot enter %.64s in the list of removed nodes", m->node);
	/* First remembered, then signed: no version is signed twice. */
	r = signer_file_put(s->dir, REMOVALS_FILE, buf, (size_t)n, true);
	if (r < 0)
		return error_errno(e, r, "cannot keep the list of removed nodes");
	s->removals = next;
	r = x509_statement_sign(s->ca_key, buf, (size_t)n, &ret->signature);
	if (!r)
		r = signer_der_copy(buf, (size_t)n, &ret->data);
	return r < 0 ? error_errno(e, r, "cannot sign the list of removed nodes") : 0;
}
