/*
 * flood SECONDS: threads that trap as fast as they can. flood: measures how long this tree's own
 * trapped calls take meanwhile.
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
		for (int i = 0; i < THREADS; i++)
			pthread_create(&t, NULL, trap, NULL);
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
		close(fd);
		worst = took > worst ? took : worst;
		total += took;
	}
	printf("# mean %.2f ms, worst %.2f ms\n", total / ROUNDS, worst);
	if (worst > 1000)
		got_through("another tree held this one up for %.0f ms", worst);
	held();
}
