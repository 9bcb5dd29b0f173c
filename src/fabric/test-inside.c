/* A fabric inside its sandbox, told what to do by the test (test-inside.h). */
#include "fabric/test-inside.h"

#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "base/addr.h"
#include "base/clock.h"
#include "fabric/fabric.h"
#include "fabric/ns.h"
#include "fabric/sock.h"
#include "ipc/ipc.h"
#include "sandbox/sandbox.h"

struct fabric fabric;
uv_loop_t loop;

struct said said[SAID_MAX];
size_t n_said;

static void hear(void *data, const Belay__FromFabric *m, const int *fds, size_t n_fds)
{
	static uint8_t buf[IPC_MSG_MAX];
	(void)data;
	assert_true(belay__from_fabric__get_packed_size(m) <= sizeof(buf));
	size_t len = belay__from_fabric__pack(m, buf);
	assert_true(n_said < SAID_MAX);
	struct said *s = &said[n_said++];
	s->m = ipc_unpack(&belay__from_fabric__descriptor, buf, len);
	assert_non_null(s->m);
	s->n_fds = n_fds;
	for (size_t i = 0; i < n_fds; i++)
		s->fds[i] = dup(fds[i]);
}

void forget(void)
{
	for (size_t i = 0; i < n_said; i++) {
		for (size_t k = 0; k < said[i].n_fds; k++)
			if (said[i].fds[k] >= 0)
				close(said[i].fds[k]);
		ipc_free(said[i].m);
	}
	n_said = 0;
}

static void turn(uv_timer_t *t)
{
	(void)t;
}

/* Runs the loop until `want` messages came or two seconds passed. */
void wait_said(size_t want)
{
	uv_timer_t t;
	uint64_t end = clock_mono_ms() + 2000;
	uv_timer_init(&loop, &t);
	uv_timer_start(&t, turn, 10, 10);
	while (n_said < want && clock_mono_ms() < end)
		uv_run(&loop, UV_RUN_ONCE);
	uv_close((uv_handle_t *)&t, NULL);
	uv_run(&loop, UV_RUN_NOWAIT);
	assert_true(n_said >= want);
}

/* ---- orders ---- */

Belay__Addr *pb(struct pb *p, const char *text)
{
	assert_int_equal(addr_parse(text, &p->a), 0);
	fabric_addr_write(&p->a, &p->m);
	return &p->m;
}

int order(Belay__ToFabric *m, int fd)
{
	static uint64_t id;
	int fds[1] = {fd};
	m->id = ++id;
	return fabric_order(&fabric, m, fds, fd >= 0 ? 1 : 0);
}

/* The one answer of an order that is answered at once. */
struct said *ask(Belay__ToFabric *m, int fd)
{
	forget();
	assert_int_equal(order(m, fd), 0);
	assert_int_equal(n_said, 1);
	assert_true(said[0].m->id == m->id);
	return &said[0];
}

int program_socket(uint32_t family, Belay__Transport t)
{
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricSockets s = BELAY__FABRIC_SOCKETS__INIT;
	m.body_case = BELAY__TO_FABRIC__BODY_SOCKETS;
	m.sockets = &s;
	s.family = family;
	s.transport = t;
	s.count = 3;
	struct said *r = ask(&m, -1);
	assert_int_equal(r->m->error, 0);
	assert_int_equal(r->n_fds, 3);
	return take_fd(&r->fds[1]);
}

int program_listen(const char *at)
{
	struct pb p;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricBind b = BELAY__FABRIC_BIND__INIT;
	Belay__FabricListen l = BELAY__FABRIC_LISTEN__INIT;
	int fd = program_socket(AF_INET, 0);
	m.body_case = BELAY__TO_FABRIC__BODY_BIND;
	m.bind = &b;
	b.address = pb(&p, at);
	struct said *r = ask(&m, fd);
	assert_int_equal(r->m->error, 0);
	assert_int_equal(r->m->local->port, p.a.port);
	assert_true(r->m->inode);
	m.body_case = BELAY__TO_FABRIC__BODY_LISTEN;
	m.listen = &l;
	l.backlog = 64;
	assert_int_equal(ask(&m, fd)->m->error, 0);
	return fd;
}

int order_connect(int fd, uint32_t mark, Belay__Transport t, const char *to)
{
	struct pb p;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricConnect c = BELAY__FABRIC_CONNECT__INIT;
	m.body_case = BELAY__TO_FABRIC__BODY_CONNECT;
	m.connect = &c;
	c.mark = mark;
	c.transport = t;
	c.destination = pb(&p, to);
	return ask(&m, fd)->m->error;
}

void drain(void)
{
	for (int i = 0; i < 20; i++) {
		uv_run(&loop, UV_RUN_NOWAIT);
		usleep(2000);
	}
	forget();
}

/* ---- DNS ---- */

static int resolver_udp = -1, resolver_tcp = -1;
char resolver_at[ADDR_TEXT_MAX];

/* Answers every question with the question; names that begin with 'l' with a forgery before. */
static void *resolver(void *arg)
{
	uint8_t buf[2048];
	(void)arg;
	for (;;) {
		struct sockaddr_in from;
		socklen_t len = sizeof(from);
		ssize_t n = recvfrom(resolver_udp, buf, sizeof(buf), 0, (void *)&from, &len);
		if (n < DNS_HEADER)
			return NULL;
		buf[2] |= 0x80;
		if (buf[13] == 'l') {
			buf[0] ^= 1;
			(void)!sendto(resolver_udp, buf, (size_t)n, 0, (void *)&from, len);
			buf[0] ^= 1;
		}
		size_t out = buf[13] == 'b' ? 1200 : (size_t)n;
		if (out > (size_t)n)
			memset(buf + n, 0, out - (size_t)n);
		(void)!sendto(resolver_udp, buf, out, 0, (void *)&from, len);
	}
}

static void *resolver_stream(void *arg)
{
	uint8_t buf[2048];
	(void)arg;
	for (;;) {
		int fd = accept4(resolver_tcp, NULL, NULL, SOCK_CLOEXEC);
		if (fd < 0)
			return NULL;
		ssize_t n = recv(fd, buf, sizeof(buf), 0);
		if (n > 4) {
			buf[4] |= 0x80;
			/* In two parts, as a network would. */
			(void)!send(fd, buf, 1, 0);
			usleep(1000);
			(void)!send(fd, buf + 1, (size_t)n - 1, 0);
		}
		close(fd);
	}
}

static void resolver_open(void)
{
	struct sockaddr_in in = {.sin_family = AF_INET};
	socklen_t len = sizeof(in);
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	resolver_udp = socket(AF_INET, SOCK_DGRAM, 0);
	resolver_tcp = socket(AF_INET, SOCK_STREAM, 0);
	assert_int_equal(bind(resolver_tcp, (void *)&in, sizeof(in)), 0);
	assert_int_equal(getsockname(resolver_tcp, (void *)&in, &len), 0);
	assert_int_equal(bind(resolver_udp, (void *)&in, sizeof(in)), 0);
	assert_int_equal(listen(resolver_tcp, 8), 0);
	snprintf(resolver_at, sizeof(resolver_at), "127.0.0.1:%u", ntohs(in.sin_port));
}

static int configure(void)
{
	struct pb own, r;
	Belay__Addr *addresses[1] = {pb(&own, "10.77.0.1:0")},
		    *resolvers[1] = {pb(&r, resolver_at)};
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricConfig c = BELAY__FABRIC_CONFIG__INIT;
	m.body_case = BELAY__TO_FABRIC__BODY_CONFIG;
	m.config = &c;
	c.addresses = addresses;
	c.n_addresses = 1;
	c.resolvers = resolvers;
	c.n_resolvers = 1;
	c.dns = true;
	int error = ask(&m, -1)->m->error;
	return error ? error : ask(&m, -1)->m->error;
}

/* ASan's leak check reads /proc at the end, which the sandbox closes. */
static int enter_sandbox(struct error *e)
{
#ifdef __SANITIZE_ADDRESS__
	(void)e;
	return 0;
#else
	return sandbox_enter(SANDBOX_FABRIC, NULL, e);
#endif
}

int inside_setup(void **state)
{
	(void)state;
	struct error e = ERROR_INIT;
	int user, net;
	bool v6;
	pthread_t t;
	resolver_open();
	dns_prepare(&fabric.dns);
	if (ns_create(&user, &net, &e) < 0) {
		printf("# skipped: %s\n", e.text);
		exit(77);
	}
	close(user);
	close(net);
	uv_loop_init(&loop);
	if (ns_configure(&v6, &e) < 0 || fabric_init(&fabric, &loop, hear, NULL, &e) < 0 ||
		pthread_create(&t, NULL, resolver, NULL) ||
		pthread_create(&t, NULL, resolver_stream, NULL) ||
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 || enter_sandbox(&e) < 0) {
		printf("# %s\n", e.text);
		return -1;
	}
	return configure();
}
