/* Keys of certificates and DER buffers (x509.h). Input: our own key files, trusted once they parse.
 */
#include <errno.h>
#include <openssl/ec.h>
#include <openssl/err.h>
#include <string.h>

#include "base/secret.h"
#include "crypto/sha256.h"
#include "crypto/x509-private.h"

void der_clear(struct der *d)
{
	if (d->data) {
		secret_zero(d->data, d->len);
		free(d->data);
	}
	d->data = NULL;
	d->len = 0;
}

int x509_error(struct error *e, int code, const char *what)
{
	const char *why = ERR_reason_error_string(ERR_get_error());
	ERR_clear_error();
	return error_set(e, code, "%s%s%s", what, why ? ": " : "", why ? why : "");
}

int x509_der_take(uint8_t *openssl_buf, int n, struct der *ret)
{
	int r = -ENOMEM;
	if (n > 0 && n <= X509_DER_MAX) {
		uint8_t *p = malloc((size_t)n);
		if (p) {
			memcpy(p, openssl_buf, (size_t)n);
			*ret = (struct der){p, (size_t)n};
			r = 0;
		}
	}
	if (openssl_buf && n > 0)
		OPENSSL_cleanse(openssl_buf, (size_t)n);
	OPENSSL_free(openssl_buf);
	return r;
}

bool x509_pkey_ok(const EVP_PKEY *k)
{
	char group[32];
	return k && EVP_PKEY_is_a(k, "EC") &&
	       EVP_PKEY_get_group_name(k, group, sizeof(group), NULL) == 1 &&
	       !strcmp(group, "prime256v1");
}

static int key_wrap(EVP_PKEY *p, struct x509_key **ret)
{
	struct x509_key *k = calloc(1, sizeof(*k));
	if (!k) {
		EVP_PKEY_free(p);
		return -ENOMEM;
	}
	k->pkey = p;
	*ret = k;
	return 0;
}

int x509_key_new(struct x509_key **ret)
{
	EVP_PKEY *p = EVP_EC_gen("P-256");
	return p ? key_wrap(p, ret) : -ENOMEM;
}

struct x509_key *x509_key_free(struct x509_key *k)
{
	if (k)
		EVP_PKEY_free(k->pkey); /* OpenSSL erases private numbers */
	free(k);
	return NULL;
}

int x509_key_to_der(const struct x509_key *k, struct der *ret)
{
	uint8_t *buf = NULL;
	PKCS8_PRIV_KEY_INFO *info = EVP_PKEY2PKCS8(k->pkey);
	if (!info)
		return -ENOMEM;
	int n = i2d_PKCS8_PRIV_KEY_INFO(info, &buf);
	PKCS8_PRIV_KEY_INFO_free(info);
	return x509_der_take(buf, n, ret);
}

int x509_key_from_der(const uint8_t *der, size_t len, struct x509_key **ret)
{
	const uint8_t *p = der;
	if (len > X509_DER_MAX)
		return -EBADMSG;
	_cleanup_pkey_ EVP_PKEY *k = d2i_AutoPrivateKey(NULL, &p, (long)len);
	ERR_clear_error();
	if (p != der + len || !x509_pkey_ok(k))
		return -EBADMSG;
	return key_wrap(take_ptr(k), ret);
}

int x509_key_matches(const struct x509_key *k, const uint8_t *cert, size_t len)
{
	_cleanup_cert_ X509 *c = x509_cert_from_der(cert, len);
	if (!c)
		return -EBADMSG;
	return EVP_PKEY_eq(X509_get0_pubkey(c), k->pkey) == 1 ? 0 : -EKEYREJECTED;
}

void x509_fingerprint(const uint8_t *der, size_t len, uint8_t ret[32])
{
	sha256_of(der, len, ret);
}

int x509_statement_sign(const struct x509_key *ca_key, const void *p, size_t len, struct der *ret)
{
	uint8_t out[X509_SIGNATURE_MAX];
	size_t n = sizeof(out);
	EVP_MD_CTX *m = EVP_MD_CTX_new();
	bool ok = m && EVP_DigestSignInit(m, NULL, EVP_sha256(), NULL, ca_key->pkey) == 1 &&
		  EVP_DigestSign(m, out, &n, p, len) == 1;
	EVP_MD_CTX_free(m);
	ERR_clear_error();
	uint8_t *copy = ok ? malloc(n) : NULL;
	if (!copy)
		return ok ? -ENOMEM : -EIO;
	memcpy(copy, out, n);
	*ret = (struct der){copy, n};
	return 0;
}
