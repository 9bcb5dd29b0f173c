/*
 * bind on a Unix socket is left to the kernel; a second thread puts a network socket under the same
 * number in between.
 */
#include <pthread.h>
#include <sys/un.h>

#include "hostile.h"

static int slot, unix_fd, inet_fd;
static volatile bool stop;

static void *swap(void *p)
{
	while (!stop) {
		dup2(inet_fd, slot);
		dup2(unix_fd, slot);
	}
	return p;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 5000;
	struct sockaddr_in a = local(PORT_SHUT), own;
	pthread_t t;
	unix_fd = socket(AF_UNIX, SOCK_STREAM, 0);
	inet_fd = socket(AF_INET, SOCK_STREAM, 0);
	slot = dup(unix_fd);
	pthread_create(&t, NULL, swap, NULL);
	for (int i = 0; i < rounds; i++) {
		socklen_t len = sizeof(own);
		bind(slot, (struct sockaddr *)&a, sizeof(a));
		if (getsockname(inet_fd, (struct sockaddr *)&own, &len) == 0 && own.sin_port)
			got_through("bound port %u", ntohs(own.sin_port));
	}
	stop = true;
	held();
}
