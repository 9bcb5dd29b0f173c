/* A second thread changes the address between the check and the connection. */
#include <pthread.h>

#include "hostile.h"

static struct sockaddr_in shared;
static volatile bool stop;

static void *flip(void *p)
{
	uint16_t open = htons(PORT_OPEN), shut = htons(PORT_SHUT);
	while (!stop) {
		__atomic_store_n(&shared.sin_port, open, __ATOMIC_RELAXED);
		__atomic_store_n(&shared.sin_port, shut, __ATOMIC_RELAXED);
	}
	return p;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 5000, l = listener(), open = 0;
	pthread_t t;
	shared = local(PORT_OPEN);
	pthread_create(&t, NULL, flip, NULL);
	for (int i = 0; i < rounds; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct sockaddr_in peer = {0};
		socklen_t len = sizeof(peer);
		int r = connect(fd, (struct sockaddr *)&shared, sizeof(shared));
		if (r == 0) {
			getpeername(fd, (struct sockaddr *)&peer, &len);
			if (ntohs(peer.sin_port) != PORT_OPEN)
				got_through("reached port %u", ntohs(peer.sin_port));
			close(accept(l, NULL, NULL));
			open++;
		} else if (errno != EACCES) {
			got_through("connect said %s, not refused by policy", strerror(errno));
		}
		close(fd);
	}
	stop = true;
	if (open == rounds)
		printf("# the race was never lost in %d rounds\n", rounds);
	held();
}
