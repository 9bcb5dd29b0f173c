/*
 * The signer's files (signer.h). They are its own: what does not parse is damage, and refuses to
 * start. Buffers that held keys are erased. Cost: a checkpoint writes 80 bytes and renames,
 * unsynced; keys are synced.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fds.h"
#include "base/secret.h"
#include "signer/signer.h"

#define FILE_MAX (3 * X509_DER_MAX)

int signer_der_copy(const uint8_t *p, size_t n, struct der *ret)
{
	uint8_t *b = malloc(n ? n : 1);
	if (!b)
		return -ENOMEM;
	if (n)
		memcpy(b, p, n);
	*ret = (struct der){b, n};
	return 0;
}

int signer_file_read(int dirfd, const char *name, struct der *ret)
{
	uint8_t buf[FILE_MAX];
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, buf, sizeof(buf));
	int r = n < 0                      ? -errno
		: (size_t)n == sizeof(buf) ? -EFBIG
					   : signer_der_copy(buf, (size_t)n, ret);
	secret_zero(buf, sizeof(buf));
	return r;
}

int signer_file_put(int dirfd, const char *name, const void *p, size_t n, bool sync)
{
	_cleanup_close_ int fd =
		openat(dirfd, "tmp", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = fds_write_all(fd, p, n);
	if (!r && sync && fsync(fd) < 0)
		r = -errno;
	if (!r && renameat(dirfd, "tmp", dirfd, name) < 0)
		r = -errno;
	if (!r && sync && fsync(dirfd) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dirfd, "tmp", 0);
	return r;
}

int signer_identity_read(
	int dirfd, const char *name, struct der *key, struct der *cert, struct der *ca)
{
	_cleanup_der_ struct der file = {0};
	int r = signer_file_read(dirfd, name, &file);
	if (r < 0)
		return r;
	Belay__SignerToLink *m = belay__signer_to_link__unpack(NULL, file.len, file.data);
	if (!m)
		return -EBADMSG;
	r = signer_der_copy(m->key_der.data, m->key_der.len, key);
	if (!r)
		r = signer_der_copy(m->cert_der.data, m->cert_der.len, cert);
	if (!r)
		r = signer_der_copy(m->ca_der.data, m->ca_der.len, ca);
	secret_zero(m->key_der.data, m->key_der.len);
	belay__signer_to_link__free_unpacked(m, NULL);
	return r;
}

int signer_identity_put(int dirfd, const char *name, const struct der *key, const struct der *cert,
	const struct der *ca)
{
	Belay__SignerToLink m = BELAY__SIGNER_TO_LINK__INIT;
	uint8_t buf[FILE_MAX];
	m.key_der = (ProtobufCBinaryData){key->len, key->data};
	m.cert_der = (ProtobufCBinaryData){cert->len, cert->data};
	m.ca_der = (ProtobufCBinaryData){ca->len, ca->data};
	size_t n = belay__signer_to_link__get_packed_size(&m);
	if (n >= sizeof(buf))
		return -EFBIG;
	belay__signer_to_link__pack(&m, buf);
	int r = signer_file_put(dirfd, name, buf, n, true);
	secret_zero(buf, sizeof(buf));
	return r;
}
