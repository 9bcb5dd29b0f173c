/*
 * flood SECONDS [THREADS]: threads that trap as fast as they can; when it is told how many, they
 * connect. flood: measures how long this tree's own trapped calls take meanwhile.
 */
#include <pthread.h>
#include <time.h>

#include "hostile.h"

#define THREADS 32
#define ROUNDS 200

static void *trap(void *p)
{
	for (;;)
		close(socket(AF_INET, SOCK_STREAM, 0));
	return p;
}

static void *dialler(void *p)
{
	for (;;) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		dial(fd, PORT_OPEN);
		close(fd);
	}
	return p;
}

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

int main(int argc, char **argv)
{
	if (argc > 1) {
		pthread_t t;
		int n = argc > 2 ? atoi(argv[2]) : THREADS, started = 0;
		for (int i = 0; i < n; i++)
			started += !pthread_create(&t, NULL, argc > 2 ? dialler : trap, NULL);
		printf("# %d threads\n", started);
		fflush(stdout);
		sleep((unsigned)atoi(argv[1]));
		_exit(0);
	}
	double worst = 0, total = 0;
	for (int i = 0; i < ROUNDS; i++) {
		double t = now();
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		double took = now() - t;
		if (fd < 0)
			got_through("starved: %s", strerror(errno));
		if (dial(fd, PORT_OPEN) == 0 || errno != ECONNREFUSED)
			got_through("connect: %s", strerror(errno));
		took = now() - t;
		close(fd);
		worst = took > worst ? took : worst;
		total += took;
	}
	printf("# mean %.2f ms, worst %.2f ms\n", total / ROUNDS, worst);
	if (worst > 1000)
		got_through("another tree held this one up for %.0f ms", worst);
	held();
}
