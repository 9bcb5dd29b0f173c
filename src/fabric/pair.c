/*
 * Pairs of connected sockets without a handshake (sock_pair in sock.h). TCP_REPAIR puts a socket
 * into the established state with the sequence numbers we say; two sockets told the same story are
 * a connection. No packet is sent, so no grant is needed and any address can be the peer, even one
 * on which a listener of the fabric listens.
 *
 * Both ends are wholly set up before either leaves repair mode. Windows are copied from one end to
 * the other, as a handshake would, so that data flows at once; window probes are not sent. Cost:
 * about 30 system calls.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "fabric/sock.h"

#ifndef IP_BIND_ADDRESS_NO_PORT
#define IP_BIND_ADDRESS_NO_PORT 24
#endif

#define PAIR_TRIES 64   /* ports whose other end is still held open */
#define PAIR_WSCALE 7   /* what the kernel's default buffer limits lead to */
#define PAIR_MSS4 65495 /* of loopback: largest IP packet less headers */
#define PAIR_MSS6 65475

enum { OPT_MSS = 2, OPT_WINDOW = 3, OPT_SACK = 4, OPT_TIMESTAMP = 8, STATE_CLOSE = 7 };

static int set_opt(int fd, int level, int name, int value)
{
	return setsockopt(fd, level, name, &value, sizeof(value)) < 0 ? -errno : 0;
}

static int connect_name(int fd, int family, const struct addr *a)
{
	struct sockaddr_storage sa;
	socklen_t len;
	if (addr_to_sockaddr(a, family, &sa, &len) < 0)
		return -EAFNOSUPPORT;
	return connect(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
}

static int queue_seq(int fd, int queue, uint32_t seq)
{
	int r = set_opt(fd, IPPROTO_TCP, TCP_REPAIR_QUEUE, queue);
	return r < 0 ? r : set_opt(fd, IPPROTO_TCP, TCP_QUEUE_SEQ, (int)seq);
}

/* From closed to established, in repair mode. */
static int establish(int fd, int family, const struct addr *remote, uint32_t snd, uint32_t rcv)
{
	const struct tcp_repair_opt opts[] = {
		{OPT_MSS, remote->ip_len == 4 ? PAIR_MSS4 : PAIR_MSS6},
		{OPT_WINDOW, PAIR_WSCALE | PAIR_WSCALE << 16},
		{OPT_SACK, 0},
		{OPT_TIMESTAMP, 0},
	};
	int r = queue_seq(fd, TCP_SEND_QUEUE, snd);
	if (r >= 0)
		r = queue_seq(fd, TCP_RECV_QUEUE, rcv);
	if (r >= 0)
		r = connect_name(fd, family, remote);
	if (r < 0)
		return r;
	return setsockopt(fd, IPPROTO_TCP, TCP_REPAIR_OPTIONS, opts, sizeof(opts)) < 0 ? -errno : 0;
}

/* What `from` is ready to receive is what `to` may send. */
static int copy_window(int from, int to)
{
	struct tcp_repair_window w, mine;
	socklen_t len = sizeof(w);
	if (getsockopt(from, IPPROTO_TCP, TCP_REPAIR_WINDOW, &w, &len) < 0)
		return -errno;
	len = sizeof(mine);
	if (getsockopt(to, IPPROTO_TCP, TCP_REPAIR_WINDOW, &mine, &len) < 0)
		return -errno;
	mine.snd_wnd = w.rcv_wnd;
	mine.max_window = w.rcv_wnd > mine.max_window ? w.rcv_wnd : mine.max_window;
	mine.snd_wl1 = mine.rcv_wup;
	return setsockopt(to, IPPROTO_TCP, TCP_REPAIR_WINDOW, &mine, sizeof(mine)) < 0 ? -errno : 0;
}

/* An address without a port: connect then takes a port that is free towards this peer. */
static int bind_address(int fd, const struct sock_facts *f, const struct addr *local)
{
	struct addr a = *local;
	a.port = 0;
	int r = set_opt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	if (r >= 0)
		r = sock_bind(fd, f, &a);
	(void)!set_opt(fd, SOL_IP, IP_BIND_ADDRESS_NO_PORT, 0);
	return r;
}

/* The other end: bound to the remote name whoever else is on that port, then established. */
static int pair_peer(const struct addr *local, const struct addr *remote, const uint32_t seq[2])
{
	struct sock_facts f = {.family = remote->ip_len == 4 ? AF_INET : AF_INET6};
	_cleanup_close_ int fd = sock_new(f.family, false, true);
	if (fd < 0)
		return fd;
	int r = set_opt(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	if (r >= 0)
		r = sock_bind(fd, &f, remote);
	if (r >= 0)
		r = establish(fd, f.family, local, seq[1], seq[0]);
	return r < 0 ? r : take_fd(&fd);
}

static int pair_link(int fd, int family, const struct addr *remote, int *ret_peer)
{
	uint32_t seq[2];
	struct addr local;
	if (getrandom(seq, sizeof(seq), 0) != sizeof(seq))
		return -EIO;
	int r = establish(fd, family, remote, seq[0], seq[1]);
	if (r >= 0)
		r = sock_local(fd, &local);
	if (r < 0)
		return r;
	_cleanup_close_ int peer = pair_peer(&local, remote, seq);
	if (peer < 0)
		return peer;
	r = copy_window(fd, peer);
	if (r >= 0)
		r = copy_window(peer, fd);
	if (r >= 0)
		r = set_opt(peer, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	/* Must not stand in the way of a listener that binds this port later. */
	if (r >= 0)
		r = set_opt(peer, SOL_SOCKET, SO_REUSEADDR, 1);
	if (r < 0)
		return r;
	*ret_peer = take_fd(&peer);
	return 0;
}

static void pair_undo(int fd)
{
	int err;
	socklen_t len = sizeof(err);
	(void)!sock_disconnect(fd);
	(void)!getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len); /* what the disconnect left */
}

int sock_pair(int fd, const struct sock_facts *f, const struct addr *local,
	const struct addr *remote, int *ret_peer)
{
	struct addr own;
	int reuse = 0;
	socklen_t len = sizeof(reuse);
	if (f->udp)
		return -EPERM;
	*ret_peer = -1;
	if (f->state != STATE_CLOSE)
		return sock_connect(fd, f, 0, remote);
	int r = sock_local(fd, &own);
	if (r >= 0 && local->ip_len && own.port == 0 && addr_is_any(&own))
		r = bind_address(fd, f, local);
	if (r < 0)
		return r;
	/* Repair mode leaves SO_REUSEADDR off. */
	if (getsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &reuse, &len) < 0)
		return -errno;
	r = set_opt(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_ON);
	if (r < 0)
		return r;
	for (int i = 0; i < PAIR_TRIES; i++) {
		r = pair_link(fd, f->family, remote, ret_peer);
		if (r < 0)
			pair_undo(fd);
		/* The port the kernel chose is free here but not at the other end: it chooses
		 * another. */
		if (r != -EADDRNOTAVAIL || own.port)
			break;
	}
	int off = set_opt(fd, IPPROTO_TCP, TCP_REPAIR, TCP_REPAIR_OFF_NO_WP);
	int back = set_opt(fd, SOL_SOCKET, SO_REUSEADDR, reuse);
	if (r >= 0 && (off < 0 || back < 0)) {
		close(*ret_peer);
		*ret_peer = -1;
		r = off < 0 ? off : back;
	}
	return r;
}
