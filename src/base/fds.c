/* Descriptors (fds.h). */
#include "base/fds.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>

#define FDS_SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL)

int fds_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds, int flags)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * FDS_PASS_MAX)];
		struct cmsghdr align;
	} ctl = {0};
	struct iovec iov = {.iov_base = (void *)buf, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
	if (n_fds > FDS_PASS_MAX)
		return -EMSGSIZE;
	if (n_fds) {
		m.msg_control = ctl.buf;
		m.msg_controllen = CMSG_SPACE(sizeof(int) * n_fds);
		struct cmsghdr *c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(sizeof(int) * n_fds);
		memcpy(CMSG_DATA(c), fds, sizeof(int) * n_fds);
	}
	ssize_t n;
	do
		n = sendmsg(sock, &m, flags | MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		return -errno;
	return (size_t)n == len ? 0 : -EMSGSIZE;
}

/* Collects every passed descriptor; those beyond the room are closed and make the message invalid.
 */
static int fds_collect(struct msghdr *m, int *fds, size_t *ret_n)
{
	size_t n = 0;
	int r = 0;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
		if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
			continue;
		size_t k = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < k; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
			if (n < FDS_PASS_MAX) {
				fds[n++] = fd;
			} else {
				close(fd);
				r = -EMSGSIZE;
			}
		}
	}
	*ret_n = n;
	return r;
}

ssize_t fds_recv(int sock, void *buf, size_t len, int *fds, size_t *ret_n_fds, int flags)
{
	union {
		char buf[CMSG_SPACE(sizeof(int) * FDS_PASS_MAX)];
		struct cmsghdr align;
	} ctl;
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr m = {.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = ctl.buf,
		.msg_controllen = sizeof(ctl.buf)};
	ssize_t n;
	do
		n = recvmsg(sock, &m, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	*ret_n_fds = 0;
	if (n < 0)
		return -errno;
	size_t n_fds = 0;
	int r = fds_collect(&m, fds, &n_fds);
	if (r < 0 || (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC))) {
		for (size_t i = 0; i < n_fds; i++)
			close(fds[i]);
		return -EMSGSIZE;
	}
	*ret_n_fds = n_fds;
	return n;
}

int fds_write_all(int fd, const void *buf, size_t len)
{
	const char *p = buf;
	while (len) {
		ssize_t n = write(fd, p, len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		p += n;
		len -= (size_t)n;
	}
	return 0;
}

int fds_read_file(int dirfd, const char *path, size_t max, char **ret, size_t *ret_len)
{
	_cleanup_close_ int fd = openat(dirfd, path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	/* Files of /proc have no size: grow as we read, up to the limit. */
	size_t cap = 4096, len = 0;
	_cleanup_free_ char *buf = malloc(cap + 1);
	if (!buf)
		return -ENOMEM;
	for (;;) {
		ssize_t n = read(fd, buf + len, cap - len);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		len += (size_t)n;
		if (len > max)
			return -EFBIG;
		if (len == cap) {
			char *bigger = realloc(buf, cap * 2 + 1);
			if (!bigger)
				return -ENOMEM;
			buf = bigger;
			cap *= 2;
		}
	}
	buf[len] = '\0';
	if (ret_len)
		*ret_len = len;
	*ret = take_ptr(buf);
	return 0;
}

int fds_nonblock(int fd)
{
	int fl = fcntl(fd, F_GETFL);
	if (fl < 0 || fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0)
		return -errno;
	return 0;
}

int fds_memfd(const char *name, const void *buf, size_t len)
{
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	int r = fds_write_all(fd, buf, len);
	if (r < 0)
		return r;
	if (fcntl(fd, F_ADD_SEALS, FDS_SEALS) < 0)
		return -errno;
	return take_fd(&fd);
}

int fds_map(int memfd, size_t max, const void **ret, size_t *ret_len)
{
	struct stat st;
	int seals = fcntl(memfd, F_GET_SEALS);
	/* Unsealed memory could change under the reader between check and use. */
	if (seals < 0 || (seals & FDS_SEALS) != FDS_SEALS)
		return -EPERM;
	if (fstat(memfd, &st) < 0)
		return -errno;
	if (st.st_size <= 0 || (size_t)st.st_size > max)
		return -EFBIG;
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, memfd, 0);
	if (p == MAP_FAILED)
		return -errno;
	*ret = p;
	*ret_len = (size_t)st.st_size;
	return 0;
}

int fds_pidfd_alive(int pidfd)
{
	struct pollfd p = {.fd = pidfd, .events = POLLIN};
	int r = poll(&p, 1, 0);
	if (r < 0)
		return -errno;
	return r == 0;
}
