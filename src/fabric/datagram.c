/*
 * Datagrams that leave the fabric through conn (datagram.h). Every address is local here, so a
 * socket of conn can have the name of whoever is far away: the program's datagrams are delivered to
 * it by the kernel, its own are an answer from that name. Connected, it hears one program's socket
 * and no other that sends to the same place; the packet filter has let that send first.
 *
 * Between bind and connect such a socket hears anybody who may send to that name: conn compares the
 * sender of each datagram (src/conn/datagram.c).
 *
 * Cost: seven system calls for the far end, three of netlink for a route.
 */
#include "fabric/datagram.h"

#include <errno.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"

static int own_v4(struct netlink *route, const struct addr *peer, const struct addr *own)
{
	char buf[256] = {0};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = RTM_NEWROUTE;
	h->nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
	struct rtmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
	m->rtm_family = AF_INET;
	m->rtm_dst_len = 32;
	m->rtm_table = RT_TABLE_LOCAL;
	m->rtm_protocol = RTPROT_STATIC;
	m->rtm_scope = RT_SCOPE_HOST;
	m->rtm_type = RTN_LOCAL;
	mnl_attr_put(h, RTA_DST, 4, peer->ip);
	mnl_attr_put(h, RTA_PREFSRC, 4, own->ip);
	mnl_attr_put_u32(h, RTA_OIF, 1);
	return netlink_talk(route, h);
}

/* IPv6 chooses among the addresses an interface has; the loopback's own are of no use elsewhere. */
static int own_v6(struct netlink *route, const struct addr *own)
{
	char buf[256] = {0};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = RTM_NEWADDR;
	h->nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
	struct ifaddrmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
	m->ifa_family = AF_INET6;
	m->ifa_prefixlen = 128;
	m->ifa_flags = IFA_F_NODAD;
	m->ifa_index = 1;
	mnl_attr_put(h, IFA_LOCAL, 16, own->ip);
	int r = netlink_talk(route, h);
	return r == -EEXIST ? 0 : r;
}

int datagram_route(struct netlink *route, const struct addr *peer, const struct addr *own)
{
	if (peer->ip_len != own->ip_len)
		return -EAFNOSUPPORT;
	return own->ip_len == 4 ? own_v4(route, peer, own) : own_v6(route, own);
}

int datagram_share(int fd)
{
	int one = 1;
	return setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ? -errno : 0;
}

static int dgram_new(const struct addr *name, struct sock_facts *ret)
{
	*ret = (struct sock_facts){.family = name->ip_len == 4 ? AF_INET : AF_INET6, .udp = true};
	_cleanup_close_ int fd = sock_new(ret->family, true, true);
	if (fd < 0)
		return fd;
	/* Beside others of the same name, each for a program's socket of its own. */
	int r = datagram_share(fd);
	if (r >= 0)
		r = sock_bind(fd, ret, name);
	return r < 0 ? r : take_fd(&fd);
}

static int dgram_connect(int fd, const struct sock_facts *f, const struct addr *to)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int r = addr_to_sockaddr(to, f->family, &sa, &len);
	if (r < 0)
		return r;
	return connect(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
}

/* Which address the kernel gives a socket without one, as it sends to `remote`. */
static int source_towards(const struct addr *remote, struct addr *ret)
{
	struct sock_facts f = {.family = remote->ip_len == 4 ? AF_INET : AF_INET6};
	_cleanup_close_ int fd = sock_new(f.family, true, true);
	int r = fd < 0 ? fd : dgram_connect(fd, &f, remote);
	return r < 0 ? r : sock_local(fd, ret);
}

int datagram_far_end(int fd, const struct addr *remote, int *ret_far)
{
	struct sock_facts f;
	struct addr near, seen;
	int r = sock_local(fd, &near);
	if (r >= 0 && !near.port)
		r = -EINVAL;
	seen = near;
	if (r >= 0 && addr_is_any(&near)) {
		r = source_towards(remote, &seen);
		seen.port = near.port;
	}
	if (r < 0)
		return r;
	if (seen.ip_len != remote->ip_len)
		return -EAFNOSUPPORT;
	_cleanup_close_ int far = dgram_new(remote, &f);
	if (far < 0)
		return far;
	r = dgram_connect(far, &f, &seen);
	if (r < 0)
		return r;
	*ret_far = take_fd(&far);
	return 0;
}

int datagram_dial(
	const struct addr *source, const struct addr *destination, uint32_t mark, int *ret_fd)
{
	struct sock_facts f;
	struct addr name = *source;
	name.port = 0;
	if (source->ip_len != destination->ip_len)
		return -EAFNOSUPPORT;
	_cleanup_close_ int fd = dgram_new(&name, &f);
	if (fd < 0)
		return fd;
	int r = sock_mark(fd, mark);
	if (r >= 0)
		r = dgram_connect(fd, &f, destination);
	if (r < 0)
		return r;
	*ret_fd = take_fd(&fd);
	return 0;
}
