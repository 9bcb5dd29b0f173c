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

int signer_identity_set(struct signer *s, struct der *key, struct der *cert, struct der *ca,
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
	der_clear(&s->node_key); /* those of before a renewal */
	der_clear(&s->node_cert);
	der_clear(&s->ca);
	s->node_key = *key;
	s->node_cert = *cert;
	s->ca = *ca;
	s->node = node;
	*key = *cert = *ca = (struct der){0};
	ret->identity_changed = true;
	return 0;
}

int signer_no_identity(const struct signer *s, struct error *e)
{
	if (!s->node_cert.len)
		return 0;
	return error_set(e, -EEXIST, "this node is %s of the domain %s already", s->node.node,
		s->node.domain);
}

/* A fresh key and a request for it, kept until the certificate comes. */
static int request_make(
	struct signer *s, const char *node, struct signer_reply *ret, struct error *e)
{
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der key = {0}, name = {0}, none = {0};
	int r = x509_key_new(&k);
	if (!r)
		r = x509_key_to_der(k, &key);
	if (r < 0)
		return error_errno(e, r, "cannot make a key");
	r = x509_csr_make(k, node, &ret->data, e);
	if (r < 0)
		return r;
	/* The name takes the certificate's place until there is one. */
	r = signer_der_copy((const uint8_t *)node, strlen(node), &name);
	if (!r)
		r = signer_identity_put(s->dir, PENDING_KEY, &key, &name, &none);
	return r < 0 ? error_errno(e, r, "cannot keep the new key") : 0;
}

static int make_csr(
	struct signer *s, const Belay__SignerMakeCsr *m, struct signer_reply *ret, struct error *e)
{
	int r = signer_no_identity(s, e);
	return r < 0 ? r : request_make(s, m->node, ret, e);
}

static int renew(struct signer *s, struct signer_reply *ret, struct error *e)
{
	if (!s->node_cert.len)
		return error_set(e, -ENOENT, "this node has no certificate to renew");
	return s->ca_key ? signer_renew_own(s, ret, e) : request_make(s, s->node.node, ret, e);
}

/* A renewal: everything but key and validity is as it was. */
static int same_identity(
	const struct signer *s, const struct der *ca, const struct x509_node *n, struct error *e)
{
	bool same = ca->len == s->ca.len && memcmp(ca->data, s->ca.data, ca->len) == 0 &&
		    n->n_addresses == s->node.n_addresses && !strcmp(n->node, s->node.node);
	for (size_t i = 0; same && i < n->n_addresses; i++)
		same = addr_same_ip(&n->addresses[i], &s->node.addresses[i]);
	return same ? 0
		    : error_set(e, -EKEYREJECTED,
			      "the new certificate is not of this node's CA, name and addresses");
}

static int install(
	struct signer *s, const Belay__SignerInstall *m, struct signer_reply *ret, struct error *e)
{
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der key = {0}, name = {0}, none = {0}, cert = {0}, ca = {0};
	struct x509_node node;
	int r = signer_identity_read(s->dir, PENDING_KEY, &key, &name, &none);
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
	if (s->node_cert.len)
		r = same_identity(s, &ca, &node, e);
	if (!r)
		r = signer_identity_set(s, &key, &cert, &ca, ret, e);
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
		return signer_init(s, m->init, ret, e);
	case BELAY__TO_SIGNER__BODY_INVITE:
		return signer_invite(s, ret, e);
	case BELAY__TO_SIGNER__BODY_CSR:
		return signer_csr(s, m->csr, ret, e);
	case BELAY__TO_SIGNER__BODY_INSTALL:
		return install(s, m->install, ret, e);
	case BELAY__TO_SIGNER__BODY_MAKE_CSR:
		return make_csr(s, m->make_csr, ret, e);
	case BELAY__TO_SIGNER__BODY_REMOVE:
		return signer_remove(s, m->remove, ret, e);
	case BELAY__TO_SIGNER__BODY_RENEW:
		return renew(s, ret, e);
	default:
		return -EPROTO;
	}
}
