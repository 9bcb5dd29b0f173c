/*
 * TLS 1.3 over memory (tls.h). OpenSSL parses what strangers send; our own verification
 * (x509_read.c) decides about certificates, in the one callback OpenSSL offers for replacing its
 * own, so there is no second opinion.
 */
#include "crypto/tls.h"

#include <errno.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <stdio.h>
#include <string.h>

#include "crypto/x509-private.h"

#define TLS_CERT_LIST_MAX 16384

struct tls_ctx {
	unsigned refs;
	SSL_CTX *ssl;
	struct der ca; /* node's context: what peers are verified against */
	bool join;     /* joining: pin instead of ca */
	uint8_t pin[32];
};

struct tls_conn {
	struct tls_ctx *ctx;
	SSL *ssl;
	BIO *in, *out; /* owned by ssl */
	enum tls_role role;
	enum tls_state state;
	bool verified; /* peer holds a verified certificate's facts */
	bool joining;  /* the negotiated protocol is TLS_ALPN_JOIN */
	struct x509_node peer;
	struct der ca; /* join: the accepted CA */
	char why[ERROR_TEXT_MAX];
};

static int cert_to_der(X509 *c, struct der *ret)
{
	uint8_t *buf = NULL;
	int n = i2d_X509(c, &buf);
	return x509_der_take(buf, n, ret);
}

/* Finds the pinned CA among what the server sent. */
static int join_ca(struct tls_conn *c, X509_STORE_CTX *x)
{
	STACK_OF(X509) *chain = X509_STORE_CTX_get0_untrusted(x);
	for (int i = 0; i < sk_X509_num(chain); i++) {
		_cleanup_der_ struct der d = {0};
		uint8_t print[32];
		if (cert_to_der(sk_X509_value(chain, i), &d) < 0)
			return -ENOMEM;
		x509_fingerprint(d.data, d.len, print);
		if (secret_equal(print, c->ctx->pin, sizeof(print))) {
			c->ca = d;
			d = (struct der){0};
			return 0;
		}
	}
	return -EKEYREJECTED;
}

static int on_verify(X509_STORE_CTX *x, void *arg)
{
	(void)arg;
	SSL *ssl = X509_STORE_CTX_get_ex_data(x, SSL_get_ex_data_X509_STORE_CTX_idx());
	struct tls_conn *c = SSL_get_app_data(ssl);
	struct error e = ERROR_INIT;
	_cleanup_der_ struct der leaf = {0};
	int r = cert_to_der(X509_STORE_CTX_get0_cert(x), &leaf);
	if (!r && c->ctx->join && (r = join_ca(c, x)) < 0)
		(void)error_set(&e, r, "the server's CA is not the one of the invitation");
	if (!r) {
		const struct der *ca = c->ctx->join ? &c->ca : &c->ctx->ca;
		r = x509_node_verify(leaf.data, leaf.len, ca->data, ca->len, &c->peer, &e);
	}
	c->verified = !r;
	X509_STORE_CTX_set_error(x, r ? X509_V_ERR_CERT_REJECTED : X509_V_OK);
	if (r)
		snprintf(c->why, sizeof(c->why), "%s", e.text[0] ? e.text : "no memory");
	return !r;
}

static bool alpn_is(const uint8_t *p, size_t n, const char *name)
{
	return n == strlen(name) && !memcmp(p, name, n);
}

static int on_alpn(SSL *ssl, const unsigned char **out, unsigned char *out_len,
	const unsigned char *in, unsigned in_len, void *arg)
{
	(void)arg;
	const struct tls_conn *c = SSL_get_app_data(ssl);
	for (unsigned i = 0; i < in_len && in[i] < in_len - i; i += 1u + in[i]) {
		const uint8_t *p = in + i + 1;
		if (alpn_is(p, in[i], TLS_ALPN_LINK) ||
			(c->role == TLS_ANSWER_JOIN && alpn_is(p, in[i], TLS_ALPN_JOIN))) {
			*out = p;
			*out_len = in[i];
			return SSL_TLSEXT_ERR_OK;
		}
	}
	return SSL_TLSEXT_ERR_ALERT_FATAL;
}

static SSL_CTX *ssl_ctx_new(const char *alpn)
{
	uint8_t wire[32];
	size_t n = strlen(alpn);
	SSL_CTX *s = SSL_CTX_new(TLS_method());
	wire[0] = (uint8_t)n;
	memcpy(wire + 1, alpn, n);
	if (!s || SSL_CTX_set_min_proto_version(s, TLS1_3_VERSION) != 1 ||
		SSL_CTX_set_max_proto_version(s, TLS1_3_VERSION) != 1 ||
		SSL_CTX_set_ciphersuites(
			s, "TLS_AES_256_GCM_SHA384:TLS_CHACHA20_POLY1305_SHA256") != 1 ||
		SSL_CTX_set1_groups_list(s, "X25519:P-256") != 1 ||
		SSL_CTX_set_num_tickets(s, 0) != 1 || SSL_CTX_set_max_early_data(s, 0) != 1 ||
		SSL_CTX_set_alpn_protos(s, wire, (unsigned)n + 1) != 0) {
		SSL_CTX_free(s);
		return NULL;
	}
	SSL_CTX_set_options(s, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
	SSL_CTX_set_session_cache_mode(s, SSL_SESS_CACHE_OFF);
	SSL_CTX_set_mode(s, SSL_MODE_RELEASE_BUFFERS);
	SSL_CTX_set_max_cert_list(s, TLS_CERT_LIST_MAX);
	SSL_CTX_set_verify(s, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, NULL);
	SSL_CTX_set_cert_verify_callback(s, on_verify, NULL);
	SSL_CTX_set_alpn_select_cb(s, on_alpn, NULL);
	return s;
}

static struct tls_ctx *ctx_alloc(const char *alpn)
{
	struct tls_ctx *c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->refs = 1;
	c->ssl = ssl_ctx_new(alpn);
	return c->ssl ? c : tls_ctx_free(c);
}

int tls_ctx_new(const uint8_t *key, size_t key_len, const uint8_t *cert, size_t cert_len,
	const uint8_t *ca, size_t ca_len, struct tls_ctx **ret, struct error *e)
{
	struct x509_node self;
	int r = x509_node_verify(cert, cert_len, ca, ca_len, &self, e);
	if (r < 0)
		return r;
	_cleanup_x509_key_ struct x509_key *k = NULL;
	r = x509_key_from_der(key, key_len, &k);
	if (!r)
		r = x509_key_matches(k, cert, cert_len);
	if (r < 0)
		return error_set(e, r, "the node's key does not belong to its certificate");
	_cleanup_tls_ctx_ struct tls_ctx *c = ctx_alloc(TLS_ALPN_LINK);
	_cleanup_cert_ X509 *leaf = x509_cert_from_der(cert, cert_len),
			    *issuer = x509_cert_from_der(ca, ca_len);
	uint8_t *copy = malloc(ca_len);
	if (c && copy) {
		memcpy(copy, ca, ca_len);
		c->ca = (struct der){copy, ca_len};
		copy = NULL;
	}
	free(copy);
	if (!c || !c->ca.data || !leaf || !issuer || SSL_CTX_use_certificate(c->ssl, leaf) != 1 ||
		SSL_CTX_use_PrivateKey(c->ssl, k->pkey) != 1 ||
		SSL_CTX_add1_chain_cert(c->ssl, issuer) != 1)
		return x509_error(e, -ENOMEM, "cannot prepare TLS");
	*ret = take_ptr(c);
	return 0;
}

int tls_ctx_new_join(const uint8_t ca_sha256[32], struct tls_ctx **ret, struct error *e)
{
	struct tls_ctx *c = ctx_alloc(TLS_ALPN_JOIN);
	if (!c)
		return x509_error(e, -ENOMEM, "cannot prepare TLS");
	c->join = true;
	memcpy(c->pin, ca_sha256, sizeof(c->pin));
	*ret = c;
	return 0;
}

struct tls_ctx *tls_ctx_free(struct tls_ctx *c)
{
	if (c && !--c->refs) {
		SSL_CTX_free(c->ssl);
		der_clear(&c->ca);
		free(c);
	}
	return NULL;
}

int tls_conn_new(struct tls_ctx *ctx, enum tls_role role, struct tls_conn **ret)
{
	if (ctx->join && role != TLS_DIAL)
		return -EINVAL;
	_cleanup_tls_conn_ struct tls_conn *c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->role = role;
	c->ssl = SSL_new(ctx->ssl);
	BIO *in = BIO_new(BIO_s_mem()), *out = BIO_new(BIO_s_mem());
	if (!c->ssl || !in || !out) {
		BIO_free(in);
		BIO_free(out);
		return -ENOMEM;
	}
	/* An empty input means "wait for more", not "the end". */
	BIO_set_mem_eof_return(in, -1);
	SSL_set_bio(c->ssl, c->in = in, c->out = out);
	SSL_set_app_data(c->ssl, c);
	c->ctx = ctx;
	ctx->refs++;
	if (role == TLS_DIAL) {
		SSL_set_connect_state(c->ssl);
	} else {
		SSL_set_accept_state(c->ssl);
		if (role == TLS_ANSWER_JOIN)
			SSL_set_verify(c->ssl, SSL_VERIFY_PEER, NULL);
	}
	*ret = take_ptr(c);
	return 0;
}

struct tls_conn *tls_conn_free(struct tls_conn *c)
{
	if (!c)
		return NULL;
	SSL_free(c->ssl);
	der_clear(&c->ca);
	if (c->ctx)
		tls_ctx_free(c->ctx);
	secret_zero(c, sizeof(*c));
	free(c);
	return NULL;
}

/* Keeps the first reason: the certificate check's own is better than OpenSSL's. */
static int conn_fail(struct tls_conn *c, const char *why)
{
	unsigned long code = ERR_get_error();
	const char *reason = ERR_reason_error_string(code);
	if (!c->why[0])
		snprintf(c->why, sizeof(c->why), "%s", why ? why : reason ? reason : "TLS failed");
	ERR_clear_error();
	c->state = TLS_FAILED;
	c->verified = false;
	return -EPROTO;
}

/* What must hold once OpenSSL is content. */
static int conn_opened(struct tls_conn *c)
{
	const uint8_t *p = NULL;
	unsigned n = 0;
	SSL_get0_alpn_selected(c->ssl, &p, &n);
	c->joining = p && alpn_is(p, n, TLS_ALPN_JOIN);
	bool link = p && alpn_is(p, n, TLS_ALPN_LINK);
	if (c->joining ? c->role == TLS_DIAL && !c->ctx->join : !link || c->ctx->join)
		return conn_fail(c, "the peer speaks another protocol");
	/* Who joins has no name yet, whatever certificate it may have shown. */
	if (c->joining && c->role != TLS_DIAL)
		c->verified = false;
	else if (!c->verified)
		return conn_fail(c, "the peer has no certificate");
	c->state = TLS_OPEN;
	return 0;
}

int tls_conn_handshake(struct tls_conn *c)
{
	if (c->state == TLS_FAILED)
		return -EPROTO;
	if (c->state != TLS_HANDSHAKE)
		return 0;
	ERR_clear_error();
	int r = SSL_do_handshake(c->ssl);
	if (r == 1)
		return conn_opened(c);
	return SSL_get_error(c->ssl, r) == SSL_ERROR_WANT_READ ? 0 : conn_fail(c, NULL);
}

int tls_conn_feed(struct tls_conn *c, const void *p, size_t n)
{
	if (c->state == TLS_FAILED)
		return -EPROTO;
	if (n > TLS_PENDING_MAX || BIO_ctrl_pending(c->in) > TLS_PENDING_MAX - n)
		return -ENOBUFS;
	if (n && BIO_write(c->in, p, (int)n) != (int)n)
		return conn_fail(c, "no memory");
	return tls_conn_handshake(c);
}

size_t tls_conn_take(struct tls_conn *c, void *p, size_t n)
{
	int r = BIO_read(c->out, p, n > INT32_MAX ? INT32_MAX : (int)n);
	return r > 0 ? (size_t)r : 0;
}

ssize_t tls_conn_read(struct tls_conn *c, void *p, size_t n)
{
	size_t got = 0;
	if (c->state != TLS_OPEN)
		return c->state == TLS_HANDSHAKE ? -EAGAIN : c->state == TLS_CLOSED ? 0 : -EPROTO;
	ERR_clear_error();
	int r = SSL_read_ex(c->ssl, p, n, &got);
	if (r == 1)
		return (ssize_t)got;
	switch (SSL_get_error(c->ssl, r)) {
	case SSL_ERROR_WANT_READ:
		return -EAGAIN;
	case SSL_ERROR_ZERO_RETURN:
		c->state = TLS_CLOSED;
		return 0;
	default:
		return conn_fail(c, NULL);
	}
}

int tls_conn_write(struct tls_conn *c, const void *p, size_t n)
{
	size_t done = 0;
	if (c->state != TLS_OPEN)
		return c->state == TLS_FAILED ? -EPROTO : -ENOTCONN;
	if (!n)
		return 0;
	if (n > TLS_PENDING_MAX || BIO_ctrl_pending(c->out) > TLS_PENDING_MAX - n)
		return -ENOBUFS;
	ERR_clear_error();
	/* Memory takes everything, so a write is whole or failed. */
	if (SSL_write_ex(c->ssl, p, n, &done) != 1 || done != n)
		return conn_fail(c, NULL);
	return 0;
}

void tls_conn_close(struct tls_conn *c)
{
	if (c->state == TLS_OPEN)
		(void)SSL_shutdown(c->ssl);
	ERR_clear_error();
}

enum tls_state tls_conn_state(const struct tls_conn *c)
{
	return c->state;
}

const char *tls_conn_why(const struct tls_conn *c)
{
	return c->why;
}

const struct x509_node *tls_conn_peer(const struct tls_conn *c)
{
	return c->verified && (c->state == TLS_OPEN || c->state == TLS_CLOSED) ? &c->peer : NULL;
}

const struct der *tls_conn_ca(const struct tls_conn *c)
{
	return c->ca.data && c->state == TLS_OPEN ? &c->ca : NULL;
}

int tls_conn_exporter(struct tls_conn *c, struct secret *ret)
{
	if (c->state != TLS_OPEN)
		return -ENOTCONN;
	if (SSL_export_keying_material(c->ssl, ret->bytes, sizeof(ret->bytes), TLS_EXPORTER_LABEL,
		    strlen(TLS_EXPORTER_LABEL), NULL, 0, 0) != 1)
		return -EIO;
	return 0;
}
