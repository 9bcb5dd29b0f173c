/* Once a connection stands, or is on its way, connect must not open a second one elsewhere. */
#include "hostile.h"

int main(void)
{
	int l = listener(), fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
	struct sockaddr_in peer;
	socklen_t len = sizeof(peer);
	if (dial(fd, PORT_OPEN) == 0 || errno != EINPROGRESS)
		got_through("first connect: %s", strerror(errno));
	for (int i = 0; i < 100; i++)
		if (dial(fd, PORT_SHUT) == 0 && i > 0)
			got_through("connected a second time");
	int s = accept(l, NULL, NULL);
	if (getpeername(fd, (struct sockaddr *)&peer, &len) < 0 ||
		ntohs(peer.sin_port) != PORT_OPEN)
		got_through("the peer changed");
	fcntl(l, F_SETFL, O_NONBLOCK);
	REFUSED(accept(l, NULL, NULL), EAGAIN);
	/* Disconnected, the socket is a new question. */
	struct sockaddr none = {.sa_family = AF_UNSPEC};
	connect(fd, &none, sizeof(none));
	REFUSED(dial(fd, PORT_SHUT), EACCES);
	close(s);
	held();
}
