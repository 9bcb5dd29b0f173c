/*
 * Sockets of the fabric (sock.h). The descriptor is a duplicate of a program's: the program, and
 * other threads of it, can do anything to the same socket at the same time. So nothing here decides
 * by what it read of the socket's state; that only chooses which call is made, and the packet
 * filter decides what leaves the socket: a mark reaches one destination, whatever the program does
 * with the socket meanwhile.
 *
 * That is also why the mark stays after connect: it gives the program nothing it was not granted.
 */
#include "fabric/sock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/connect.h"
#include "fabric/nft.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif
#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

enum { STATE_SYN_SENT = 2, STATE_CLOSE = 7 };

void sock_destination(struct addr *a)
{
	if (!addr_is_any(a))
		return;
	if (a->ip_len == 4)
		a->ip[0] = 127, a->ip[3] = 1;
	else
		a->ip[15] = 1;
}

static int get_int(int fd, int level, int name, int *ret)
{
	socklen_t len = sizeof(*ret);
	return getsockopt(fd, level, name, ret, &len) < 0 ? -errno : 0;
}

static int set_int(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

int sock_facts(int fd, uint64_t cookie, struct sock_facts *ret)
{
	uint64_t c = 0;
	socklen_t len = sizeof(c);
	int type, protocol;
	if (getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &c, &len) < 0 || c != cookie ||
		get_int(fd, SOL_SOCKET, SO_DOMAIN, &ret->family) < 0 ||
		get_int(fd, SOL_SOCKET, SO_TYPE, &type) < 0 ||
		get_int(fd, SOL_SOCKET, SO_PROTOCOL, &protocol) < 0)
		return -EPERM;
	if (ret->family != AF_INET && ret->family != AF_INET6)
		return -EPERM;
	ret->udp = type == SOCK_DGRAM && protocol == IPPROTO_UDP;
	if (!ret->udp && (type != SOCK_STREAM || protocol != IPPROTO_TCP))
		return -EPERM;
	ret->state = STATE_CLOSE;
	len = 1; /* the state is the structure's first byte */
	if (!ret->udp && getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ret->state, &len) < 0)
		return -errno;
	return 0;
}

int sock_new(int family, bool udp, bool nonblock)
{
	int type = (udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC | (nonblock ? SOCK_NONBLOCK : 0);
	if (family != AF_INET && family != AF_INET6)
		return -EINVAL;
	int fd = socket(family, type, udp ? IPPROTO_UDP : IPPROTO_TCP);
	return fd < 0 ? -errno : fd;
}

int sock_local(int fd, struct addr *ret)
{
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	if (getsockname(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	return addr_from_sockaddr(&sa, len, ret);
}

int sock_inode(int fd, uint64_t *ret)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	*ret = st.st_ino;
	return 0;
}

int sock_mark(int fd, uint32_t mark)
{
	return set_int(fd, SOL_SOCKET, SO_MARK, (int)mark);
}

int sock_connect(int fd, const struct sock_facts *f, uint32_t mark, const struct addr *to)
{
	if (f->udp) {
		int old = 0;
		int r = get_int(fd, SOL_SOCKET, SO_MARK, &old);
		if (r >= 0)
			r = sock_mark(fd, mark);
		if (r < 0)
			return r;
		r = connect_to(fd, f->family, to);
		if (r < 0)
			(void)!set_int(fd, SOL_SOCKET, SO_MARK, old);
		return r;
	}
	if (f->state == STATE_CLOSE) {
		int r = sock_mark(fd, mark);
		if (r < 0)
			return r;
	}
	if (f->state == STATE_CLOSE || f->state == STATE_SYN_SENT)
		return connect_now(fd, f->family, to, NULL);
	return connect_to(fd, f->family, to);
}

int sock_disconnect(int fd)
{
	struct sockaddr sa = {.sa_family = AF_UNSPEC};
	int r = connect(fd, &sa, sizeof(sa)) < 0 ? -errno : 0;
	int m = sock_mark(fd, 0);
	return r < 0 ? r : m;
}

int sock_bind(int fd, const struct sock_facts *f, const struct addr *a)
{
	struct sockaddr_storage sa;
	socklen_t len;
	if (addr_to_sockaddr(a, f->family, &sa, &len) < 0)
		return -EAFNOSUPPORT;
	return bind(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
}

int sock_bind_any(int fd, const struct sock_facts *f)
{
	struct addr now, any = {.ip_len = f->family == AF_INET ? 4 : 16};
	int r = sock_local(fd, &now);
	return r < 0 || now.port ? r : sock_bind(fd, f, &any);
}

/* Own connection to a program's listener, from the name its client has on the other node. */
int sock_dial(const struct addr *source, const struct addr *destination, int *ret_result)
{
	struct sock_facts f = {.family = destination->ip_len == 4 ? AF_INET : AF_INET6};
	if (source->ip_len != destination->ip_len)
		return -EAFNOSUPPORT;
	_cleanup_close_ int fd = sock_new(f.family, false, true);
	if (fd < 0)
		return fd;
	/*
	 * A listener of ours on the same port number must not stand in the way of a foreign name:
	 * repair mode binds regardless, and connect still refuses a name that is taken towards this
	 * destination.
	 */
	int r = set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	if (r >= 0)
		r = sock_bind(fd, &f, source);
	int off = set_int(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	if (r >= 0)
		r = off;
	/* Nor may this socket stand in the way of a later listener. */
	if (r >= 0)
		r = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r >= 0)
		r = sock_mark(fd, NFT_MARK_OWN);
	if (r < 0)
		return r;
	r = connect_to(fd, f.family, destination);
	if (r == -EINPROGRESS) {
		r = sock_dial_finish(fd, destination);
		if (r == -EALREADY)
			r = -EINPROGRESS;
	} else if (r >= 0) {
		r = sock_mark(fd, 0);
	}
	if (r < 0 && r != -EINPROGRESS)
		return r;
	*ret_result = r;
	return take_fd(&fd);
}

int sock_dialer(const struct addr *source, uint32_t mark)
{
	struct sock_facts f = {.family = source->ip_len == 4 ? AF_INET : AF_INET6};
	_cleanup_close_ int fd = sock_new(f.family, false, true);
	if (fd < 0)
		return fd;
	/* connect chooses a port that is free towards the destination. */
	int r = set_int(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	if (r >= 0)
		r = sock_bind(fd, &f, source);
	/* That port must not stand in the way of a later listener. */
	if (r >= 0)
		r = set_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r >= 0)
		r = set_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	if (r >= 0)
		r = sock_mark(fd, mark);
	return r < 0 ? r : take_fd(&fd);
}

int sock_dial_finish(int fd, const struct addr *destination)
{
	int r = connect_to(fd, destination->ip_len == 4 ? AF_INET : AF_INET6, destination);
	if (r == -EISCONN)
		r = 0;
	/* The socket goes to a process that reads peers' bytes: it must not open anything else with
	 * it. */
	return r < 0 ? r : sock_mark(fd, 0);
}
