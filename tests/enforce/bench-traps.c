/*
 * What a trapped call costs: medians in microseconds of socket, connect, listen, a Unix connect and
 * fork+exec+wait of /bin/true. Run it plainly and bound, and compare.
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <spawn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ROUNDS 2000
#define EXECS 200

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static int compare(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return x < y ? -1 : x > y;
}

static void show(const char *what, double *v, size_t n)
{
	qsort(v, n, sizeof(v[0]), compare);
	printf("%-10s p50 %8.1f us  p99 %8.1f us\n", what, v[n / 2], v[n * 99 / 100]);
}

int main(void)
{
	static double s[ROUNDS], c[ROUNDS], x[EXECS];
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(7890),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int l = socket(AF_INET, SOCK_STREAM, 0), one = 1;
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(l, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(l, 64) < 0) {
		perror("listen");
		return 1;
	}
	for (size_t i = 0; i < ROUNDS; i++) {
		double t = now();
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		s[i] = now() - t;
		t = now();
		if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0) {
			perror("connect");
			return 1;
		}
		c[i] = now() - t;
		close(accept(l, NULL, NULL));
		close(fd);
	}
	for (size_t i = 0; i < EXECS; i++) {
		char *argv[] = {(char *)(uintptr_t) "true", NULL}, *env[] = {NULL};
		pid_t p;
		int status;
		double t = now();
		if (posix_spawn(&p, "/bin/true", NULL, NULL, argv, env) != 0)
			return 1;
		waitpid(p, &status, 0);
		x[i] = now() - t;
	}
	show("socket", s, ROUNDS);
	show("connect", c, ROUNDS);
	show("exec", x, EXECS);
	return 0;
}
