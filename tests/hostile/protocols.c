/* Every kind of socket nobody judges. */
#include <linux/netlink.h>
#include <sys/un.h>

#include "hostile.h"

int main(void)
{
	int v[2];
	REFUSED(socket(AF_INET, SOCK_STREAM, 262), EPROTONOSUPPORT); /* MPTCP */
	REFUSED(socket(AF_INET6, SOCK_STREAM, 262), EPROTONOSUPPORT);
	REFUSED(socket(AF_INET, SOCK_STREAM, 132), EPROTONOSUPPORT); /* SCTP */
	REFUSED(socket(AF_INET, SOCK_SEQPACKET, 132), EPROTONOSUPPORT);
	REFUSED(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), EPROTONOSUPPORT);
	REFUSED(socket(AF_INET, SOCK_DGRAM, 136), EPROTONOSUPPORT); /* UDP-Lite */
	REFUSED(socket(AF_INET, SOCK_RAW, IPPROTO_TCP), EPERM);
	REFUSED(socket(AF_INET6, SOCK_RAW, IPPROTO_RAW), EPERM);
	REFUSED(socket(AF_PACKET, SOCK_RAW, 0), EAFNOSUPPORT);
	REFUSED(socket(AF_PACKET, SOCK_DGRAM, 0), EAFNOSUPPORT);
	REFUSED(socket(AF_VSOCK, SOCK_STREAM, 0), EAFNOSUPPORT);
	REFUSED(socket(AF_ALG, SOCK_SEQPACKET, 0), EAFNOSUPPORT);
	REFUSED(socket(AF_NETLINK, SOCK_RAW, NETLINK_NETFILTER), EAFNOSUPPORT);
	REFUSED(socket(AF_NETLINK, SOCK_RAW, NETLINK_SOCK_DIAG), EAFNOSUPPORT);
	/* A pair of datagram sockets would send to any path; what one gets keeps to its other end.
	 */
	struct sockaddr_un path = {AF_UNIX, "/tmp/hostile-datagram"};
	struct iovec iv = {(void *)(uintptr_t) "x", 1};
	struct msghdr m = {&path, sizeof(path), &iv, 1, NULL, 0, 0};
	char c = 0;
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, v) < 0 || sendmsg(v[0], &m, 0) != 1 ||
		recv(v[1], &c, 1, MSG_DONTWAIT) != 1 || c != 'x')
		got_through("a pair sent elsewhere, or nothing");
	if (connect(v[0], (struct sockaddr *)&path, sizeof(path)) == 0)
		got_through("a pair connected elsewhere");
	/* The kernel reads 32 bits of these numbers. */
	REFUSED(syscall(SYS_socket, 0x100000000 | AF_PACKET, SOCK_RAW, 0), EAFNOSUPPORT);
	REFUSED(syscall(SYS_socket, AF_INET, 0x100000000 | SOCK_RAW, 0x100000000 | 6), EPERM);
	held();
}
