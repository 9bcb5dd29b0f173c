/*
 * The guard's requests against the permit table (signer.h). Input: the guard, which parses more
 * than we do and may be somebody else's one day: every field is checked, nothing is signed twice in
 * two ways.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "signer/signer.h"

#define PENDING_KEY "node.pending"

static int sign_checkpoint(
	struct signer *s, const Belay__SignCheckpoint *m, struct signer_reply *ret, struct error *e)
{
	char text[AUDIT_NOTE_MAX], note[AUDIT_NOTE_MAX];
	uint8_t sig[ED25519_SIGNATURE_LEN], last[8 + AUDIT_ROOT_LEN];
	if (m->root.len != AUDIT_ROOT_LEN || strcmp(m->origin, s->audit.name) != 0)
		return error_set(e, -EPERM, "this is not the log this signer signs for");
	if (m->size < s->last_size ||
		(m->size == s->last_size && m->size &&
			memcmp(m->root.data, s->last_root, AUDIT_ROOT_LEN) != 0))
		return error_set(e, -EPERM,
			"the audit log would go back behind a checkpoint already signed (of %llu "
			"entries)",
			(unsigned long long)s->last_size);
	int n = audit_note_text(s->audit.name, m->size, m->root.data, text);
	if (n < 0)
		return error_errno(e, n, "cannot write the checkpoint");
	/* First remembered, then signed: dying between the two loses a checkpoint, never the rule.
	 */
	for (int i = 0; i < 8; i++)
		last[i] = (uint8_t)(m->size >> (56 - 8 * i));
	memcpy(last + 8, m->root.data, AUDIT_ROOT_LEN);
	int r = signer_file_put(s->dir, "audit.last", last, sizeof(last), false);
	if (r < 0)
		return error_errno(e, r, "cannot remember the checkpoint");
	s->last_size = m->size;
	memcpy(s->last_root, m->root.data, AUDIT_ROOT_LEN);
	r = ed25519_sign(&s->audit_seed, text, (size_t)n, sig);
	if (!r)
		r = n = audit_note_seal(text, &s->audit, sig, note);
	if (r >= 0)
		r = signer_der_copy((const uint8_t *)note, (size_t)n, &ret->data);
	return r < 0 ? error_errno(e, r, "cannot sign the checkpoint") : 0;
}

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

/* Takes over key, cert, ca as the node's identity, on disk first. */
static int identity_set(struct signer *s, struct der *key, struct der *cert, struct der *ca,
	struct signer_reply *ret, struct error *e)
{
	struct x509_node node;
	int r = x509_node_verify(cert->data, cert->len, ca->data, ca->len, &node, e);
	if (r < 0)
		return r;
	r = signer_identity_put(s->dir, "node.identity", key, cert, ca);
	if (!r)
		r = signer_der_copy(cert->data, cert->len, &ret->cert);
	if (!r)
		r = signer_der_copy(ca->data, ca->len, &ret->ca);
	if (r < 0)
		return error_errno(e, r, "cannot keep the node's identity");
	s->node_key = *key;
	s->node_cert = *cert;
	s->ca = *ca;
	s->node = node;
	*key = *cert = *ca = (struct der){0};
	ret->identity_changed = true;
	return 0;
}

static int no_identity_yet(const struct signer *s, struct error *e)
{
	if (!s->node_cert.len)
		return 0;
	return error_set(e, -EEXIST, "this node is %s of the domain %s already", s->node.node,
		s->node.domain);
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

static int init(
	struct signer *s, const Belay__SignerInit *m, struct signer_reply *ret, struct error *e)
{
	struct addr addrs[X509_ADDRESSES_MAX];
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der key = {0}, csr = {0}, cert = {0}, ca = {0};
	int r = no_identity_yet(s, e);
	if (!r)
		r = addresses_parse(m->addresses, m->n_addresses, addrs, e);
	if (!r)
		r = ca_make(s, m->trust_domain, e);
	if (r < 0)
		return r;
	r = x509_key_new(&k);
	if (!r)
		r = x509_key_to_der(k, &key);
	if (!r)
		r = signer_der_copy(s->ca_cert.data, s->ca_cert.len, &ca);
	if (r < 0)
		return error_errno(e, r, "cannot make a key");
	r = x509_csr_make(k, m->node, &csr, e);
	if (!r)
		r = x509_node_issue(s->ca_key, ca.data, ca.len, csr.data, csr.len, m->node, addrs,
			m->n_addresses, &cert, e);
	return r < 0 ? r : identity_set(s, &key, &cert, &ca, ret, e);
}

static int need_ca(const struct signer *s, struct error *e)
{
	return s->ca_key ? 0
			 : error_set(e, -ENOKEY,
				   "this node does not hold the domain's CA (ask on the node of "
				   "belay node init)");
}

static int invite(struct signer *s, struct signer_reply *ret, struct error *e)
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

static int sign_csr(
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
	r = x509_node_issue(s->ca_key, s->ca_cert.data, s->ca_cert.len, m->csr_der.data,
		m->csr_der.len, m->node, addrs, m->n_addresses, &ret->cert, e);
	if (r < 0)
		return r;
	r = signer_der_copy(s->ca_cert.data, s->ca_cert.len, &ret->ca);
	return r < 0 ? error_errno(e, r, "cannot answer") : 0;
}

static int make_csr(
	struct signer *s, const Belay__SignerMakeCsr *m, struct signer_reply *ret, struct error *e)
{
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der key = {0}, name = {0}, none = {0};
	int r = no_identity_yet(s, e);
	if (r < 0)
		return r;
	r = x509_key_new(&k);
	if (!r)
		r = x509_key_to_der(k, &key);
	if (r < 0)
		return error_errno(e, r, "cannot make a key");
	r = x509_csr_make(k, m->node, &ret->data, e);
	if (r < 0)
		return r;
	/* The name takes the certificate's place until there is one. */
	r = signer_der_copy((const uint8_t *)m->node, strlen(m->node), &name);
	if (!r)
		r = signer_identity_put(s->dir, PENDING_KEY, &key, &name, &none);
	return r < 0 ? error_errno(e, r, "cannot keep the new key") : 0;
}

static int install(
	struct signer *s, const Belay__SignerInstall *m, struct signer_reply *ret, struct error *e)
{
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der key = {0}, name = {0}, none = {0}, cert = {0}, ca = {0};
	struct x509_node node;
	int r = no_identity_yet(s, e);
	if (r < 0)
		return r;
	r = signer_identity_read(s->dir, PENDING_KEY, &key, &name, &none);
	if (r == -ENOENT)
		return error_set(e, -ENOENT, "no certificate was asked for");
	if (!r)
		r = x509_key_from_der(key.data, key.len, &k);
	if (!r)
		r = x509_key_matches(k, m->cert_der.data, m->cert_der.len);
	if (r < 0)
		return error_errno(e, r, "the certificate is not for the key that was made");
	r = x509_node_verify(
		m->cert_der.data, m->cert_der.len, m->ca_der.data, m->ca_der.len, &node, e);
	if (r < 0)
		return r;
	if (strlen(node.node) != name.len || memcmp(node.node, name.data, name.len) != 0)
		return error_set(
			e, -EKEYREJECTED, "the certificate is for another node, %s", node.node);
	r = signer_der_copy(m->cert_der.data, m->cert_der.len, &cert);
	if (!r)
		r = signer_der_copy(m->ca_der.data, m->ca_der.len, &ca);
	if (r < 0)
		return error_errno(e, r, "cannot keep the node's identity");
	r = identity_set(s, &key, &cert, &ca, ret, e);
	if (!r)
		(void)unlinkat(s->dir, PENDING_KEY, 0);
	return r;
}

static int public_keys(struct signer *s, struct signer_reply *ret, struct error *e)
{
	int r = signer_der_copy(s->node_cert.data, s->node_cert.len, &ret->cert);
	if (!r)
		r = signer_der_copy(s->ca.data, s->ca.len, &ret->ca);
	return r < 0 ? error_errno(e, r, "cannot answer") : 0;
}

int signer_request(
	struct signer *s, const Belay__ToSigner *m, struct signer_reply *ret, struct error *e)
{
	switch (m->body_case) {
	case BELAY__TO_SIGNER__BODY_CHECKPOINT:
		return sign_checkpoint(s, m->checkpoint, ret, e);
	case BELAY__TO_SIGNER__BODY_PUBLIC_KEYS:
		return public_keys(s, ret, e);
	case BELAY__TO_SIGNER__BODY_INIT:
		return init(s, m->init, ret, e);
	case BELAY__TO_SIGNER__BODY_INVITE:
		return invite(s, ret, e);
	case BELAY__TO_SIGNER__BODY_CSR:
		return sign_csr(s, m->csr, ret, e);
	case BELAY__TO_SIGNER__BODY_INSTALL:
		return install(s, m->install, ret, e);
	case BELAY__TO_SIGNER__BODY_MAKE_CSR:
		return make_csr(s, m->make_csr, ret, e);
	default:
		return -EPROTO;
	}
}
