/* MSG_FASTOPEN connects within a send; TCP_FASTOPEN_CONNECT moves connect into the first write. */
#include <signal.h>

#include "hostile.h"

int main(void)
{
	struct sockaddr_in a = local(PORT_SHUT);
	struct iovec iv = {(void *)(uintptr_t) "x", 1};
	struct mmsghdr m = {.msg_hdr = {&a, sizeof(a), &iv, 1, NULL, 0, 0}};
	int fd = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	REFUSED(sendto(fd, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&a, sizeof(a)), EOPNOTSUPP);
	REFUSED(sendmsg(fd, &m.msg_hdr, MSG_FASTOPEN), EOPNOTSUPP);
	REFUSED(sendmmsg(fd, &m, 1, MSG_FASTOPEN), EOPNOTSUPP);
	REFUSED(setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &one, sizeof(one)), EOPNOTSUPP);
	/* Without the flag an address makes no connection either. */
	signal(SIGPIPE, SIG_IGN);
	if (sendto(fd, "x", 1, MSG_NOSIGNAL, (struct sockaddr *)&a, sizeof(a)) != -1 ||
		sendmsg(fd, &m.msg_hdr, MSG_NOSIGNAL) != -1)
		got_through("sent on a socket that is not connected");
	REFUSED(dial(fd, PORT_SHUT), EACCES);
	held();
}
