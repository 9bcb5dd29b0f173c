/* Primitives against published vectors (RFC 4231, 5869, 8032, the GCM specification) and our own
 * key schedule's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above */
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/hex.h"
#include "crypto/aead.h"
#include "crypto/channel_keys.h"
#include "crypto/ed25519.h"
#include "crypto/hkdf.h"
#include "crypto/hmac.h"
#include "crypto/random.h"
#include "crypto/sha256.h"

static size_t unhex(const char *h, uint8_t *out)
{
	size_t n = strlen(h) / 2;
	assert_int_equal(hex_decode(h, out, n), 0);
	return n;
}

static void same(const void *got, const char *hex)
{
	uint8_t want[256];
	size_t n = unhex(hex, want);
	assert_memory_equal(got, want, n);
}

static void test_sha256(void **state)
{
	(void)state;
	uint8_t d[SHA256_LEN];
	sha256_of("abc", 3, d);
	same(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	struct sha256 h;
	sha256_init(&h);
	sha256_update(&h, "a", 1);
	sha256_update(&h, "bc", 2);
	sha256_final(&h, d);
	same(d, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
	uint8_t zero[sizeof(h)] = {0};
	assert_memory_equal(&h, zero, sizeof(h));
}

static void test_hmac(void **state)
{
	(void)state;
	uint8_t d[HMAC_LEN];
	const char *m = "what do ya want for nothing?";
	assert_int_equal(hmac_sha256("Jefe", 4, m, strlen(m), d), 0);
	same(d, "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843");
	assert_int_equal(hmac_sha256("", 0, "", 0, d), 0);
	same(d, "b613679a0814d9ec772f95d778c35fc5ff1697c493715653c6c712144292c5ad");
}

static void test_hkdf(void **state)
{
	(void)state;
	uint8_t ikm[22], salt[13], info[10], okm[42];
	struct secret prk;
	memset(ikm, 0x0b, sizeof(ikm));
	unhex("000102030405060708090a0b0c", salt);
	unhex("f0f1f2f3f4f5f6f7f8f9", info);
	assert_int_equal(hkdf_extract(salt, sizeof(salt), ikm, sizeof(ikm), &prk), 0);
	same(prk.bytes, "077709362c2e32df0ddc3f0dc47bba6390b6c73bb50f9c3122ec844ad7c2b3e5");
	assert_int_equal(hkdf_expand(&prk, info, sizeof(info), okm, sizeof(okm)), 0);
	same(okm, "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf"
		  "34007208d5b887185865");
	assert_int_equal(hkdf_extract(NULL, 0, ikm, sizeof(ikm), &prk), 0);
	same(prk.bytes, "19ef24a32c717b167f33a91d6f648bdf96596776afdb6377ac434c1c293ccb04");
	assert_int_equal(hkdf_expand(&prk, NULL, 0, okm, sizeof(okm)), 0);
	same(okm, "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d"
		  "9d201395faa4b61a96c8");
	assert_int_equal(hkdf_expand(&prk, NULL, 0, okm, 255 * 32 + 1), -EINVAL);
}

struct gcm_case {
	const char *key, *iv, *text, *aad, *sealed, *tag;
};
#define ZERO32 "0000000000000000000000000000000000000000000000000000000000000000"
#define K16 "feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308"
static const struct gcm_case gcm_cases[] = {
	{ZERO32, "000000000000000000000000", "", "", "", "530f8afbc74536b9a963b4f1c4cb738b"},
	{ZERO32, "000000000000000000000000", "00000000000000000000000000000000", "",
		"cea7403d4d606b6e074ec5d3baf39d18", "d0d1c8a799996bf0265b98b5d48ab919"},
	{K16, "cafebabefacedbaddecaf888",
		"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
		"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b391aafd255",
		"",
		"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
		"8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662898015ad",
		"b094dac5d93471bdec1a502270e3cc6c"},
	{K16, "cafebabefacedbaddecaf888",
		"d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
		"1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39",
		"feedfacedeadbeeffeedfacedeadbeefabaddad2",
		"522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
		"8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662",
		"76fc6ece0f4e1768cddf8853bb2d551b"},
};

static void gcm_vectors(enum aead_provider p)
{
	for (size_t i = 0; i < ARRAY_LEN(gcm_cases); i++) {
		const struct gcm_case *c = &gcm_cases[i];
		struct secret key;
		uint8_t iv[12], text[64], aad[32], out[64], tag[16];
		unhex(c->key, key.bytes);
		unhex(c->iv, iv);
		size_t n = unhex(c->text, text), a = unhex(c->aad, aad);
		_cleanup_aead_ struct aead *x = NULL;
		assert_int_equal(aead_new(p, &key, &x), 0);
		assert_int_equal(aead_seal(x, iv, aad, a, text, n, out, tag), 0);
		same(out, c->sealed);
		same(tag, c->tag);
		/* The context again, in place, both ways. */
		memcpy(out, text, n);
		assert_int_equal(aead_seal(x, iv, aad, a, out, n, out, tag), 0);
		same(out, c->sealed);
		assert_int_equal(aead_open(x, iv, aad, a, out, n, tag, out), 0);
		assert_memory_equal(out, text, n);
	}
}

static void test_gcm_vectors(void **state)
{
	(void)state;
	gcm_vectors(AEAD_OPENSSL);
	gcm_vectors(AEAD_BEST);
	if (aead_available(AEAD_IPSEC_MB))
		gcm_vectors(AEAD_IPSEC_MB);
	else
		print_message("intel-ipsec-mb is not available here\n");
}

/* Every altered bit of text, tag, nonce or additional data refuses, and leaves zeros. */
static void test_gcm_altered(void **state)
{
	(void)state;
	for (int p = AEAD_IPSEC_MB; p < _AEAD_N; p++) {
		if (!aead_available((enum aead_provider)p))
			continue;
		struct secret key;
		uint8_t b[12 + 24 + 37 + 16], out[37], zero[37] = {0};
		random_secret(&key);
		random_bytes(b, sizeof(b));
		uint8_t *iv = b, *aad = b + 12, *text = aad + 24, *tag = text + 37;
		_cleanup_aead_ struct aead *x = NULL;
		assert_int_equal(aead_new((enum aead_provider)p, &key, &x), 0);
		assert_int_equal(aead_seal(x, iv, aad, 24, text, 37, text, tag), 0);
		for (size_t i = 0; i < 8 * sizeof(b); i++) {
			b[i / 8] ^= (uint8_t)(1u << i % 8);
			memset(out, 1, sizeof(out));
			assert_int_equal(aead_open(x, iv, aad, 24, text, 37, tag, out), -EBADMSG);
			assert_memory_equal(out, zero, sizeof(out));
			b[i / 8] ^= (uint8_t)(1u << i % 8);
		}
		assert_int_equal(aead_open(x, iv, aad, 24, text, 37, tag, out), 0);
	}
}

/* Both providers agree on every length, also after a change of key. */
static void test_gcm_cross(void **state)
{
	(void)state;
	if (!aead_available(AEAD_IPSEC_MB)) {
		printf("# this machine has no ipsec-mb\n");
		skip();
	}
	struct secret key;
	static uint8_t text[70000], a[70000], b[70000];
	uint8_t iv[12], aad[24], ta[16], tb[16];
	random_secret(&key);
	random_bytes(text, sizeof(text));
	_cleanup_aead_ struct aead *x = NULL, *y = NULL;
	assert_int_equal(aead_new(AEAD_IPSEC_MB, &key, &x), 0);
	assert_int_equal(aead_new(AEAD_OPENSSL, &key, &y), 0);
	for (size_t n = 0; n < sizeof(text); n += n < 300 ? 1 : 4099) {
		random_bytes(iv, sizeof(iv));
		random_bytes(aad, sizeof(aad));
		if (n % 64 == 63) {
			random_secret(&key);
			assert_int_equal(aead_rekey(x, &key), 0);
			assert_int_equal(aead_rekey(y, &key), 0);
		}
		assert_int_equal(aead_seal(x, iv, aad, n % 25, text, n, a, ta), 0);
		assert_int_equal(aead_seal(y, iv, aad, n % 25, text, n, b, tb), 0);
		assert_memory_equal(a, b, n);
		assert_memory_equal(ta, tb, 16);
		assert_int_equal(aead_open(y, iv, aad, n % 25, a, n, ta, a), 0);
		assert_int_equal(aead_open(x, iv, aad, n % 25, b, n, tb, b), 0);
		assert_memory_equal(a, text, n);
		assert_memory_equal(b, text, n);
	}
}

static void test_ed25519(void **state)
{
	(void)state;
	struct secret seed;
	uint8_t pub[32], sig[64];
	unhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60", seed.bytes);
	assert_int_equal(ed25519_public(&seed, pub), 0);
	same(pub, "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
	assert_int_equal(ed25519_sign(&seed, "", 0, sig), 0);
	same(sig, "e5564300c360ac729086e2cc806e828a84877f1eb8e5d974d873e065224901555"
		  "fb8821590a33bacc61e39701cf9b46bd25bf5f0595bbe24655141438e7a100b");
	assert_int_equal(ed25519_verify(pub, "", 0, sig), 0);
	assert_int_equal(ed25519_verify(pub, "x", 1, sig), -EKEYREJECTED);
	sig[3] ^= 1;
	assert_int_equal(ed25519_verify(pub, "", 0, sig), -EKEYREJECTED);
}

static void channel_vector(const struct secret *exporter, const char *i, const char *r,
	const char *key, const char *iv, const char *next)
{
	struct secret ck;
	uint8_t nc[32], ns[32], id[16];
	struct channel_secrets s;
	struct channel_record_key k;
	for (uint8_t b = 0; b < 32; b++)
		ck.bytes[b] = b;
	for (uint8_t b = 0; b < 16; b++)
		id[b] = (uint8_t)(0xa0 + b);
	memset(nc, 0x11, sizeof(nc));
	memset(ns, 0x22, sizeof(ns));
	assert_int_equal(channel_secrets_derive(&ck, nc, ns, exporter, id, &s), 0);
	same(s.initiator.bytes, i);
	same(s.responder.bytes, r);
	assert_int_equal(channel_record_key_derive(&s.initiator, &k), 0);
	same(k.key.bytes, key);
	same(k.iv, iv);
	assert_int_equal(channel_secret_next(&s.initiator), 0);
	same(s.initiator.bytes, next);
}

static void test_channel_keys(void **state)
{
	(void)state;
	struct secret ex, data;
	uint8_t a[32], b[32], nonce[12];
	const uint8_t iv[12] = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12};
	memset(ex.bytes, 0x33, sizeof(ex.bytes));
	channel_vector(&ex, "5bbd97462155943a22c33014ccafba5c8d12d5a9ce5ac5debdf94c0388958a58",
		"faac47af385420f09e695b0c9d92ec51e6b8bae7d4b7e09b2fd8f0b0e4118fc6",
		"bb3668ad5cdadab29703a592119d28e3885b2555573ae3bf5a9fb8aaacac8700",
		"4f897a6e60964423c674e1b0",
		"76b03c027f895d051c3cb13f3e5c2fa763df99e8017349ba9d7d4dee71cef543");
	channel_vector(NULL, "232f3c306e72c58e8a572eac09700c79496882a2df987303281db658c947e844",
		"cc826687e1f41413bc4f470e6d8361fecb4c5f57cd9e843fbc6117eee53613e4",
		"0c56a014db806269cf180bebf88b322907c0e528f2304e22343a57e6ac154cc5",
		"e7785fcf5c300f39ac869173",
		"0700c37c5b7c71975f169539b19ede8ca4213ae4c682421dfa6936da3182ca18");
	memset(a, 0x11, sizeof(a));
	memset(b, 0x22, sizeof(b));
	assert_int_equal(channel_data_secret(&ex, a, b, &data), 0);
	same(data.bytes, "de4fbe7dadcebfdfd60941b659d35e59709a6c854903abe79380f7a875089f96");
	channel_record_nonce(iv, 0, nonce);
	assert_memory_equal(nonce, iv, 12);
	channel_record_nonce(iv, 0x0102, nonce);
	same(nonce, "01020304050607080"
		    "90a0a0e");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_sha256),
		cmocka_unit_test(test_hmac),
		cmocka_unit_test(test_hkdf),
		cmocka_unit_test(test_gcm_vectors),
		cmocka_unit_test(test_gcm_altered),
		cmocka_unit_test(test_gcm_cross),
		cmocka_unit_test(test_ed25519),
		cmocka_unit_test(test_channel_keys),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
