/*
 * AES-256-GCM by two providers (aead.h). intel-ipsec-mb is about five times OpenSSL's speed on
 * small records and twice on large ones; OpenSSL is the fallback where the library was not there at
 * build time or the CPU lacks AES and carry-less multiplication. The manager of ipsec-mb is a table
 * of function pointers, made once.
 *
 * Cost: seal and open neither allocate nor enter the kernel. A key takes 1 KiB with ipsec-mb.
 */
#include "crypto/aead.h"

#include <errno.h>
#include <openssl/evp.h>
#include <pthread.h>
#include <string.h>

#ifdef HAVE_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

struct aead {
	enum aead_provider provider;
	EVP_CIPHER_CTX *seal, *open; /* OpenSSL: the key schedule is per direction */
#ifdef HAVE_IPSEC_MB
	_Alignas(64) struct gcm_key_data key; /* its stores are aligned ones */
#endif
};

#ifdef HAVE_IPSEC_MB
static pthread_once_t mb_once = PTHREAD_ONCE_INIT;
static IMB_MGR *mb_mgr;

/* Once a process: takes the best code this CPU runs; none without AES and carry-less
 * multiplication. */
static void mb_start(void)
{
	const uint64_t need = IMB_FEATURE_AESNI | IMB_FEATURE_PCLMULQDQ;
	IMB_MGR *m = alloc_mb_mgr(0);
	if (!m)
		return;
	if ((m->features & need) != need) {
		free_mb_mgr(m);
		return;
	}
	init_mb_mgr_auto(m, NULL);
	if (imb_get_errno(m)) {
		free_mb_mgr(m);
		return;
	}
	mb_mgr = m;
}

static IMB_MGR *mb_get(void)
{
	pthread_once(&mb_once, mb_start);
	return mb_mgr;
}
#endif

bool aead_available(enum aead_provider p)
{
#ifdef HAVE_IPSEC_MB
	if (p == AEAD_IPSEC_MB)
		return mb_get() != NULL;
#endif
	return p == AEAD_BEST || p == AEAD_OPENSSL;
}

static enum aead_provider resolve(enum aead_provider p)
{
	if (p != AEAD_BEST)
		return p;
	return aead_available(AEAD_IPSEC_MB) ? AEAD_IPSEC_MB : AEAD_OPENSSL;
}

const char *aead_provider_name(enum aead_provider p)
{
	return resolve(p) == AEAD_IPSEC_MB ? "intel-ipsec-mb" : "openssl";
}

static int ossl_key(EVP_CIPHER_CTX **c, const struct secret *key, int enc)
{
	if (!*c)
		*c = EVP_CIPHER_CTX_new();
	/* The nonce length's default is 12 bytes. */
	if (!*c || EVP_CipherInit_ex(*c, EVP_aes_256_gcm(), NULL, key->bytes, NULL, enc) != 1)
		return -ENOMEM;
	return 0;
}

int aead_rekey(struct aead *a, const struct secret *key)
{
#ifdef HAVE_IPSEC_MB
	if (a->provider == AEAD_IPSEC_MB) {
		IMB_AES256_GCM_PRE(mb_get(), key->bytes, &a->key);
		return 0;
	}
#endif
	int r = ossl_key(&a->seal, key, 1);
	return r < 0 ? r : ossl_key(&a->open, key, 0);
}

int aead_new(enum aead_provider p, const struct secret *key, struct aead **ret)
{
	p = resolve(p);
	if (p <= AEAD_BEST || p >= _AEAD_N || !aead_available(p))
		return -ENOTSUP;
	_cleanup_aead_ struct aead *a = NULL;
	size_t align =
		_Alignof(struct aead) < sizeof(void *) ? sizeof(void *) : _Alignof(struct aead);
	if (posix_memalign((void **)&a, align, sizeof(*a)))
		return -ENOMEM;
	memset(a, 0, sizeof(*a));
	a->provider = p;
	int r = aead_rekey(a, key);
	if (r < 0)
		return r;
	*ret = take_ptr(a);
	return 0;
}

struct aead *aead_free(struct aead *a)
{
	if (!a)
		return NULL;
	EVP_CIPHER_CTX_free(a->seal);
	EVP_CIPHER_CTX_free(a->open);
	secret_zero(a, sizeof(*a));
	free(a);
	return NULL;
}

static int ossl_seal(struct aead *a, const uint8_t *nonce, const void *aad, size_t aad_len,
	const void *in, size_t len, void *out, uint8_t *tag)
{
	int n;
	if (EVP_EncryptInit_ex(a->seal, NULL, NULL, NULL, nonce) != 1)
		return -EIO;
	if (aad_len && EVP_EncryptUpdate(a->seal, NULL, &n, aad, (int)aad_len) != 1)
		return -EIO;
	if (len && EVP_EncryptUpdate(a->seal, out, &n, in, (int)len) != 1)
		return -EIO;
	uint8_t none[AEAD_TAG_LEN];
	if (EVP_EncryptFinal_ex(a->seal, none, &n) != 1 ||
		EVP_CIPHER_CTX_ctrl(a->seal, EVP_CTRL_AEAD_GET_TAG, AEAD_TAG_LEN, tag) != 1)
		return -EIO;
	return 0;
}

static int ossl_open(struct aead *a, const uint8_t *nonce, const void *aad, size_t aad_len,
	const void *in, size_t len, const uint8_t *tag, void *out)
{
	int n;
	uint8_t want[AEAD_TAG_LEN], none[AEAD_TAG_LEN];
	memcpy(want, tag, sizeof(want));
	if (EVP_DecryptInit_ex(a->open, NULL, NULL, NULL, nonce) != 1)
		return -EBADMSG;
	if (aad_len && EVP_DecryptUpdate(a->open, NULL, &n, aad, (int)aad_len) != 1)
		return -EBADMSG;
	if (len && EVP_DecryptUpdate(a->open, out, &n, in, (int)len) != 1)
		return -EBADMSG;
	if (EVP_CIPHER_CTX_ctrl(a->open, EVP_CTRL_AEAD_SET_TAG, AEAD_TAG_LEN, want) != 1 ||
		EVP_DecryptFinal_ex(a->open, none, &n) != 1)
		return -EBADMSG;
	return 0;
}

int aead_seal(struct aead *a, const uint8_t nonce[AEAD_NONCE_LEN], const void *aad, size_t aad_len,
	const void *in, size_t len, void *out, uint8_t tag[AEAD_TAG_LEN])
{
	if (len > AEAD_LEN_MAX || aad_len > AEAD_LEN_MAX)
		return -EMSGSIZE;
#ifdef HAVE_IPSEC_MB
	if (a->provider == AEAD_IPSEC_MB) {
		_Alignas(64) struct gcm_context_data c;
		uint8_t none;
		/* The library refuses NULL even where the length is 0. */
		IMB_AES256_GCM_ENC(mb_get(), &a->key, &c, len ? out : &none, len ? in : &none, len,
			nonce, aad_len ? aad : &none, aad_len, tag, AEAD_TAG_LEN);
		return 0;
	}
#endif
	return ossl_seal(a, nonce, aad, aad_len, in, len, out, tag);
}

int aead_open(struct aead *a, const uint8_t nonce[AEAD_NONCE_LEN], const void *aad, size_t aad_len,
	const void *in, size_t len, const uint8_t tag[AEAD_TAG_LEN], void *out)
{
	int r;
	if (len > AEAD_LEN_MAX || aad_len > AEAD_LEN_MAX)
		return -EMSGSIZE;
#ifdef HAVE_IPSEC_MB
	if (a->provider == AEAD_IPSEC_MB) {
		_Alignas(64) struct gcm_context_data c;
		uint8_t none, made[AEAD_TAG_LEN];
		IMB_AES256_GCM_DEC(mb_get(), &a->key, &c, len ? out : &none, len ? in : &none, len,
			nonce, aad_len ? aad : &none, aad_len, made, AEAD_TAG_LEN);
		r = secret_equal(made, tag, AEAD_TAG_LEN) ? 0 : -EBADMSG;
	} else
#endif
		r = ossl_open(a, nonce, aad, aad_len, in, len, tag, out);
	if (r < 0 && len)
		secret_zero(out, len);
	return r;
}
