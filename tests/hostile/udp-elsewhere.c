/*
 * A UDP socket that was granted one destination sends to another. HOSTILE_UDP names a port this
 * program may bind and send to, HOSTILE_UDP_SHUT one it may bind but not send to.
 */
#include <poll.h>

#include "hostile.h"

static int udp(uint16_t port)
{
	struct sockaddr_in a = local(port);
	int fd = socket(AF_INET, SOCK_DGRAM, 0);
	return bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 ? -1 : fd;
}

int main(void)
{
	if (!getenv("HOSTILE_UDP") || !getenv("HOSTILE_UDP_SHUT"))
		skip("HOSTILE_UDP is not set");
	uint16_t yes = port_of("HOSTILE_UDP", 0), no = port_of("HOSTILE_UDP_SHUT", 0);
	struct sockaddr_in a = local(yes), b = local(no);
	int good = udp(yes), bad = udp(no), fd = socket(AF_INET, SOCK_DGRAM, 0);
	struct iovec iv = {(void *)(uintptr_t) "x", 1};
	struct mmsghdr m = {.msg_hdr = {&b, sizeof(b), &iv, 1, NULL, 0, 0}};
	struct pollfd p = {good, POLLIN, 0};
	if (good < 0 || bad < 0 || sendto(fd, "x", 1, 0, (struct sockaddr *)&a, sizeof(a)) != 1 ||
		poll(&p, 1, 2000) != 1)
		got_through("the granted destination does not work: %s", strerror(errno));
	sendmsg(fd, &m.msg_hdr, 0);
	sendmmsg(fd, &m, 1, 0);
	sendto(fd, "x", 1, 0, (struct sockaddr *)&b, sizeof(b));
	if (connect(fd, (struct sockaddr *)&b, sizeof(b)) == 0)
		send(fd, "x", 1, 0);
	p.fd = bad;
	if (poll(&p, 1, 300) == 1)
		got_through("a datagram reached a destination that was not granted");
	held();
}
