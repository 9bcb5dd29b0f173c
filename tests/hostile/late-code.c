/*
 * `serve`: takes one connection and keeps it. `hold LIBRARY`: connects, and when that stands loads
 * the library; the connection must end then. `keep`: the same without loading anything: it must
 * stay.
 */
#include "hostile.h"

#include <dlfcn.h>
#include <poll.h>

#define PATIENCE_MS 8000

static int ended(int fd, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char c;
	return poll(&p, 1, ms) == 1 && read(fd, &c, 1) <= 0;
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = local(PORT_OPEN);
	if (argc == 2 && !strcmp(argv[1], "serve")) {
		int l = listener();
		printf("listening\n");
		fflush(stdout);
		for (;;)
			(void)accept(l, NULL, NULL);
	}
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		got_through("cannot connect: %s", strerror(errno));
	if (argc == 2) { /* keep */
		if (ended(fd, 4000))
			got_through("a channel of a program that did nothing ended");
		held();
	}
	if (!dlopen(argv[2], RTLD_NOW))
		got_through("cannot load %s: %s", argv[2], dlerror());
	if (!ended(fd, PATIENCE_MS))
		got_through("the channel outlived the library");
	held();
}
