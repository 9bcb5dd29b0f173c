/*
 * The fabric's namespaces (ns.h). Works with no privilege: the user namespace gives its maker every
 * capability over the network namespace inside it and none outside. One id is mapped, so nothing in
 * it can become another user. Input: two descriptors that belayd kept for us; setns(2) checks their
 * kind.
 *
 * Every address is local (AnyIP): a route of type local for 0.0.0.0/0 and ::/0 on lo, so that a
 * socket may have any name a peer of another node has, and nothing ever needs an interface that
 * leads out.
 */
#include "fabric/ns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/rtnetlink.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/fds.h"
#include "fabric/netlink.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static int write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	return fd < 0 ? -errno : fds_write_all(fd, text, strlen(text));
}

static int map_ids(uid_t uid, gid_t gid)
{
	char text[32];
	int r = write_file("/proc/self/setgroups", "deny");
	if (r < 0)
		return r;
	snprintf(text, sizeof(text), "0 %u 1", uid);
	r = write_file("/proc/self/uid_map", text);
	if (r < 0)
		return r;
	snprintf(text, sizeof(text), "0 %u 1", gid);
	return write_file("/proc/self/gid_map", text);
}

int ns_create(int *ret_user, int *ret_net, struct error *e)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return error_errno(e, -errno,
			"cannot make the fabric's namespaces (is kernel.unprivileged_userns_clone "
			"or "
			"user.max_user_namespaces 0? try belay doctor)");
	/* The id maps of a non-dumpable process belong to root: dumpable just for the writing. */
	int dumpable = prctl(PR_GET_DUMPABLE);
	prctl(PR_SET_DUMPABLE, 1);
	int r = map_ids(uid, gid);
	_cleanup_close_ int user = open("/proc/self/ns/user", O_RDONLY | O_CLOEXEC);
	int saved = errno;
	_cleanup_close_ int net = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	prctl(PR_SET_DUMPABLE, dumpable == 1);
	if (r < 0)
		return error_errno(e, r, "cannot map the fabric's user namespace");
	if (user < 0 || net < 0)
		return error_errno(e, user < 0 ? -saved : -ENOENT,
			"cannot open the fabric's namespaces in /proc");
	*ret_user = take_fd(&user);
	*ret_net = take_fd(&net);
	return 0;
}

int ns_enter(int user, int net, struct error *e)
{
	if (setns(user, CLONE_NEWUSER) < 0)
		return error_errno(e, -errno, "cannot enter the fabric's user namespace");
	if (setns(net, CLONE_NEWNET) < 0)
		return error_errno(e, -errno, "cannot enter the fabric's network namespace");
	return 0;
}

static int lo_up(struct netlink *n)
{
	char buf[256] = {0};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = RTM_NEWLINK;
	struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof(*i));
	i->ifi_family = AF_UNSPEC;
	i->ifi_index = 1; /* lo is the first interface of every namespace */
	i->ifi_change = IFF_UP;
	i->ifi_flags = IFF_UP;
	return netlink_talk(n, h);
}

static int any_local(struct netlink *n, uint8_t family)
{
	char buf[256] = {0};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	h->nlmsg_type = RTM_NEWROUTE;
	h->nlmsg_flags = NLM_F_CREATE | NLM_F_REPLACE;
	struct rtmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
	m->rtm_family = family;
	m->rtm_table = RT_TABLE_LOCAL;
	m->rtm_protocol = RTPROT_STATIC;
	m->rtm_scope = family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
	m->rtm_type = RTN_LOCAL;
	mnl_attr_put_u32(h, RTA_OIF, 1);
	int r = netlink_talk(n, h);
	return r == -EEXIST ? 0 : r;
}

/*
 * A bind is a decision, executed by us. Should a program get one past the trap (its filter judges
 * by descriptor number), the kernel refuses it every port but those it gives out by itself: it lets
 * the privileged range grow to where those begin, and no further.
 */
static int ports_privileged(void)
{
	_cleanup_free_ char *range = NULL;
	int r = fds_read_file(AT_FDCWD, "/proc/sys/net/ipv4/ip_local_port_range", 64, &range, NULL);
	if (r < 0)
		return r;
	range[strcspn(range, " \t\n")] = '\0';
	return write_file("/proc/sys/net/ipv4/ip_unprivileged_port_start", range);
}

int ns_configure(bool *ret_v6, struct error *e)
{
	struct netlink n = {0};
	int r = netlink_open(&n, NETLINK_ROUTE, 0);
	if (r < 0)
		return error_errno(e, r, "cannot open rtnetlink in the fabric");
	r = lo_up(&n);
	if (r >= 0)
		r = any_local(&n, AF_INET);
	int r6 = r < 0 ? r : any_local(&n, AF_INET6);
	netlink_close(&n);
	if (r < 0)
		return error_errno(e, r, "cannot set up the fabric's loopback and routes");
	/* A route is not enough for bind(2) of IPv6, unlike IPv4. */
	if (r6 >= 0)
		r6 = write_file("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
	*ret_v6 = r6 >= 0; /* a kernel without IPv6: programs get its error from socket(2) */
	/* A SYN that carries data and MPTCP need a mark like any other; programs lose nothing
	 * without. */
	r = write_file("/proc/sys/net/ipv4/tcp_fastopen", "0");
	if (r >= 0)
		r = ports_privileged();
	/*
	 * A port in TIME_WAIT is given out again after a second, as the kernel does by itself for
	 * 127.0.0.0/8 only: here every address is as local as that.
	 */
	if (r >= 0)
		r = write_file("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
	/* All of it is loopback: nothing to pace, and no network whose state idleness could change.
	 */
	if (r >= 0)
		r = write_file("/proc/sys/net/ipv4/tcp_congestion_control", "reno");
	if (r >= 0)
		r = write_file("/proc/sys/net/ipv4/tcp_slow_start_after_idle", "0");
	if (r < 0)
		return error_errno(e, r,
			"cannot write sysctls of the fabric (is /proc/sys mounted read-only?)");
	(void)!write_file("/proc/sys/net/mptcp/enabled", "0"); /* absent without MPTCP */
	return 0;
}

int ns_cookie(uint64_t *ret)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	socklen_t len = sizeof(*ret);
	if (fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, ret, &len) < 0)
		return -errno;
	return 0;
}
