/*
 * Certificates and TLS between nodes: what is issued and accepted, and each thing that must be
 * refused: a foreign CA, a CA as a leaf, no certificate, another pin, an altered byte, an older
 * protocol.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above */
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "crypto/tls.h"
#include "crypto/x509.h"

struct domain {
	struct x509_key *key;
	struct der ca;
};
struct node {
	struct der key, cert;
};

static struct domain one, other;
static struct node a, b, stranger;

static void domain_make(struct domain *d, const char *name)
{
	struct error e = ERROR_INIT;
	assert_int_equal(x509_key_new(&d->key), 0);
	assert_int_equal(x509_ca_make(d->key, name, &d->ca, &e), 0);
}

static void node_make(const struct domain *d, const char *name, const char *address, struct node *n)
{
	struct error e = ERROR_INIT;
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der csr = {0};
	struct addr addrs[2];
	assert_int_equal(addr_parse(address, &addrs[0]), 0);
	assert_int_equal(addr_parse("[2001:db8::7]:0", &addrs[1]), 0);
	assert_int_equal(x509_key_new(&k), 0);
	assert_int_equal(x509_csr_make(k, "ignored", &csr, &e), 0);
	const struct x509_term term = {.life_s = 3600};
	assert_int_equal(x509_node_issue(d->key, d->ca.data, d->ca.len, csr.data, csr.len, name,
				 addrs, 2, &term, &n->cert, &e),
		0);
	assert_int_equal(x509_key_to_der(k, &n->key), 0);
}

static int group_setup(void **state)
{
	(void)state;
	domain_make(&one, "example.test");
	domain_make(&other, "example.test");
	node_make(&one, "alpha", "10.0.0.1:0", &a);
	node_make(&one, "beta", "10.0.0.2:0", &b);
	node_make(&other, "alpha", "10.0.0.1:0", &stranger);
	return 0;
}

static int group_teardown(void **state)
{
	(void)state;
	struct der *all[] = {&one.ca, &other.ca, &a.key, &a.cert, &b.key, &b.cert, &stranger.key,
		&stranger.cert};
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		der_clear(all[i]);
	x509_key_free(one.key);
	x509_key_free(other.key);
	return 0;
}

static void test_certificate(void **state)
{
	(void)state;
	struct x509_node n;
	struct error e = ERROR_INIT;
	char domain[X509_DOMAIN_MAX], text[ADDR_TEXT_MAX];
	assert_int_equal(x509_ca_check(one.ca.data, one.ca.len, domain, &e), 0);
	assert_string_equal(domain, "example.test");
	assert_int_equal(
		x509_node_verify(a.cert.data, a.cert.len, one.ca.data, one.ca.len, &n, &e), 0);
	assert_string_equal(n.domain, "example.test");
	assert_string_equal(n.node, "alpha");
	assert_int_equal(n.n_addresses, 2);
	addr_format(&n.addresses[0], false, text);
	assert_string_equal(text, "10.0.0.1");
	/* Another CA of the same name, a CA as a leaf, a leaf as a CA. */
	assert_int_equal(
		x509_node_verify(a.cert.data, a.cert.len, other.ca.data, other.ca.len, &n, &e),
		-EKEYREJECTED);
	assert_int_equal(
		x509_node_verify(one.ca.data, one.ca.len, one.ca.data, one.ca.len, &n, NULL),
		-EKEYREJECTED);
	assert_int_equal(
		x509_node_verify(b.cert.data, b.cert.len, a.cert.data, a.cert.len, &n, NULL),
		-EKEYREJECTED);
}

static void test_certificate_altered(void **state)
{
	(void)state;
	struct x509_node n;
	uint8_t c[X509_DER_MAX];
	assert_int_equal(a.cert.len < sizeof(c), 1);
	for (size_t i = 0; i < a.cert.len; i++) {
		memcpy(c, a.cert.data, a.cert.len);
		c[i] ^= 1;
		assert_true(x509_node_verify(c, a.cert.len, one.ca.data, one.ca.len, &n, NULL) < 0);
		assert_true(
			x509_node_verify(a.cert.data, i, one.ca.data, one.ca.len, &n, NULL) < 0);
	}
	memcpy(c, a.cert.data, a.cert.len);
	c[a.cert.len] = 0;
	assert_true(x509_node_verify(c, a.cert.len + 1, one.ca.data, one.ca.len, &n, NULL) < 0);
}

static void test_request(void **state)
{
	(void)state;
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der csr = {0}, pem = {0};
	assert_int_equal(x509_key_new(&k), 0);
	assert_int_equal(x509_csr_make(k, "gamma", &csr, NULL), 0);
	assert_int_equal(x509_csr_verify(csr.data, csr.len, NULL), 0);
	csr.data[csr.len - 1] ^= 1;
	assert_int_equal(x509_csr_verify(csr.data, csr.len, NULL), -EBADMSG);
	assert_int_equal(x509_key_matches(k, a.cert.data, a.cert.len), -EKEYREJECTED);
	assert_int_equal(x509_csr_make(k, "no space", &pem, NULL), -EINVAL);
}

static void test_names(void **state)
{
	(void)state;
	static const char *const bad[] = {"", "spiffe://", "spiffe://d", "spiffe://d/node/",
		"spiffe://d/node/a/", "spiffe://d/node/a/b", "spiffe:///node/a",
		"spiffe://D/node/a", "spiffe://d/node/..", "spiffe://d/node/a%20",
		"http://d/node/a", "spiffe://d/nodex/a", "spiffe://d//node/a",
		"spiffe://d/node/-a"};
	char d[X509_DOMAIN_MAX], n[X509_NODE_MAX];
	assert_int_equal(x509_spiffe_parse("spiffe://d.x/node/a-1", 21, d, n), 0);
	assert_string_equal(d, "d.x");
	assert_string_equal(n, "a-1");
	assert_int_equal(x509_spiffe_parse("spiffe://d/node/a\0", 18, d, n), -EINVAL);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_int_equal(x509_spiffe_parse(bad[i], strlen(bad[i]), d, n), -EINVAL);
}

/* Carries bytes both ways until nothing moves, `step` bytes at a time. */
static void carry(struct tls_conn *x, struct tls_conn *y, size_t step)
{
	uint8_t buf[20000];
	bool moved = true;
	while (moved) {
		size_t n = tls_conn_take(x, buf, step);
		if (n)
			(void)!tls_conn_feed(y, buf, n);
		size_t m = tls_conn_take(y, buf, step);
		if (m)
			(void)!tls_conn_feed(x, buf, m);
		moved = n || m;
	}
}

static struct tls_ctx *ctx_of(const struct node *n, const struct domain *d)
{
	struct tls_ctx *c = NULL;
	struct error e = ERROR_INIT;
	int r = tls_ctx_new(
		n->key.data, n->key.len, n->cert.data, n->cert.len, d->ca.data, d->ca.len, &c, &e);
	if (r)
		fail_msg("%s", e.text);
	return c;
}

static void pair(struct tls_ctx *dial, struct tls_ctx *answer, enum tls_role role,
	struct tls_conn **x, struct tls_conn **y, size_t step)
{
	assert_int_equal(tls_conn_new(dial, TLS_DIAL, x), 0);
	assert_int_equal(tls_conn_new(answer, role, y), 0);
	assert_int_equal(tls_conn_handshake(*x), 0);
	carry(*x, *y, step);
}

static void link_works(size_t step)
{
	_cleanup_tls_ctx_ struct tls_ctx *ca = ctx_of(&a, &one), *cb = ctx_of(&b, &one);
	_cleanup_tls_conn_ struct tls_conn *x = NULL, *y = NULL;
	static uint8_t big[100000], got[100000];
	struct secret ex, ey;
	pair(ca, cb, TLS_ANSWER_JOIN, &x, &y, step);
	assert_int_equal(tls_conn_state(x), TLS_OPEN);
	assert_int_equal(tls_conn_state(y), TLS_OPEN);
	assert_string_equal(tls_conn_peer(x)->node, "beta");
	assert_string_equal(tls_conn_peer(y)->node, "alpha");
	assert_int_equal(tls_conn_exporter(x, &ex), 0);
	assert_int_equal(tls_conn_exporter(y, &ey), 0);
	assert_true(secret_equal(ex.bytes, ey.bytes, SECRET_LEN));
	memset(big, 'x', sizeof(big));
	assert_int_equal(tls_conn_write(x, big, sizeof(big)), 0);
	carry(x, y, step);
	size_t n = 0;
	ssize_t r;
	while ((r = tls_conn_read(y, got + n, sizeof(got) - n)) > 0)
		n += (size_t)r;
	assert_int_equal(n, sizeof(big));
	assert_memory_equal(big, got, n);
	assert_int_equal(tls_conn_read(y, got, 1), -EAGAIN);
	tls_conn_close(x);
	carry(x, y, step);
	assert_int_equal(tls_conn_read(y, got, 1), 0);
	assert_int_equal(tls_conn_state(y), TLS_CLOSED);
}

static void test_link(void **state)
{
	(void)state;
	link_works(20000);
	link_works(7);
}

static void test_link_refused(void **state)
{
	(void)state;
	_cleanup_tls_ctx_ struct tls_ctx *good = ctx_of(&a, &one), *bad = ctx_of(&stranger, &other);
	uint8_t byte;
	for (int i = 0; i < 2; i++) {
		_cleanup_tls_conn_ struct tls_conn *x = NULL, *y = NULL;
		pair(i ? bad : good, i ? good : bad, TLS_ANSWER_JOIN, &x, &y, 20000);
		/* The one that saw a stranger's certificate has failed and shows nobody. */
		assert_int_not_equal(tls_conn_state(y), TLS_OPEN);
		assert_true(tls_conn_read(x, &byte, 1) < 0);
		assert_int_not_equal(tls_conn_state(x), TLS_OPEN);
		assert_null(tls_conn_peer(x));
		assert_null(tls_conn_peer(y));
		assert_true(strlen(tls_conn_why(x)) + strlen(tls_conn_why(y)) > 0);
	}
}

static void test_join(void **state)
{
	(void)state;
	uint8_t pin[32], byte = 'j';
	x509_fingerprint(one.ca.data, one.ca.len, pin);
	for (int i = 0; i < 3; i++) {
		_cleanup_tls_ctx_ struct tls_ctx *server = ctx_of(&a, &one), *client = NULL;
		_cleanup_tls_conn_ struct tls_conn *x = NULL, *y = NULL;
		pin[0] ^= i == 1;
		assert_int_equal(tls_ctx_new_join(pin, &client, NULL), 0);
		pin[0] ^= i == 1;
		pair(client, server, i == 2 ? TLS_ANSWER : TLS_ANSWER_JOIN, &x, &y, 20000);
		if (i) { /* another CA than invited; a listener for links only */
			assert_int_not_equal(tls_conn_state(x), TLS_OPEN);
			assert_int_not_equal(tls_conn_state(y), TLS_OPEN);
			assert_int_equal(tls_conn_write(x, &byte, 1) < 0, 1);
			continue;
		}
		assert_int_equal(tls_conn_state(x), TLS_OPEN);
		assert_int_equal(tls_conn_state(y), TLS_OPEN);
		assert_string_equal(tls_conn_peer(x)->node, "alpha");
		assert_int_equal(tls_conn_ca(x)->len, one.ca.len);
		assert_memory_equal(tls_conn_ca(x)->data, one.ca.data, one.ca.len);
		assert_null(tls_conn_peer(y)); /* a joining node is nobody yet */
	}
}

/* Garbage and floods end the connection or are refused; they never block it half open. */
static void test_garbage(void **state)
{
	(void)state;
	_cleanup_tls_ctx_ struct tls_ctx *c = ctx_of(&a, &one);
	_cleanup_tls_conn_ struct tls_conn *y = NULL, *z = NULL;
	static uint8_t flood[TLS_PENDING_MAX + 1];
	assert_int_equal(tls_conn_new(c, TLS_ANSWER, &y), 0);
	assert_int_equal(tls_conn_feed(y, "GET / HTTP/1.1\r\n\r\n", 18), -EPROTO);
	assert_int_equal(tls_conn_state(y), TLS_FAILED);
	assert_int_equal(tls_conn_feed(y, "x", 1), -EPROTO);
	assert_int_equal(tls_conn_new(c, TLS_ANSWER, &z), 0);
	assert_int_equal(tls_conn_feed(z, flood, sizeof(flood)), -ENOBUFS);
	struct secret s;
	assert_int_equal(tls_conn_exporter(z, &s), -ENOTCONN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_certificate),
		cmocka_unit_test(test_certificate_altered),
		cmocka_unit_test(test_request),
		cmocka_unit_test(test_names),
		cmocka_unit_test(test_link),
		cmocka_unit_test(test_link_refused),
		cmocka_unit_test(test_join),
		cmocka_unit_test(test_garbage),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
