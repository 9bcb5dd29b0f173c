/*
 * The data path alone, without guard or policy: two processes with an engine each, joined over
 * loopback. The first accepts on a port; each connection becomes a channel to the second, which
 * dials the target. A real client and server measure it:
 *
 *   bench-tunnel 16379 6379 & redis-benchmark -p 16379 …
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include "base/fds.h"
#include "conn/engine.h"

static struct {
	uv_loop_t loop;
	uv_poll_t listen, pipe;
	struct engine *engine;
	int listener, other; /* other: the numbers of channels, then their confirmation */
	struct sockaddr_in target;
	int waiting[65536];
	uint16_t next;
} bench;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static int listen_on(int port, int *ret_port)
{
	int on = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons((uint16_t)port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&a, len) < 0 || listen(fd, 1024) < 0 ||
		getsockname(fd, (struct sockaddr *)&a, &len) < 0)
		die("listen");
	*ret_port = ntohs(a.sin_port);
	return fd;
}

static void on_closed(
	void *data, const uint8_t id[FRAME_CHANNEL_LEN], const struct engine_result *r)
{
	(void)data, (void)id, (void)r;
}

static void on_down(void *data, const char *node, const char *why, bool tampered)
{
	(void)data, (void)tampered;
	fprintf(stderr, "%s: %s\n", node, why);
}

static void enter(uint16_t number, bool initiator, int fd)
{
	struct engine_channel c = {.node = initiator ? "second" : "first", .initiator = initiator};
	static uint32_t serial[65536];
	uint32_t again = serial[number]++;
	memcpy(c.id, &number, 2);
	memcpy(c.id + 4, &again, 4);
	memset(c.send.bytes, initiator ? 1 : 2, SECRET_LEN);
	memset(c.receive.bytes, initiator ? 2 : 1, SECRET_LEN);
	memcpy(c.send.bytes, c.id, 8);
	memcpy(c.receive.bytes, c.id, 8);
	int fds[2] = {fd, -1};
	int r = engine_channel_add(bench.engine, &c, fds);
	if (r < 0)
		fprintf(stderr, "channel: %s\n", strerror(-r));
}

/* First: the second has entered its side; second: the first has a program. */
static void on_pipe(uv_poll_t *p, int status, int events)
{
	(void)status, (void)events;
	uint16_t n[256];
	ssize_t got = read(bench.other, n, sizeof(n));
	if (got <= 0)
		exit(0);
	for (size_t i = 0; i < (size_t)got / 2; i++) {
		if (p->data) {
			enter(n[i], true, bench.waiting[n[i]]);
			continue;
		}
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (connect(fd, (struct sockaddr *)&bench.target, sizeof(bench.target)) < 0)
			die("target");
		enter(n[i], false, fd);
	}
	if (!p->data && write(bench.other, n, (size_t)got) != got)
		die("pipe");
}

static void on_listen(uv_poll_t *p, int status, int events)
{
	(void)status, (void)events;
	int fd;
	while ((fd = accept4(bench.listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
		if (!p->data) {
			engine_accept(bench.engine, fd);
			continue;
		}
		uint16_t n = bench.next++;
		bench.waiting[n] = fd;
		if (write(bench.other, &n, 2) != 2)
			die("pipe");
	}
}

static void serve(bool first, int listener, int other, int data_port)
{
	static const struct engine_ops ops = {.closed = on_closed, .data_down = on_down};
	static uint8_t secret[SECRET_LEN] = {42};
	bench.listener = listener;
	bench.other = other;
	if (uv_loop_init(&bench.loop) ||
		engine_new(&bench.loop, &ops, NULL, NULL, &bench.engine) < 0)
		die("engine");
	uv_poll_init(&bench.loop, &bench.listen, listener);
	uv_poll_init(&bench.loop, &bench.pipe, other);
	bench.listen.data = bench.pipe.data = first ? &bench : NULL;
	uv_poll_start(&bench.listen, UV_READABLE, on_listen);
	uv_poll_start(&bench.pipe, UV_READABLE, on_pipe);
	struct engine_peer p = {.node = first ? "second" : "first",
		.self = first ? "first" : "second",
		.secret = secret,
		.we_dial = first,
		.data = {.ip_len = 4, .ip = {127, 0, 0, 1}, .port = (uint16_t)data_port}};
	if (engine_peer_set(bench.engine, &p) < 0)
		die("peer");
	uv_run(&bench.loop, UV_RUN_DEFAULT);
}

int main(int argc, char **argv)
{
	if (argc != 3) {
		fprintf(stderr, "usage: bench-tunnel PORT TARGET-PORT\n");
		return 2;
	}
	struct rlimit l = {65536, 65536};
	if (getrlimit(RLIMIT_NOFILE, &l) == 0) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
	int port, data_port, pair[2];
	int listener = listen_on(atoi(argv[1]), &port), data = listen_on(0, &data_port);
	bench.target = (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = htons((uint16_t)atoi(argv[2])),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
		die("socketpair");
	pid_t pid = fork();
	if (pid == 0) {
		prctl(PR_SET_PDEATHSIG, 9);
		close(listener);
		close(pair[0]);
		serve(false, data, pair[1], data_port);
		return 0;
	}
	close(data);
	close(pair[1]);
	serve(true, listener, pair[0], data_port);
	return 0;
}
