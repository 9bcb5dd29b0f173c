/*
 * A hostile program tries one way round and says `PASS name` when it did not get through, `FAIL
 * name: how` and status 1 when it did, `SKIP name: why` and status 77 when the way is not there.
 * They run under `belay run`; HOSTILE_OPEN names a port policy lets them bind and connect to,
 * HOSTILE_SHUT one that it does not.
 */
#pragma once

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

static _Noreturn __attribute__((format(printf, 1, 2), unused)) void got_through(const char *f, ...)
{
	va_list ap;
	va_start(ap, f);
	printf("FAIL %s: ", program_invocation_short_name);
	vprintf(f, ap);
	printf("\n");
	va_end(ap);
	fflush(stdout);
	_exit(1);
}

static _Noreturn __attribute__((unused)) void held(void)
{
	printf("PASS %s\n", program_invocation_short_name);
	fflush(stdout);
	_exit(0);
}

static _Noreturn __attribute__((unused)) void skip(const char *why)
{
	printf("SKIP %s: %s\n", program_invocation_short_name, why);
	fflush(stdout);
	_exit(77);
}

/* The call must have failed with this. */
#define REFUSED(call, error)                                                        \
	do {                                                                        \
		errno = 0;                                                          \
		long r_ = (long)(call);                                             \
		if (r_ != -1 || errno != (error))                                   \
			got_through("%s gave %ld, %s", #call, r_, strerror(errno)); \
	} while (0)

static inline uint16_t port_of(const char *name, uint16_t otherwise)
{
	const char *v = getenv(name);
	return v ? (uint16_t)atoi(v) : otherwise;
}
#define PORT_OPEN port_of("HOSTILE_OPEN", 7701)
#define PORT_SHUT port_of("HOSTILE_SHUT", 7777)

static inline struct sockaddr_in local(uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static __attribute__((unused)) int listener(void)
{
	struct sockaddr_in a = local(PORT_OPEN);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 128) < 0) {
		printf("FAIL %s: cannot listen: %s\n", program_invocation_short_name,
			strerror(errno));
		exit(2);
	}
	return fd;
}

static __attribute__((unused)) int dial(int fd, uint16_t port)
{
	struct sockaddr_in a = local(port);
	return connect(fd, (struct sockaddr *)&a, sizeof(a));
}
