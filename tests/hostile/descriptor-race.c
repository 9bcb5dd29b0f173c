/*
 * A second thread puts a network socket under the number of a Unix one while bind or listen looks
 * at it. HOSTILE_FREE: a port policy forbids, such as the kernel itself would give to anybody.
 */
#include <pthread.h>
#include <sys/un.h>

#include "hostile.h"

#define PORT_FREE port_of("HOSTILE_FREE", 40007)

static int slot, unix_fd, other_fd;
static volatile bool stop;

static void *swap(void *p)
{
	while (!stop) {
		dup2(other_fd, slot);
		dup2(unix_fd, slot);
	}
	return p;
}

static uint16_t bound(int fd)
{
	struct sockaddr_in own = {0};
	socklen_t len = sizeof(own);
	return getsockname(fd, (struct sockaddr *)&own, &len) == 0 ? ntohs(own.sin_port) : 0;
}

static bool listens(int fd)
{
	int v = 0;
	socklen_t len = sizeof(v);
	return getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &v, &len) == 0 && v;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 3000;
	/* Families need not agree: a Unix bind reads the same bytes as a path. */
	struct sockaddr_in to[] = {local(PORT_FREE), local(PORT_SHUT)};
	bool lax = getenv("HOSTILE_FREE"); /* whose guard lets everybody listen */
	pthread_t t;
	int udp = socket(AF_INET, SOCK_DGRAM, 0), tcp = socket(AF_INET, SOCK_STREAM, 0);
	unix_fd = socket(AF_UNIX, SOCK_STREAM, 0);
	slot = dup(unix_fd);
	int *const others[] = {&tcp, &udp};
	for (int k = 0; k < 2; k++) {
		other_fd = *others[k];
		stop = false;
		pthread_create(&t, NULL, swap, NULL);
		for (int i = 0; i < rounds; i++) {
			bind(slot, (struct sockaddr *)&to[i & 1], sizeof(to[0]));
			if (bound(other_fd))
				got_through("bound port %u", bound(other_fd));
			if (lax)
				continue;
			if (k == 0 && !(i & 7))
				listen(slot, 5);
			if (k == 0 && listens(tcp))
				got_through("listens unjudged at port %u", bound(tcp));
		}
		stop = true;
		pthread_join(t, NULL);
	}
	held();
}
