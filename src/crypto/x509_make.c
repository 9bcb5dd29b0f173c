/*
 * Making certificates (x509.h): runs in the signer only. Input: names and addresses from the guard,
 * and a request of a joining node, of which only the public key is used. Everything else in the
 * request is ignored.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "crypto/random.h"
#include "crypto/x509-private.h"

#define DAY_S 86400u

static bool set_serial(X509 *c)
{
	uint8_t b[16];
	random_bytes(b, sizeof(b));
	b[0] = (uint8_t)((b[0] & 0x7f) | 0x40); /* positive, always 16 bytes */
	BIGNUM *n = BN_bin2bn(b, sizeof(b), NULL);
	bool ok = n && BN_to_ASN1_INTEGER(n, X509_get_serialNumber(c));
	BN_free(n);
	return ok;
}

static bool set_validity(X509 *c, const struct x509_term *term)
{
	time_t from = term->issued ? (time_t)term->issued : time(NULL);
	return X509_time_adj_ex(X509_getm_notBefore(c), 0, -X509_SKEW_S, &from) &&
	       X509_time_adj_ex(X509_getm_notAfter(c), (int)(term->life_s / DAY_S),
		       (long)(term->life_s % DAY_S), &from);
}

static bool name_cn(X509_NAME *n, const char *cn)
{
	return X509_NAME_add_entry_by_txt(
		       n, "CN", MBSTRING_UTF8, (const unsigned char *)cn, -1, -1, 0) == 1;
}

static bool add_ext(X509 *c, X509 *issuer, int nid, const char *value)
{
	X509V3_CTX v3;
	X509V3_set_ctx(&v3, issuer, c, NULL, NULL, 0);
	X509V3_set_ctx_nodb(&v3);
	X509_EXTENSION *x = X509V3_EXT_conf_nid(NULL, &v3, nid, value);
	bool ok = x && X509_add_ext(c, x, -1) == 1;
	X509_EXTENSION_free(x);
	return ok;
}

static bool push_name(GENERAL_NAMES *names, int type, const void *data, int len)
{
	GENERAL_NAME *g = GENERAL_NAME_new();
	ASN1_STRING *s = type == GEN_URI ? (ASN1_STRING *)ASN1_IA5STRING_new()
					 : (ASN1_STRING *)ASN1_OCTET_STRING_new();
	if (!g || !s || ASN1_STRING_set(s, data, len) != 1) {
		GENERAL_NAME_free(g);
		ASN1_STRING_free(s);
		return false;
	}
	GENERAL_NAME_set0_value(g, type, s);
	if (sk_GENERAL_NAME_push(names, g) > 0)
		return true;
	GENERAL_NAME_free(g);
	return false;
}

/* Names are built as objects, never as OpenSSL's configuration text, which has a syntax of its own.
 */
static bool add_names(X509 *c, const char *uri, const struct addr *addresses, size_t n)
{
	GENERAL_NAMES *names = sk_GENERAL_NAME_new_null();
	bool ok = names && push_name(names, GEN_URI, uri, (int)strlen(uri));
	for (size_t i = 0; ok && i < n; i++)
		ok = push_name(names, GEN_IPADD, addresses[i].ip, addresses[i].ip_len);
	ok = ok && X509_add1_ext_i2d(c, NID_subject_alt_name, names, 0, X509V3_ADD_DEFAULT) == 1;
	GENERAL_NAMES_free(names);
	return ok;
}

static X509 *cert_begin(EVP_PKEY *subject_key, const char *cn, const struct x509_term *term)
{
	_cleanup_cert_ X509 *c = X509_new();
	if (!c || X509_set_version(c, X509_VERSION_3) != 1 || !set_serial(c) ||
		!set_validity(c, term) || !name_cn(X509_get_subject_name(c), cn) ||
		X509_set_pubkey(c, subject_key) != 1)
		return NULL;
	return take_ptr(c);
}

static int cert_end(X509 *c, EVP_PKEY *key, struct der *ret, struct error *e)
{
	uint8_t *buf = NULL;
	if (!X509_sign(c, key, EVP_sha256()))
		return x509_error(e, -EIO, "cannot sign a certificate");
	int n = i2d_X509(c, &buf);
	return x509_der_take(buf, n, ret);
}

int x509_ca_make(
	const struct x509_key *ca_key, const char *domain, struct der *ret, struct error *e)
{
	char uri[X509_DOMAIN_MAX + 16];
	const struct x509_term term = {.life_s = (uint64_t)X509_CA_DAYS * DAY_S};
	if (!x509_domain_valid(domain))
		return error_set(
			e, -EINVAL, "the domain's name may have a-z, 0-9, dot, dash, underscore");
	snprintf(uri, sizeof(uri), "spiffe://%s", domain);
	_cleanup_cert_ X509 *c = cert_begin(ca_key->pkey, "Belay CA", &term);
	if (!c || X509_set_issuer_name(c, X509_get_subject_name(c)) != 1 ||
		!add_ext(c, c, NID_basic_constraints, "critical,CA:TRUE,pathlen:0") ||
		!add_ext(c, c, NID_key_usage, "critical,keyCertSign,cRLSign") ||
		!add_ext(c, c, NID_subject_key_identifier, "hash") || !add_names(c, uri, NULL, 0))
		return x509_error(e, -ENOMEM, "cannot make the CA certificate");
	return cert_end(c, ca_key->pkey, ret, e);
}

int x509_csr_make(const struct x509_key *key, const char *node, struct der *ret, struct error *e)
{
	uint8_t *buf = NULL;
	if (!x509_node_valid(node))
		return error_set(e, -EINVAL, "the node's name is not valid");
	_cleanup_req_ X509_REQ *q = X509_REQ_new();
	if (!q || X509_REQ_set_version(q, X509_REQ_VERSION_1) != 1 ||
		!name_cn(X509_REQ_get_subject_name(q), node) ||
		X509_REQ_set_pubkey(q, key->pkey) != 1 ||
		!X509_REQ_sign(q, key->pkey, EVP_sha256()))
		return x509_error(e, -EIO, "cannot make a certificate request");
	int n = i2d_X509_REQ(q, &buf);
	return x509_der_take(buf, n, ret);
}

static X509_REQ *csr_load(const uint8_t *csr, size_t len, struct error *e)
{
	const uint8_t *p = csr;
	_cleanup_req_ X509_REQ *q = len <= X509_DER_MAX ? d2i_X509_REQ(NULL, &p, (long)len) : NULL;
	if (!q || p != csr + len) {
		(void)x509_error(e, -EBADMSG, "the certificate request is malformed");
		return NULL;
	}
	EVP_PKEY *k = X509_REQ_get0_pubkey(q);
	if (!x509_pkey_ok(k) || X509_REQ_verify(q, k) != 1) {
		(void)x509_error(e, -EBADMSG, "the certificate request does not prove a P-256 key");
		return NULL;
	}
	return take_ptr(q);
}

int x509_csr_verify(const uint8_t *csr, size_t len, struct error *e)
{
	_cleanup_req_ X509_REQ *q = csr_load(csr, len, e);
	return q ? 0 : -EBADMSG;
}

int x509_node_issue(const struct x509_key *ca_key, const uint8_t *ca, size_t ca_len,
	const uint8_t *csr, size_t csr_len, const char *node, const struct addr *addresses,
	size_t n_addresses, const struct x509_term *term, struct der *ret, struct error *e)
{
	char domain[X509_DOMAIN_MAX], uri[X509_DOMAIN_MAX + X509_NODE_MAX + 16];
	int r = x509_ca_check(ca, ca_len, domain, e);
	if (r < 0)
		return r;
	if (!x509_node_valid(node) || n_addresses > X509_ADDRESSES_MAX)
		return error_set(
			e, -EINVAL, "the node's name is not valid or it has too many addresses");
	for (size_t i = 0; i < n_addresses; i++)
		if (addresses[i].ip_len != 4 && addresses[i].ip_len != 16)
			return error_set(e, -EINVAL, "an address of the node is not valid");
	_cleanup_req_ X509_REQ *q = csr_load(csr, csr_len, e);
	if (!q)
		return -EBADMSG;
	_cleanup_cert_ X509 *issuer = x509_cert_from_der(ca, ca_len);
	snprintf(uri, sizeof(uri), "spiffe://%s/node/%s", domain, node);
	_cleanup_cert_ X509 *c = cert_begin(X509_REQ_get0_pubkey(q), node, term);
	if (!c || !issuer || X509_set_issuer_name(c, X509_get_subject_name(issuer)) != 1 ||
		!add_ext(c, issuer, NID_basic_constraints, "critical,CA:FALSE") ||
		!add_ext(c, issuer, NID_key_usage, "critical,digitalSignature") ||
		!add_ext(c, issuer, NID_ext_key_usage, "serverAuth,clientAuth") ||
		!add_ext(c, issuer, NID_subject_key_identifier, "hash") ||
		!add_ext(c, issuer, NID_authority_key_identifier, "keyid:always") ||
		!add_names(c, uri, addresses, n_addresses))
		return x509_error(e, -ENOMEM, "cannot make the node's certificate");
	return cert_end(c, ca_key->pkey, ret, e);
}
