/*
 * Certificates of a domain: one CA, one certificate a node. Keys are ECDSA P-256.
 *
 * A node's certificate is a SPIFFE X.509-SVID: exactly one URI name, spiffe://DOMAIN/node/NAME,
 * plus the addresses the node speaks for as IP names; not a CA, key usage digitalSignature,
 * extended usage server and client. Name and addresses come from the issuer, never from the
 * request: a request only brings a public key.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/error.h"

#define X509_DER_MAX 16384
#define X509_DOMAIN_MAX 256 /* with NUL: [a-z0-9._-] */
#define X509_NODE_MAX 64    /* with NUL: [a-zA-Z0-9._-], not "." or "..", no leading dash */
#define X509_ADDRESSES_MAX 32
#define X509_CA_DAYS 3650
#define X509_NODE_DAYS 397
#define X509_SKEW_S 3600 /* clocks of nodes may differ by so much */
#define X509_SIGNATURE_MAX 80

/* An owned DER (or PEM) text; may hold a key, so it is erased when cleared. */
struct der {
	uint8_t *data;
	size_t len;
};
void der_clear(struct der *d);
#define _cleanup_der_ _cleanup_(der_clear)

struct x509_key;
int x509_key_new(struct x509_key **ret) _must_check_;
struct x509_key *x509_key_free(struct x509_key *k);
/* PKCS#8 DER, unencrypted. */
int x509_key_to_der(const struct x509_key *k, struct der *ret) _must_check_;
int x509_key_from_der(const uint8_t *der, size_t len, struct x509_key **ret) _must_check_;
static inline void x509_key_freep(struct x509_key **k)
{
	*k = x509_key_free(*k);
}
#define _cleanup_x509_key_ _cleanup_(x509_key_freep)

/* What a verified node certificate says. */
struct x509_node {
	char domain[X509_DOMAIN_MAX];
	char node[X509_NODE_MAX];
	struct addr addresses[X509_ADDRESSES_MAX]; /* port 0 */
	size_t n_addresses;
	uint64_t issued, not_after; /* seconds since 1970 */
};

/* How long a certificate is good. */
struct x509_term {
	uint64_t issued; /* seconds since 1970; 0: now */
	uint64_t life_s;
};

bool x509_domain_valid(const char *domain);
bool x509_node_valid(const char *node);
/* "spiffe://DOMAIN/node/NAME" taken apart; pure. -EINVAL unless exactly that. len excludes any NUL.
 */
int x509_spiffe_parse(const char *uri, size_t len, char domain[X509_DOMAIN_MAX],
	char node[X509_NODE_MAX]) _must_check_;

/* A self-signed CA for the domain. */
int x509_ca_make(const struct x509_key *ca_key, const char *domain, struct der *ret,
	struct error *e) _must_check_;
/* A request proving possession of key. */
int x509_csr_make(const struct x509_key *key, const char *node, struct der *ret,
	struct error *e) _must_check_;
/* Checks the request's own signature and key type. */
int x509_csr_verify(const uint8_t *csr, size_t len, struct error *e) _must_check_;
/* Signs the request's key for the node and addresses given here. Verifies the request first. */
int x509_node_issue(const struct x509_key *ca_key, const uint8_t *ca, size_t ca_len,
	const uint8_t *csr, size_t csr_len, const char *node, const struct addr *addresses,
	size_t n_addresses, const struct x509_term *term, struct der *ret,
	struct error *e) _must_check_;
/* Verifies cert against exactly this CA, now, and reads it. -EKEYREJECTED with the reason in e. */
int x509_node_verify(const uint8_t *cert, size_t len, const uint8_t *ca, size_t ca_len,
	struct x509_node *ret, struct error *e) _must_check_;
/* Reads a certificate without verifying its signature: parsing only. */
int x509_node_parse(
	const uint8_t *cert, size_t len, struct x509_node *ret, struct error *e) _must_check_;
/* 0 if `ca` is a CA certificate of ours (and gives its domain, may be NULL). */
int x509_ca_check(
	const uint8_t *ca, size_t len, char domain[X509_DOMAIN_MAX], struct error *e) _must_check_;
/* 0 if the certificate's public key is this key's. */
int x509_key_matches(const struct x509_key *k, const uint8_t *cert, size_t len) _must_check_;
/* ECDSA over SHA-256 by a CA's key, of something that cannot be a certificate. */
int x509_statement_sign(
	const struct x509_key *ca_key, const void *p, size_t len, struct der *ret) _must_check_;
/* 0, or -EKEYREJECTED: not this CA's. */
int x509_statement_verify(const uint8_t *ca, size_t ca_len, const void *p, size_t len,
	const uint8_t *signature, size_t signature_len) _must_check_;
/* SHA-256 of the DER: what an invitation pins. */
void x509_fingerprint(const uint8_t *der, size_t len, uint8_t ret[32]);
