/*
 * What the benches need at both ends of a connection, as a program that can be enrolled:
 *   helper-net sink PORT [ADDR]            accepts, reads a length and as many bytes, answers one
 *                                          byte, forever (not every tunnel passes a half-close on)
 *   helper-net source ADDR PORT BYTES      sends so, waits for that byte; prints seconds
 *   helper-net greet PORT [ADDR]           accepts, sends one byte, closes, forever
 *   helper-net keep PORT [ADDR]            accepts and keeps, forever
 *   helper-net connects ADDR PORT N        connect to first byte, N times; prints p50 and p99, us
 *   helper-net hold ADDR PORT N            opens N connections, holds them until its input ends
 */
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (256 * 1024)

static double now(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void fail(const char *what)
{
	perror(what);
	exit(1);
}

static int dial(const char *ip, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int s = socket(AF_INET, SOCK_STREAM, 0);
	if (s < 0 || inet_pton(AF_INET, ip, &a.sin_addr) != 1 ||
		connect(s, (struct sockaddr *)&a, sizeof(a)))
		fail("connect");
	return s;
}

static void *sink_one(void *arg)
{
	int s = (int)(intptr_t)arg;
	char *buf = malloc(CHUNK);
	uint64_t left = 0;
	ssize_t n;
	if (recv(s, &left, sizeof(left), MSG_WAITALL) != sizeof(left))
		left = 0;
	while (buf && left && (n = read(s, buf, CHUNK)) > 0)
		left -= (uint64_t)n < left ? (uint64_t)n : left;
	if (write(s, "k", 1) != 1)
		perror("write");
	free(buf);
	close(s);
	return NULL;
}

enum answer { ANSWER_SINK, ANSWER_GREET, ANSWER_KEEP };

static void many_files(void)
{
	struct rlimit r;
	if (getrlimit(RLIMIT_NOFILE, &r))
		return;
	r.rlim_cur = r.rlim_max;
	if (setrlimit(RLIMIT_NOFILE, &r))
		perror("setrlimit");
}

static _Noreturn void serve(const char *port, const char *ip, enum answer answer)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};
	int one = 1, l = socket(AF_INET, SOCK_STREAM, 0);
	if (l < 0 || inet_pton(AF_INET, ip, &a.sin_addr) != 1)
		fail("socket");
	setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 4096))
		fail("listen");
	puts("ready");
	fflush(stdout);
	for (;;) {
		int s = accept(l, NULL, NULL);
		pthread_t t;
		if (s < 0)
			fail("accept");
		if (answer == ANSWER_KEEP)
			continue;
		if (answer == ANSWER_GREET) {
			if (write(s, "g", 1) != 1)
				perror("write");
			close(s);
		} else if (pthread_create(&t, NULL, sink_one, (void *)(intptr_t)s) ||
			   pthread_detach(t)) {
			fail("thread");
		}
	}
}

static int source(const char *ip, const char *port, uint64_t bytes)
{
	char *buf = calloc(1, CHUNK), b;
	double t = now();
	int s = dial(ip, port);
	if (write(s, &bytes, sizeof(bytes)) != sizeof(bytes))
		fail("write");
	for (uint64_t left = bytes; buf && left;) {
		ssize_t n = write(s, buf, left < CHUNK ? left : CHUNK);
		if (n < 0)
			fail("write");
		left -= (uint64_t)n;
	}
	if (read(s, &b, 1) != 1)
		fail("read");
	printf("%.6f\n", now() - t);
	free(buf);
	return 0;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

static int connects(const char *ip, const char *port, size_t n)
{
	double *us = calloc(n, sizeof(*us));
	for (size_t i = 0; us && i < n; i++) {
		char b;
		double t = now();
		int s = dial(ip, port);
		if (read(s, &b, 1) != 1)
			fail("read");
		us[i] = (now() - t) * 1e6;
		close(s);
	}
	if (!us || !n)
		return 1;
	qsort(us, n, sizeof(*us), by_value);
	printf("%.1f %.1f\n", us[n / 2], us[n * 99 / 100]);
	free(us);
	return 0;
}

static int hold(const char *ip, const char *port, size_t n)
{
	many_files();
	for (size_t i = 0; i < n; i++)
		dial(ip, port);
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		;
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 3 && !strcmp(argv[1], "sink"))
		serve(argv[2], argc > 3 ? argv[3] : "127.0.0.1", ANSWER_SINK);
	if (argc >= 3 && !strcmp(argv[1], "greet"))
		serve(argv[2], argc > 3 ? argv[3] : "127.0.0.1", ANSWER_GREET);
	if (argc >= 3 && !strcmp(argv[1], "keep")) {
		many_files();
		serve(argv[2], argc > 3 ? argv[3] : "127.0.0.1", ANSWER_KEEP);
	}
	if (argc == 5 && !strcmp(argv[1], "source"))
		return source(argv[2], argv[3], strtoull(argv[4], NULL, 10));
	if (argc == 5 && !strcmp(argv[1], "connects"))
		return connects(argv[2], argv[3], strtoul(argv[4], NULL, 10));
	if (argc == 5 && !strcmp(argv[1], "hold"))
		return hold(argv[2], argv[3], strtoul(argv[4], NULL, 10));
	fprintf(stderr,
		"usage: helper-net sink|greet|keep|source|connects|hold … (see the source)\n");
	return 2;
}
