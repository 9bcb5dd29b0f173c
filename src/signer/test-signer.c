/* The permit table: what is signed, what is refused, what is still known after a restart. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above */
#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#include "signer/signer.h"

static char top[64];

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	(void)st, (void)flag, (void)f;
	return remove(path);
}

static int setup(void **state)
{
	(void)state;
	snprintf(top, sizeof(top), "/tmp/belay-signer-XXXXXX");
	return mkdtemp(top) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return nftw(top, rm_one, 8, FTW_DEPTH | FTW_PHYS);
}

static int dir_make(const char *name)
{
	char p[96];
	snprintf(p, sizeof(p), "%s/%s", top, name);
	(void)mkdir(p, 0700);
	int fd = open(p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

static void opened(struct signer *s, int dir)
{
	struct error e = ERROR_INIT;
	if (signer_open(s, dir, &e) < 0)
		fail_msg("%s", e.text);
}

static int checkpoint(
	struct signer *s, const char *origin, uint64_t size, uint8_t fill, struct der *note)
{
	uint8_t root[32];
	Belay__ToSigner m = BELAY__TO_SIGNER__INIT;
	Belay__SignCheckpoint c = BELAY__SIGN_CHECKPOINT__INIT;
	struct signer_reply r = {0};
	struct error e = ERROR_INIT;
	memset(root, fill, sizeof(root));
	m.body_case = BELAY__TO_SIGNER__BODY_CHECKPOINT;
	m.checkpoint = &c;
	c.origin = (char *)origin;
	c.size = size;
	c.root = (ProtobufCBinaryData){sizeof(root), root};
	int k = signer_request(s, &m, &r, &e);
	assert_true(!k == !e.text[0]);
	if (note) {
		*note = r.data;
		r.data = (struct der){0};
	}
	signer_reply_clear(&r);
	return k;
}

static void test_checkpoints(void **state)
{
	(void)state;
	struct signer s;
	_cleanup_close_ int dir = dir_make("one");
	_cleanup_der_ struct der note = {0};
	struct audit_checkpoint c;
	opened(&s, dir);
	struct audit_key key = s.audit;
	assert_int_equal(checkpoint(&s, key.name, 10, 1, &note), 0);
	assert_int_equal(audit_note_parse((char *)note.data, note.len, &c), 0);
	assert_int_equal(audit_note_verify((char *)note.data, &c, &key), 0);
	assert_int_equal(c.size, 10);
	assert_int_equal(checkpoint(&s, key.name, 10, 1, NULL), 0);      /* the same again */
	assert_int_equal(checkpoint(&s, key.name, 10, 2, NULL), -EPERM); /* another root */
	assert_int_equal(checkpoint(&s, key.name, 9, 1, NULL), -EPERM);  /* back */
	assert_int_equal(checkpoint(&s, "other", 11, 1, NULL), -EPERM);
	signer_close(&s);
	opened(&s, dir);
	assert_memory_equal(&s.audit, &key, sizeof(key));
	assert_int_equal(checkpoint(&s, key.name, 9, 1, NULL), -EPERM);
	assert_int_equal(checkpoint(&s, key.name, 11, 3, NULL), 0);
	struct stat st;
	assert_int_equal(fstatat(dir, "audit.key", &st, 0), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	Belay__ToSigner none = BELAY__TO_SIGNER__INIT;
	struct signer_reply r = {0};
	assert_int_equal(signer_request(&s, &none, &r, NULL), -EPROTO);
	signer_close(&s);
}

static int ask(struct signer *s, Belay__ToSigner__BodyCase what, void *body, struct signer_reply *r)
{
	struct error e = ERROR_INIT;
	Belay__ToSigner m = BELAY__TO_SIGNER__INIT;
	m.body_case = what;
	m.init = body; /* all bodies are pointers in one union */
	return signer_request(s, &m, r, &e);
}

static void test_domain(void **state)
{
	(void)state;
	struct signer a, b;
	_cleanup_close_ int da = dir_make("a"), db = dir_make("b");
	char *addrs[] = {"10.0.0.1", "::1"}, *addrs_b[] = {"10.0.0.2"};
	struct signer_reply r = {0}, csr = {0}, cert = {0};
	opened(&a, da);
	opened(&b, db);
	Belay__SignerInvite inv = BELAY__SIGNER_INVITE__INIT;
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_INVITE, &inv, &r), -ENOKEY);
	Belay__SignerInit init = BELAY__SIGNER_INIT__INIT;
	init.trust_domain = "example.test";
	init.node = "alpha";
	init.addresses = addrs;
	init.n_addresses = 2;
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_INIT, &init, &r), 0);
	assert_true(r.identity_changed);
	signer_reply_clear(&r);
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_INIT, &init, &r), -EEXIST);
	signer_close(&a);
	opened(&a, da);
	assert_string_equal(a.node.node, "alpha");
	assert_int_equal(a.node.n_addresses, 2);
	/* b asks, a signs, b installs. */
	Belay__SignerMakeCsr mk = BELAY__SIGNER_MAKE_CSR__INIT;
	mk.node = "beta";
	assert_int_equal(ask(&b, BELAY__TO_SIGNER__BODY_MAKE_CSR, &mk, &csr), 0);
	Belay__SignerCsr sg = BELAY__SIGNER_CSR__INIT;
	sg.csr_der = (ProtobufCBinaryData){csr.data.len, csr.data.data};
	sg.addresses = addrs_b;
	sg.n_addresses = 1;
	sg.node = "alpha";
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_CSR, &sg, &cert), -EPERM);
	sg.node = "gamma";
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_CSR, &sg, &cert), 0);
	Belay__SignerInstall in = BELAY__SIGNER_INSTALL__INIT;
	for (int i = 0; i < 2; i++) {
		in.cert_der = (ProtobufCBinaryData){cert.cert.len, cert.cert.data};
		in.ca_der = (ProtobufCBinaryData){cert.ca.len, cert.ca.data};
		assert_int_equal(
			ask(&b, BELAY__TO_SIGNER__BODY_INSTALL, &in, &r), i ? 0 : -EKEYREJECTED);
		signer_reply_clear(&r);
		signer_reply_clear(&cert);
		if (i)
			break;
		sg.node = "beta";
		assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_CSR, &sg, &cert), 0);
	}
	assert_string_equal(b.node.node, "beta");
	assert_int_equal(ask(&b, BELAY__TO_SIGNER__BODY_CSR, &sg, &cert), -ENOKEY);
	assert_int_equal(ask(&b, BELAY__TO_SIGNER__BODY_MAKE_CSR, &mk, &r), -EEXIST);
	signer_close(&b);
	opened(&b, db);
	assert_string_equal(b.node.node, "beta");
	assert_int_equal(faccessat(db, "node.pending", F_OK, 0), -1);
	signer_reply_clear(&csr);
	signer_reply_clear(&cert);
	signer_reply_clear(&r);
	signer_close(&a);
	signer_close(&b);
}

static void init_ok(struct signer *s, uint64_t life_s)
{
	char *addrs[] = {"10.0.0.1"};
	struct signer_reply r = {0};
	Belay__SignerInit init = BELAY__SIGNER_INIT__INIT;
	init.trust_domain = "example.test";
	init.node = "alpha";
	init.addresses = addrs;
	init.n_addresses = 1;
	init.life_s = life_s;
	assert_int_equal(ask(s, BELAY__TO_SIGNER__BODY_INIT, &init, &r), 0);
	signer_reply_clear(&r);
}

/* A list that only grows, each version signed once. */
static void test_removals(void **state)
{
	(void)state;
	static struct signer a;
	static struct removals l;
	_cleanup_close_ int da = dir_make("removals");
	struct signer_reply r = {0};
	Belay__SignerRemove rm = BELAY__SIGNER_REMOVE__INIT;
	rm.node = "beta";
	opened(&a, da);
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_REMOVE, &rm, &r), -ENOKEY);
	init_ok(&a, 0);
	for (uint64_t version = 1; version <= 3; version++) {
		assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_REMOVE, &rm, &r), 0);
		assert_int_equal(removals_decode(r.data.data, r.data.len, &l), 0);
		assert_int_equal(l.version, version);
		assert_true(removals_has(&l, "beta", (uint64_t)time(NULL) - 1));
		assert_int_equal(x509_statement_verify(a.ca.data, a.ca.len, r.data.data, r.data.len,
					 r.signature.data, r.signature.len),
			0);
		r.data.data[30] ^= 1;
		assert_int_equal(x509_statement_verify(a.ca.data, a.ca.len, r.data.data, r.data.len,
					 r.signature.data, r.signature.len),
			-EKEYREJECTED);
		signer_reply_clear(&r);
		rm.node = version == 1 ? "gamma" : "beta";
		signer_close(&a);
		opened(&a, da);
	}
	assert_int_equal(l.n, 2);
	rm.node = "alpha";
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_REMOVE, &rm, &r), -EPERM);
	rm.node = "no name";
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_REMOVE, &rm, &r), -EINVAL);
	/* Who is invited again has a certificate that the list does not reach. */
	_cleanup_x509_key_ struct x509_key *k = NULL;
	_cleanup_der_ struct der csr = {0};
	struct x509_node n;
	struct error e = ERROR_INIT;
	Belay__SignerCsr sg = BELAY__SIGNER_CSR__INIT;
	assert_int_equal(x509_key_new(&k), 0);
	assert_int_equal(x509_csr_make(k, "beta", &csr, &e), 0);
	sg.csr_der = (ProtobufCBinaryData){csr.len, csr.data};
	sg.node = "beta";
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_CSR, &sg, &r), 0);
	assert_int_equal(x509_node_parse(r.cert.data, r.cert.len, &n, &e), 0);
	assert_false(removals_has(&l, "beta", n.issued));
	signer_reply_clear(&r);
	/* Removed again at once, that one is void too. */
	rm.node = "beta";
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_REMOVE, &rm, &r), 0);
	assert_int_equal(removals_decode(r.data.data, r.data.len, &l), 0);
	assert_true(removals_has(&l, "beta", n.issued));
	signer_reply_clear(&r);
	signer_close(&a);
}

static void test_renewal(void **state)
{
	(void)state;
	static struct signer a, b;
	_cleanup_close_ int da = dir_make("ra"), db = dir_make("rb");
	char *addrs[] = {"10.0.0.2"}, *others[] = {"10.0.0.1"};
	struct signer_reply r = {0}, csr = {0}, cert = {0};
	opened(&a, da);
	opened(&b, db);
	Belay__SignerRenew rn = BELAY__SIGNER_RENEW__INIT;
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_RENEW, &rn, &r), -ENOENT);
	init_ok(&a, 3600);
	/* The CA's own node is done at once, with a new key. */
	struct der old = {0};
	assert_int_equal(signer_der_copy(a.node_key.data, a.node_key.len, &old), 0);
	assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_RENEW, &rn, &r), 0);
	assert_true(r.identity_changed && r.cert.len);
	assert_true(old.len != a.node_key.len || memcmp(old.data, a.node_key.data, old.len) != 0);
	assert_int_equal(a.node.not_after - a.node.issued, 3600);
	der_clear(&old);
	signer_reply_clear(&r);
	/* Another asks, and takes only what is its own. */
	Belay__SignerMakeCsr mk = BELAY__SIGNER_MAKE_CSR__INIT;
	Belay__SignerCsr sg = BELAY__SIGNER_CSR__INIT;
	Belay__SignerInstall in = BELAY__SIGNER_INSTALL__INIT;
	mk.node = "beta";
	assert_int_equal(ask(&b, BELAY__TO_SIGNER__BODY_MAKE_CSR, &mk, &csr), 0);
	for (int i = 0; i < 3; i++) { /* joins, is offered other addresses, renews */
		sg.csr_der = (ProtobufCBinaryData){csr.data.len, csr.data.data};
		sg.node = "beta";
		sg.addresses = i == 1 ? others : addrs;
		sg.n_addresses = 1;
		assert_int_equal(ask(&a, BELAY__TO_SIGNER__BODY_CSR, &sg, &cert), 0);
		in.cert_der = (ProtobufCBinaryData){cert.cert.len, cert.cert.data};
		in.ca_der = (ProtobufCBinaryData){cert.ca.len, cert.ca.data};
		assert_int_equal(ask(&b, BELAY__TO_SIGNER__BODY_INSTALL, &in, &r),
			i == 1 ? -EKEYREJECTED : 0);
		signer_reply_clear(&cert);
		signer_reply_clear(&csr);
		signer_reply_clear(&r);
		assert_int_equal(ask(&b, BELAY__TO_SIGNER__BODY_RENEW, &rn, &csr), 0);
		assert_true(!csr.identity_changed && csr.data.len);
	}
	signer_reply_clear(&csr);
	signer_close(&a);
	signer_close(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_checkpoints),
		cmocka_unit_test(test_domain),
		cmocka_unit_test(test_removals),
		cmocka_unit_test(test_renewal),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
