/* OpenSSL objects owned by scope, and what the files of x509.h and tls.h share. Only within this
 * room. */
#pragma once

#include <openssl/evp.h>
#include <openssl/x509.h>

#include "crypto/x509.h"

struct x509_key {
	EVP_PKEY *pkey;
};

static inline void x509_cert_freep(X509 **c)
{
	X509_free(*c);
}
static inline void x509_req_freep(X509_REQ **c)
{
	X509_REQ_free(*c);
}
static inline void x509_pkey_freep(EVP_PKEY **c)
{
	EVP_PKEY_free(*c);
}
#define _cleanup_cert_ _cleanup_(x509_cert_freep)
#define _cleanup_req_ _cleanup_(x509_req_freep)
#define _cleanup_pkey_ _cleanup_(x509_pkey_freep)

/* Sets e to what, with OpenSSL's own reason; empties OpenSSL's error queue. Returns code. */
int x509_error(struct error *e, int code, const char *what);
/* Whole DER or nothing: NULL if malformed or bytes are left over. */
X509 *x509_cert_from_der(const uint8_t *der, size_t len);
/* True for a key on P-256. */
bool x509_pkey_ok(const EVP_PKEY *k);
/* Takes over a buffer OpenSSL allocated (n as i2d returned it). */
int x509_der_take(uint8_t *openssl_buf, int n, struct der *ret) _must_check_;
