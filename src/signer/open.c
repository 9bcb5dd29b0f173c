/* Loading the signer's state (signer.h). A file that is there but does not fit refuses the start.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/hex.h"
#include "crypto/random.h"
#include "crypto/sha256.h"
#include "signer/signer.h"

#define LAST_LEN (8 + AUDIT_ROOT_LEN)

static int audit_key_load(struct signer *s)
{
	_cleanup_der_ struct der f = {0};
	uint8_t d[SHA256_LEN];
	char hex[2 * 8 + 1];
	int r = signer_file_read(s->dir, "audit.key", &f);
	if (r == -ENOENT) {
		random_secret(&s->audit_seed);
		r = signer_file_put(s->dir, "audit.key", s->audit_seed.bytes,
			sizeof(s->audit_seed.bytes), true);
	} else if (!r && f.len == sizeof(s->audit_seed.bytes)) {
		memcpy(s->audit_seed.bytes, f.data, f.len);
	} else if (!r) {
		r = -EBADMSG;
	}
	if (!r)
		r = ed25519_public(&s->audit_seed, s->audit.public_key);
	if (r < 0)
		return r;
	/* The name is the log's origin: of this key and nobody else's. */
	sha256_of(s->audit.public_key, sizeof(s->audit.public_key), d);
	hex_encode(d, 8, hex);
	snprintf(s->audit.name, sizeof(s->audit.name), "belay.audit/%s", hex);
	return 0;
}

static int audit_last_load(struct signer *s)
{
	_cleanup_der_ struct der f = {0};
	int r = signer_file_read(s->dir, "audit.last", &f);
	if (r == -ENOENT)
		return 0;
	if (r < 0 || f.len != LAST_LEN)
		return r < 0 ? r : -EBADMSG;
	for (int i = 0; i < 8; i++)
		s->last_size = s->last_size << 8 | f.data[i];
	memcpy(s->last_root, f.data + 8, AUDIT_ROOT_LEN);
	return 0;
}

static int life_load(struct signer *s)
{
	_cleanup_der_ struct der f = {0};
	int r = signer_file_read(s->dir, "ca.life", &f);
	if (r == -ENOENT) {
		s->life_s = (uint64_t)X509_NODE_DAYS * 86400;
		return 0;
	}
	if (r < 0 || f.len != 8)
		return r < 0 ? r : -EBADMSG;
	for (int i = 0; i < 8; i++)
		s->life_s = s->life_s << 8 | f.data[i];
	return 0;
}

static int removals_load(struct signer *s)
{
	_cleanup_der_ struct der f = {0};
	int r = signer_file_read(s->dir, REMOVALS_FILE, &f);
	return r == -ENOENT ? 0 : r < 0 ? r : removals_decode(f.data, f.len, &s->removals);
}

static int ca_load(struct signer *s, struct error *e)
{
	_cleanup_der_ struct der key = {0}, ca = {0};
	int r = signer_identity_read(s->dir, "ca.identity", &key, &s->ca_cert, &ca);
	if (r == -ENOENT)
		return 0;
	if (!r)
		r = x509_key_from_der(key.data, key.len, &s->ca_key);
	if (!r)
		r = x509_key_matches(s->ca_key, s->ca_cert.data, s->ca_cert.len);
	if (r < 0)
		return error_errno(e, r, "cannot read ca.identity");
	r = life_load(s);
	if (!r)
		r = removals_load(s);
	return r < 0 ? error_errno(e, r, "cannot read ca.life or " REMOVALS_FILE) : 0;
}

static int node_load(struct signer *s, struct error *e)
{
	_cleanup_x509_key_ struct x509_key *k = NULL;
	int r = signer_identity_read(s->dir, "node.identity", &s->node_key, &s->node_cert, &s->ca);
	if (r == -ENOENT)
		return 0;
	if (!r)
		r = x509_key_from_der(s->node_key.data, s->node_key.len, &k);
	if (!r)
		r = x509_key_matches(k, s->node_cert.data, s->node_cert.len);
	if (!r) /* not its validity: an expired one is for link to refuse, with words */
		r = x509_node_parse(s->node_cert.data, s->node_cert.len, &s->node, e);
	return r < 0 ? error_errno(e, r, "cannot read node.identity") : 0;
}

int signer_open(struct signer *s, int dirfd, struct error *e)
{
	memset(s, 0, sizeof(*s));
	s->dir = dirfd;
	int r = audit_key_load(s);
	if (r < 0)
		return error_errno(e, r, "cannot load the audit key");
	r = audit_last_load(s);
	if (r < 0)
		return error_errno(e, r, "cannot load audit.last");
	r = ca_load(s, e);
	return r < 0 ? r : node_load(s, e);
}

void signer_close(struct signer *s)
{
	x509_key_free(s->ca_key);
	der_clear(&s->ca_cert);
	der_clear(&s->node_key);
	der_clear(&s->node_cert);
	der_clear(&s->ca);
	secret_zero(s, sizeof(*s));
}

void signer_reply_clear(struct signer_reply *r)
{
	der_clear(&r->data);
	der_clear(&r->ca);
	der_clear(&r->cert);
	der_clear(&r->signature);
}
