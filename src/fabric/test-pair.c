/*
 * Pairs and sock_diag against the kernel (test-kernel.h): names, options, ports, bytes, ends.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "fabric/test-kernel.h"

static void check_names(int a, int b, const char *local, const char *remote)
{
	struct addr an, bn, want = at(remote);
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	assert_int_equal(sock_local(b, &bn), 0);
	assert_true(addr_equal(&bn, &want));
	assert_int_equal(sock_local(a, &an), 0);
	want = at(local);
	assert_true(addr_same_ip(&an, &want));
	assert_true(an.port);
	assert_int_equal(getpeername(b, (void *)&sa, &len), 0);
	assert_int_equal(addr_from_sockaddr(&sa, len, &bn), 0);
	assert_true(addr_equal(&an, &bn));
}

static void test_pair(void **state)
{
	static const struct {
		const char *local, *remote, *name;
	} cases[] = {
		{NULL, "127.0.0.1:6379", "127.0.0.1"},
		{"10.9.9.9:0", "203.0.113.5:6379", "10.9.9.9"},
		{NULL, "203.0.113.5:80", "203.0.113.5"},
		{"[2001:db8::7]:0", "[2001:db8::1]:6379", "2001:db8::7"},
		{NULL, "[::1]:6379", "::1"},
	};
	(void)state;
	_cleanup_close_ int l = listen_at("0.0.0.0:6379", false); /* on the remote's name */
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		int a;
		if (strchr(cases[i].remote, '[') && !have_v6)
			continue;
		_cleanup_close_ int b = pair_new(cases[i].local, cases[i].remote, &a);
		check_names(a, b, cases[i].name, cases[i].remote);
		check_talk(a, b);
		close(a);
	}
	/* Nobody reached the listener. */
	struct pollfd p = {.fd = l, .events = POLLIN};
	assert_int_equal(poll(&p, 1, 0), 0);
}

static void test_pair_options(void **state)
{
	(void)state;
	struct sock_facts f;
	struct addr local = {0}, remote = at("198.51.100.7:443"), name;
	int one = 1, v = 0, b = -1;
	socklen_t len = sizeof(v);
	_cleanup_close_ int a = listen_at("10.1.1.1:40001", true);
	close(a);
	a = sock_new(AF_INET6, false, true); /* dual-stack socket, IPv4 destination */
	assert_int_equal(setsockopt(a, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)), 0);
	assert_int_equal(setsockopt(a, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
	assert_int_equal(setsockopt(a, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)), 0);
	assert_int_equal(sock_facts(a, cookie, &f), 0);
	struct addr own = at("10.1.1.1:40001");
	assert_int_equal(sock_bind(a, &f, &own), 0);
	assert_int_equal(sock_pair(a, &f, &local, &remote, &b), 0);
	_cleanup_close_ int peer = b;
	assert_int_equal(sock_local(a, &name), 0);
	assert_true(addr_equal(&name, &own));
	assert_int_equal(getsockopt(a, IPPROTO_TCP, TCP_NODELAY, &v, &len), 0);
	assert_int_equal(v, 1);
	assert_int_equal(getsockopt(a, SOL_SOCKET, SO_REUSEADDR, &v, &len), 0);
	assert_int_equal(v, 1);
	assert_true(fcntl(a, F_GETFL) & O_NONBLOCK);
	/* Again: the kernel's own answer. */
	assert_int_equal(sock_facts(a, cookie, &f), 0);
	assert_int_equal(sock_pair(a, &f, &local, &remote, &b), -EISCONN);
	assert_int_equal(b, -1);
	/* The other end does not keep a server from the port. */
	_cleanup_close_ int l = listen_at("0.0.0.0:443", false);
	/* A name already in use towards that peer: refused, and the socket usable after. */
	_cleanup_close_ int c = sock_new(AF_INET, false, false);
	assert_int_equal(sock_facts(c, cookie, &f), 0);
	assert_int_equal(sock_pair(c, &f, &local, &(struct addr){.ip_len = 16}, &b), -EAFNOSUPPORT);
	assert_int_equal(sock_pair(c, &f, &local, &remote, &b), 0);
	close(b);
}

static void set_ports(const char *range)
{
	_cleanup_close_ int fd = open("/proc/sys/net/ipv4/ip_local_port_range", O_WRONLY);
	assert_int_equal(fds_write_all(fd, range, strlen(range)), 0);
}

/* Of the ports the kernel tries first (even ones) all but one are taken at the other end: that is
 * found. */
static void test_pair_ports(void **state)
{
	(void)state;
	char c, local[ADDR_TEXT_MAX];
	struct addr name;
	int a, open[4], second = 1;
	set_ports("40000 40009");
	for (int i = 0; i < 4; i++) {
		struct addr own, none = {0}, remote = at("203.0.113.44:443");
		struct sock_facts f;
		int b = -1;
		snprintf(local, sizeof(local), "10.3.3.3:%d", 40000 + 2 * i);
		own = at(local);
		a = sock_new(AF_INET, false, false);
		assert_int_equal(sock_facts(a, cookie, &f), 0);
		assert_int_equal(sock_bind(a, &f, &own), 0);
		assert_int_equal(sock_pair(a, &f, &none, &remote, &b), 0);
		/* The closing end waits a second for the other's FIN, then is gone by itself. */
		assert_int_equal(
			setsockopt(a, IPPROTO_TCP, TCP_LINGER2, &second, sizeof(second)), 0);
		close(a);
		assert_int_equal(recv(b, &c, 1, MSG_DONTWAIT), 0);
		open[i] = b;
	}
	usleep(2200 * 1000);
	_cleanup_close_ int peer = pair_new("10.3.3.3:0", "203.0.113.44:443", &a);
	_cleanup_close_ int own = a;
	set_ports("32768 60999");
	for (int i = 0; i < 4; i++)
		close(open[i]);
	assert_int_equal(sock_local(own, &name), 0);
	assert_int_equal(name.port, 40008);
	check_talk(own, peer);
}

#define BULK (1ull << 30)

static void *bulk_send(void *arg)
{
	static char buf[1 << 18];
	int fd = *(int *)arg;
	for (uint64_t n = 0; n < BULK;) {
		ssize_t k = send(fd, buf, sizeof(buf), MSG_NOSIGNAL);
		if (k <= 0)
			break;
		n += (uint64_t)k;
	}
	return NULL;
}

static double bulk(int a, int b)
{
	static char buf[1 << 20];
	pthread_t t;
	uint64_t n = 0, start = clock_ns(CLOCK_MONOTONIC);
	assert_int_equal(pthread_create(&t, NULL, bulk_send, &a), 0);
	while (n < BULK) {
		ssize_t k = recv(b, buf, sizeof(buf), 0);
		assert_true(k > 0);
		n += (uint64_t)k;
	}
	pthread_join(t, NULL);
	return 1e9 / (double)(clock_ns(CLOCK_MONOTONIC) - start);
}

static void test_pair_bulk(void **state)
{
	(void)state;
	_cleanup_close_ int l = listen_at("127.0.0.1:6390", false);
	assert_int_equal(grant(50, false, "127.0.0.1:6390"), 0);
	_cleanup_close_ int c = sock_new(AF_INET, false, false);
	assert_int_equal(try_connect(c, 50, "127.0.0.1:6390"), 0);
	_cleanup_close_ int s = accept(l, NULL, NULL);
	int a;
	_cleanup_close_ int b = pair_new(NULL, "127.0.0.1:6391", &a);
	double plain = bulk(c, s), paired = bulk(a, b), back = bulk(b, a);
	printf("# bulk GiB/s: connection %.2f, pair %.2f, pair the other way %.2f\n", plain, paired,
		back);
	assert_true(paired > plain / 4);
	close(a);
}

/* ---- sock_diag ---- */

struct seen {
	int n;
	struct diag_sock v[16];
};

static int seen_add(const struct diag_sock *s, void *data)
{
	struct seen *seen = data;
	if (s->local.port && seen->n < 16)
		seen->v[seen->n++] = *s;
	return 0;
}

static void seen_events(struct seen *seen, int want)
{
	struct pollfd p = {.fd = netlink_fd(&diag.events), .events = POLLIN};
	while (seen->n < want && poll(&p, 1, 1000) == 1)
		assert_int_equal(diag_events(&diag, seen_add, seen), 0);
}

static void drain_events(void)
{
	struct seen s = {0};
	struct pollfd p = {.fd = netlink_fd(&diag.events), .events = POLLIN};
	while (poll(&p, 1, 100) == 1) {
		s.n = 0;
		(void)!diag_events(&diag, seen_add, &s);
	}
}

static void test_closed(void **state)
{
	(void)state;
	struct seen seen = {0};
	struct diag_sock d;
	char buf[4096] = {0};
	int a;
	drain_events();
	int l = listen_at("127.0.0.1:6392", false);
	int b = pair_new("10.1.1.1:0", "203.0.113.9:5432", &a);
	struct addr an, bn;
	assert_int_equal(sock_local(a, &an), 0);
	assert_int_equal(sock_local(b, &bn), 0);
	for (int i = 0; i < 100; i++)
		assert_int_equal(send(a, buf, 1000, 0), 1000);
	assert_int_equal(recv(b, buf, sizeof(buf), MSG_WAITALL), sizeof(buf));
	for (int i = 0; i < 95904 / 864; i++)
		assert_int_equal(recv(b, buf, 864, MSG_WAITALL), 864);
	assert_int_equal(send(b, buf, 777, 0), 777);
	assert_int_equal(recv(a, buf, sizeof(buf), 0), 777);
	assert_int_equal(diag_get(&diag, &an, &bn, &d), 0);
	assert_int_equal(d.sent, 100000);
	assert_int_equal(d.received, 777);
	assert_true(d.inode);
	assert_true(d.idle_ms < 2000);
	close(a);
	close(b);
	seen_events(&seen, 2);
	assert_int_equal(seen.n, 2);
	for (int i = 0; i < 2; i++) {
		bool is_a = addr_equal(&seen.v[i].local, &an);
		assert_true(addr_equal(&seen.v[i].peer, is_a ? &bn : &an));
		assert_int_equal(seen.v[i].sent, is_a ? 100000 : 777);
		assert_in_range(seen.v[i].received, is_a ? 777 : 100000, is_a ? 778 : 100001);
		assert_false(seen.v[i].udp);
	}
	close(l);
	seen.n = 0;
	seen_events(&seen, 1);
	struct addr name = at("127.0.0.1:6392");
	assert_int_equal(seen.n, 1);
	assert_true(addr_equal(&seen.v[0].local, &name));
	assert_int_equal(seen.v[0].peer.ip_len, 0);
	close(listen_at("127.0.0.1:6393", true));
	seen.n = 0;
	seen_events(&seen, 1);
	assert_int_equal(seen.n, 1);
	assert_true(seen.v[0].udp);
	assert_int_equal(seen.v[0].local.port, 6393);
}

static void test_diag_destroy(void **state)
{
	(void)state;
	struct diag_sock d;
	char c;
	int a;
	_cleanup_close_ int l = listen_at("0.0.0.0:6394", false);
	_cleanup_close_ int b = pair_new(NULL, "127.0.0.1:6394", &a);
	struct addr an, bn;
	assert_int_equal(sock_local(a, &an), 0);
	assert_int_equal(sock_local(b, &bn), 0);
	assert_int_equal(diag_get(&diag, &bn, &an, &d), 0);
	assert_int_equal(diag_destroy(&diag, &d), 0);
	assert_int_equal(recv(b, &c, 1, 0), -1);
	assert_int_equal(errno, ECONNABORTED);
	assert_int_equal(recv(a, &c, 1, 0), -1); /* reset, or destroyed by its own order */
	close(a);
	/* The connection is gone: the listener of that name is not taken for it. */
	assert_int_equal(diag_get(&diag, &bn, &an, &d), -ENOENT);
}

static int setup(void **state)
{
	(void)state;
	return kernel_setup();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_pair),
		cmocka_unit_test(test_pair_options),
		cmocka_unit_test(test_pair_ports),
		cmocka_unit_test(test_pair_bulk),
		cmocka_unit_test(test_closed),
		cmocka_unit_test(test_diag_destroy),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, NULL);
}
