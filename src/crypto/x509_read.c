/*
 * Reading certificates (x509.h). Input: a stranger's certificate. It counts only when it is signed
 * by exactly our CA, valid now, and has the one shape we issue: any other extension, name type or
 * usage refuses it.
 */
#include <errno.h>
#include <openssl/err.h>
#include <openssl/x509v3.h>
#include <string.h>
#include <time.h>

#include "crypto/x509-private.h"

#define LOWER "abcdefghijklmnopqrstuvwxyz0123456789._-"
#define SCHEME "spiffe://"
#define NODE "/node/"

bool x509_domain_valid(const char *domain)
{
	size_t n = strnlen(domain, X509_DOMAIN_MAX);
	return n && n < X509_DOMAIN_MAX && strspn(domain, LOWER) == n;
}

bool x509_node_valid(const char *node)
{
	size_t n = strnlen(node, X509_NODE_MAX);
	if (!n || n >= X509_NODE_MAX || node[0] == '-' || !strcmp(node, ".") || !strcmp(node, ".."))
		return false;
	return strspn(node, LOWER "ABCDEFGHIJKLMNOPQRSTUVWXYZ") == n;
}

int x509_spiffe_parse(
	const char *uri, size_t len, char domain[X509_DOMAIN_MAX], char node[X509_NODE_MAX])
{
	char text[X509_DOMAIN_MAX + X509_NODE_MAX + 16];
	if (len >= sizeof(text) || memchr(uri, '\0', len))
		return -EINVAL;
	memcpy(text, uri, len);
	text[len] = '\0';
	if (strncmp(text, SCHEME, strlen(SCHEME)) != 0)
		return -EINVAL;
	char *d = text + strlen(SCHEME), *slash = strchr(d, '/');
	if (!slash || strncmp(slash, NODE, strlen(NODE)) != 0)
		return -EINVAL;
	*slash = '\0';
	char *n = slash + strlen(NODE);
	if (!x509_domain_valid(d) || !x509_node_valid(n))
		return -EINVAL;
	memcpy(domain, d, strlen(d) + 1);
	memcpy(node, n, strlen(n) + 1);
	return 0;
}

X509 *x509_cert_from_der(const uint8_t *der, size_t len)
{
	const uint8_t *p = der;
	if (!len || len > X509_DER_MAX)
		return NULL;
	_cleanup_cert_ X509 *c = d2i_X509(NULL, &p, (long)len);
	ERR_clear_error();
	return c && p == der + len ? take_ptr(c) : NULL;
}

/* The one URI and the addresses; any other kind of name refuses the certificate. */
static int names_read(const GENERAL_NAMES *names, struct x509_node *ret)
{
	int uris = 0;
	for (int i = 0; i < sk_GENERAL_NAME_num(names); i++) {
		const GENERAL_NAME *g = sk_GENERAL_NAME_value(names, i);
		const ASN1_STRING *s;
		if (g->type == GEN_URI) {
			s = g->d.uniformResourceIdentifier;
			if (uris++ || ASN1_STRING_length(s) <= 0 ||
				x509_spiffe_parse((const char *)ASN1_STRING_get0_data(s),
					(size_t)ASN1_STRING_length(s), ret->domain, ret->node) < 0)
				return -EINVAL;
		} else if (g->type == GEN_IPADD) {
			s = g->d.iPAddress;
			int n = ASN1_STRING_length(s);
			if ((n != 4 && n != 16) || ret->n_addresses == X509_ADDRESSES_MAX)
				return -EINVAL;
			struct addr *a = &ret->addresses[ret->n_addresses++];
			a->ip_len = (uint8_t)n;
			memcpy(a->ip, ASN1_STRING_get0_data(s), (size_t)n);
		} else {
			return -EINVAL;
		}
	}
	return uris == 1 ? 0 : -EINVAL;
}

static int shape_check(X509 *c)
{
	/* Reads the extensions into the flags that are used below. */
	uint32_t flags = X509_get_extension_flags(c);
	if (flags & (EXFLAG_INVALID | EXFLAG_CRITICAL | EXFLAG_CA | EXFLAG_SS))
		return -EINVAL;
	if (X509_get_key_usage(c) != KU_DIGITAL_SIGNATURE)
		return -EINVAL;
	if (X509_get_extended_key_usage(c) != (XKU_SSL_SERVER | XKU_SSL_CLIENT))
		return -EINVAL;
	return x509_pkey_ok(X509_get0_pubkey(c)) ? 0 : -EINVAL;
}

static int cert_read(X509 *c, struct x509_node *ret, struct error *e)
{
	struct x509_node n = {0};
	struct tm from, until;
	int r = shape_check(c);
	if (r < 0)
		return error_set(e, -EKEYREJECTED, "the certificate is not of a node's shape");
	GENERAL_NAMES *names = X509_get_ext_d2i(c, NID_subject_alt_name, NULL, NULL);
	r = names ? names_read(names, &n) : -EINVAL;
	GENERAL_NAMES_free(names);
	ERR_clear_error();
	if (r < 0)
		return error_set(e, -EKEYREJECTED,
			"the certificate does not name exactly one node and its addresses");
	if (ASN1_TIME_to_tm(X509_get0_notBefore(c), &from) != 1 ||
		ASN1_TIME_to_tm(X509_get0_notAfter(c), &until) != 1)
		return error_set(e, -EKEYREJECTED, "the certificate's validity is malformed");
	n.issued = (uint64_t)timegm(&from) + X509_SKEW_S;
	n.not_after = (uint64_t)timegm(&until);
	*ret = n;
	return 0;
}

int x509_node_parse(const uint8_t *cert, size_t len, struct x509_node *ret, struct error *e)
{
	_cleanup_cert_ X509 *c = x509_cert_from_der(cert, len);
	if (!c)
		return error_set(e, -EBADMSG, "the certificate is malformed");
	return cert_read(c, ret, e);
}

/* "spiffe://DOMAIN" of a CA. */
static int ca_domain(X509 *c, char domain[X509_DOMAIN_MAX])
{
	int r = -EINVAL;
	GENERAL_NAMES *names = X509_get_ext_d2i(c, NID_subject_alt_name, NULL, NULL);
	if (names && sk_GENERAL_NAME_num(names) == 1 &&
		sk_GENERAL_NAME_value(names, 0)->type == GEN_URI) {
		const ASN1_STRING *s = sk_GENERAL_NAME_value(names, 0)->d.uniformResourceIdentifier;
		const char *p = (const char *)ASN1_STRING_get0_data(s);
		size_t n = (size_t)ASN1_STRING_length(s), k = strlen(SCHEME);
		char d[X509_DOMAIN_MAX] = "";
		if (n > k && n - k < sizeof(d) && !memcmp(p, SCHEME, k) && !memchr(p, '\0', n)) {
			memcpy(d, p + k, n - k);
			if (x509_domain_valid(d)) {
				memcpy(domain, d, sizeof(d));
				r = 0;
			}
		}
	}
	GENERAL_NAMES_free(names);
	return r;
}

int x509_ca_check(const uint8_t *ca, size_t len, char domain[X509_DOMAIN_MAX], struct error *e)
{
	char d[X509_DOMAIN_MAX];
	_cleanup_cert_ X509 *c = x509_cert_from_der(ca, len);
	if (!c || X509_check_ca(c) != 1 || (X509_get_key_usage(c) & KU_KEY_CERT_SIGN) == 0 ||
		X509_verify(c, X509_get0_pubkey(c)) != 1 || !x509_pkey_ok(X509_get0_pubkey(c)) ||
		ca_domain(c, d) < 0) {
		ERR_clear_error();
		return error_set(e, -EKEYREJECTED, "this is not a CA certificate of Belay");
	}
	if (domain)
		memcpy(domain, d, sizeof(d));
	return 0;
}

/* Chain of exactly two: this leaf, this CA. */
static int chain_check(X509 *leaf, X509 *ca, struct error *e)
{
	X509_STORE *store = X509_STORE_new();
	X509_STORE_CTX *x = X509_STORE_CTX_new();
	int r = -EKEYREJECTED;
	if (store && x && X509_STORE_add_cert(store, ca) == 1 &&
		X509_STORE_set_flags(store, X509_V_FLAG_X509_STRICT) == 1 &&
		X509_STORE_CTX_init(x, store, leaf, NULL) == 1) {
		X509_STORE_CTX_set_depth(x, 1);
		if (X509_verify_cert(x) == 1)
			r = 0;
		else
			(void)error_set(e, r, "the certificate is not valid under our CA: %s",
				X509_verify_cert_error_string(X509_STORE_CTX_get_error(x)));
	}
	X509_STORE_CTX_free(x);
	X509_STORE_free(store);
	ERR_clear_error();
	return r;
}

int x509_node_verify(const uint8_t *cert, size_t len, const uint8_t *ca, size_t ca_len,
	struct x509_node *ret, struct error *e)
{
	char domain[X509_DOMAIN_MAX];
	_cleanup_cert_ X509 *leaf = x509_cert_from_der(cert, len), *issuer = NULL;
	if (!leaf)
		return error_set(e, -EBADMSG, "the certificate is malformed");
	int r = x509_ca_check(ca, ca_len, domain, e);
	if (r < 0)
		return r;
	issuer = x509_cert_from_der(ca, ca_len);
	if (!issuer)
		return error_set(e, -EBADMSG, "the CA certificate is malformed");
	r = chain_check(leaf, issuer, e);
	if (r < 0)
		return r;
	struct x509_node n;
	r = cert_read(leaf, &n, e);
	if (r < 0)
		return r;
	if (strcmp(n.domain, domain) != 0)
		return error_set(
			e, -EKEYREJECTED, "the certificate names another domain than its CA");
	*ret = n;
	return 0;
}

int x509_statement_verify(const uint8_t *ca, size_t ca_len, const void *p, size_t len,
	const uint8_t *signature, size_t signature_len)
{
	_cleanup_cert_ X509 *c = x509_cert_from_der(ca, ca_len);
	EVP_MD_CTX *m = EVP_MD_CTX_new();
	bool ok = c && m && x509_pkey_ok(X509_get0_pubkey(c)) &&
		  EVP_DigestVerifyInit(m, NULL, EVP_sha256(), NULL, X509_get0_pubkey(c)) == 1 &&
		  EVP_DigestVerify(m, signature, signature_len, p, len) == 1;
	EVP_MD_CTX_free(m);
	ERR_clear_error();
	return ok ? 0 : -EKEYREJECTED;
}
