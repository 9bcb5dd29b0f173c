/*
 * The fabric against the kernel: namespaces, packet filter, sockets (test-kernel.h).
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

static void test_grants_tcp(void **state)
{
	(void)state;
	_cleanup_close_ int l = listen_at("0.0.0.0:6379", false);
	_cleanup_close_ int l2 = listen_at("0.0.0.0:6380", false);
	assert_int_equal(connect_new(0, "127.0.0.1:6379"), -ECONNREFUSED);
	assert_int_equal(grant(7, false, "127.0.0.1:6379"), 0);
	assert_int_equal(connect_new(7, "127.0.0.1:6379"), 0);
	assert_int_equal(connect_new(8, "127.0.0.1:6379"), -ECONNREFUSED);
	assert_int_equal(connect_new(7, "127.0.0.1:6380"), -ECONNREFUSED);
	assert_int_equal(connect_new(7, "127.0.0.2:6379"), -ECONNREFUSED);
	assert_int_equal(grant(0, false, "127.0.0.1:6379"), -EINVAL);
	assert_int_equal(grant(NFT_MARK_OWN, false, "127.0.0.1:6379"), -EINVAL);
	struct nft_grant g = {.mark = 7};
	assert_int_equal(grants_revoke(&grants, &g), 0);
	assert_int_equal(connect_new(7, "127.0.0.1:6379"), -ECONNREFUSED);
}

static void test_grants_v6(void **state)
{
	(void)state;
	if (!have_v6) {
		printf("# this kernel has no IPv6\n");
		skip();
	}
	_cleanup_close_ int l = listen_at("[::]:6379", false);
	assert_int_equal(grant(9, false, "[2001:db8::5]:6379"), 0);
	assert_int_equal(connect_new(9, "[2001:db8::5]:6379"), 0);
	assert_int_equal(connect_new(9, "[2001:db8::6]:6379"), -ECONNREFUSED);
	/* On the wire a mapped address is IPv4, and so is its grant. */
	_cleanup_close_ int fd = sock_new(AF_INET6, false, false);
	assert_int_equal(grant(10, false, "10.1.2.3:6379"), 0);
	assert_int_equal(try_connect(fd, 10, "10.1.2.3:6379"), 0);
}

/* No grant: the first of a flow in a second is told of and lost, the next an error. Nothing
 * arrives. */
static void no_way(int fd, const struct sockaddr_storage *to, socklen_t len)
{
	ssize_t first = sendto(fd, "no", 2, 0, (const void *)to, len);
	assert_true(first == 2 || errno == EPERM);
	assert_int_equal(sendto(fd, "no", 2, 0, (const void *)to, len), -1);
	assert_int_equal(errno, EPERM);
}

static uint16_t from_port(int fd)
{
	struct addr a;
	assert_int_equal(sock_local(fd, &a), 0);
	return a.port;
}

static void heard_nothing(int fd)
{
	char buf[16];
	assert_int_equal(recv(fd, buf, sizeof(buf), MSG_DONTWAIT), -1);
	assert_int_equal(errno, EAGAIN);
}

static void test_udp(void **state)
{
	(void)state;
	char buf[16];
	_cleanup_close_ int server = listen_at("127.0.0.1:5300", true);
	_cleanup_close_ int other = listen_at("127.0.0.1:5301", true);
	_cleanup_close_ int client = listen_at("127.0.0.1:0", true);
	struct sockaddr_storage to, wrong, from;
	socklen_t len, from_len = sizeof(from);
	struct addr a = at("127.0.0.1:5300"), b = at("127.0.0.1:5301");
	assert_int_equal(addr_to_sockaddr(&a, AF_INET, &to, &len), 0);
	assert_int_equal(addr_to_sockaddr(&b, AF_INET, &wrong, &len), 0);
	no_way(client, &to, len);
	assert_int_equal(grant(20, true, "127.0.0.1:5300"), 0);
	no_way(client, &to, len);
	assert_int_equal(sock_mark(client, 20), 0);
	assert_int_equal(sendto(client, "x", 1, 0, (void *)&to, len), 1);
	/* The marked socket reaches that destination only. */
	no_way(client, &wrong, len);
	assert_int_equal(recvfrom(server, buf, sizeof(buf), 0, (void *)&from, &from_len), 1);
	/* Who was asked may answer; who was not may not. */
	assert_int_equal(sendto(server, "y", 1, 0, (void *)&from, from_len), 1);
	assert_int_equal(recv(client, buf, sizeof(buf), 0), 1);
	no_way(other, &from, from_len);
	/* Revoked: neither asks nor answers any more. */
	struct nft_grant g = {.mark = 20, .udp = true};
	assert_int_equal(grants_revoke(&grants, &g), 0);
	no_way(client, &to, len);
	no_way(server, &from, from_len);
	heard_nothing(server);
	heard_nothing(other);
	heard_nothing(client);
	/* A channel's grant is its socket's own: another with the same mark has none. */
	struct nft_grant own = {
		.mark = 20, .udp = true, .from = from_port(client), .destination = a};
	_cleanup_close_ int second = listen_at("127.0.0.1:0", true);
	assert_int_equal(sock_mark(second, 20), 0);
	assert_int_equal(grants_add(&grants, &own, 0), 0);
	assert_int_equal(sendto(client, "x", 1, 0, (void *)&to, len), 1);
	assert_int_equal(recv(server, buf, sizeof(buf), 0), 1);
	no_way(second, &to, len);
	assert_int_equal(grants_revoke(&grants, &own), 0);
	no_way(client, &to, len);
	heard_nothing(server);
	/* A closed port's ICMP error reaches a connected socket. */
	_cleanup_close_ int lone = sock_new(AF_INET, true, false);
	assert_int_equal(grant(21, true, "127.0.0.1:5399"), 0);
	assert_int_equal(try_connect(lone, 21, "127.0.0.1:5399"), 0);
	assert_int_equal(send(lone, "x", 1, 0), 1);
	assert_int_equal(send(lone, "x", 1, 0), -1);
	assert_int_equal(errno, ECONNREFUSED);
}

/* Ways to open a connection that do not go through connect(2), and MPTCP. */
static void test_bypasses(void **state)
{
	(void)state;
	_cleanup_close_ int l = listen_at("127.0.0.1:6381", false);
	struct sockaddr_storage to;
	socklen_t len;
	struct addr a = at("127.0.0.1:6381"), from = at("127.0.0.1:0");
	assert_int_equal(addr_to_sockaddr(&a, AF_INET, &to, &len), 0);
	_cleanup_close_ int fast = sock_new(AF_INET, false, false);
	assert_int_equal(sendto(fast, "x", 1, MSG_FASTOPEN, (void *)&to, len), -1);
	_cleanup_close_ int mptcp = socket(AF_INET, SOCK_STREAM, 262);
	if (mptcp >= 0)
		assert_int_equal(connect(mptcp, (void *)&to, len), -1);
	/* Simultaneous open: two sockets that call each other. */
	_cleanup_close_ int s = listen_at("127.0.0.1:6382", true);
	assert_int_equal(grant(30, false, "127.0.0.1:6381"), 0);
	_cleanup_close_ int marked = sock_new(AF_INET, false, false);
	assert_int_equal(try_connect(marked, 30, "127.0.0.1:6381"), 0);
	/* Dissolved and used again for somewhere else: the mark does not go along. */
	struct sockaddr un = {.sa_family = AF_UNSPEC};
	assert_int_equal(connect(marked, &un, sizeof(un)), 0);
	struct addr b = at("127.0.0.1:6379");
	_cleanup_close_ int l2 = listen_at("127.0.0.1:6379", false);
	assert_int_equal(addr_to_sockaddr(&b, AF_INET, &to, &len), 0);
	assert_int_equal(connect(marked, (void *)&to, len), -1);
	assert_int_equal(errno, ECONNREFUSED);
	(void)from;
}

/* What a program may bind by itself, without a capability here: what the kernel gives out, nothing
 * below. */
static void test_native_bind(void **state)
{
	(void)state;
	int status = -1;
	pid_t pid = fork();
	if (pid == 0) {
		struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
		struct __user_cap_data_struct d[2] = {0};
		struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(6379)};
		int a = socket(AF_INET, SOCK_STREAM, 0), b = socket(AF_INET6, SOCK_STREAM, 0);
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(32767)};
		if (syscall(SYS_capset, &h, d) < 0)
			_exit(9);
		bool refused = bind(a, (void *)&in, sizeof(in)) < 0 && errno == EACCES &&
			       bind(b, (void *)&in6, sizeof(in6)) < 0 && errno == EACCES;
		in.sin_port = 0;
		_exit(refused && bind(a, (void *)&in, sizeof(in)) == 0 ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void test_foreign_socket(void **state)
{
	(void)state;
	struct sock_facts f;
	_cleanup_close_ int u = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(sock_facts(u, cookie, &f), -EPERM);
	_cleanup_close_ int t = sock_new(AF_INET, false, false);
	assert_int_equal(sock_facts(t, cookie + 1, &f), -EPERM);
	assert_int_equal(sock_facts(0, cookie, &f), -EPERM);
}

static void test_connect_states(void **state)
{
	(void)state;
	_cleanup_close_ int l = listen_at("127.0.0.1:6383", false);
	assert_int_equal(grant(40, false, "127.0.0.1:6383"), 0);
	assert_int_equal(grant(41, false, "127.0.0.1:6384"), 0);
	/* A non-blocking program that connects until it is told that it is. */
	_cleanup_close_ int n = sock_new(AF_INET, false, true);
	struct pollfd p = {.fd = n, .events = POLLOUT};
	assert_int_equal(try_connect(n, 40, "127.0.0.1:6383"), -EINPROGRESS);
	assert_int_equal(poll(&p, 1, 1000), 1);
	assert_int_equal(try_connect(n, 40, "127.0.0.1:6383"), 0);
	assert_int_equal(try_connect(n, 40, "127.0.0.1:6383"), -EISCONN);
	assert_true(fcntl(n, F_GETFL) & O_NONBLOCK);
	/* A blocking one is answered at once, and stays blocking. */
	_cleanup_close_ int b = sock_new(AF_INET, false, false);
	assert_int_equal(try_connect(b, 40, "127.0.0.1:6383"), 0);
	assert_false(fcntl(b, F_GETFL) & O_NONBLOCK);
	assert_int_equal(try_connect(b, 40, "127.0.0.1:6383"), -EISCONN);
	/* Refused: a blocking one at once; it may try again. */
	_cleanup_close_ int r = sock_new(AF_INET, false, false);
	assert_int_equal(try_connect(r, 41, "127.0.0.1:6384"), -ECONNREFUSED);
	assert_int_equal(try_connect(r, 40, "127.0.0.1:6383"), 0);
	/* A listener. */
	assert_int_equal(try_connect(l, 40, "127.0.0.1:6383"), -EISCONN);
	/* An IPv6 name on an IPv4 socket. */
	_cleanup_close_ int v = sock_new(AF_INET, false, false);
	assert_int_equal(try_connect(v, 40, "[::1]:6383"), -EAFNOSUPPORT);
	/* Dissolved, the mark is gone. */
	int mark = -1;
	socklen_t len = sizeof(mark);
	assert_int_equal(sock_disconnect(b), 0);
	assert_int_equal(getsockopt(b, SOL_SOCKET, SO_MARK, &mark, &len), 0);
	assert_int_equal(mark, 0);
	/* A full listener does not block us. */
	_cleanup_close_ int full = listen_at("127.0.0.1:6385", false);
	assert_int_equal(listen(full, 0), 0);
	assert_int_equal(grant(42, false, "127.0.0.1:6385"), 0);
	int fds[8], last = 0;
	uint64_t start = clock_mono_ms();
	for (int i = 0; i < 8; i++) {
		fds[i] = sock_new(AF_INET, false, false);
		last = try_connect(fds[i], 42, "127.0.0.1:6385");
	}
	assert_int_equal(last, -EINPROGRESS);
	assert_int_equal(try_connect(fds[7], 42, "127.0.0.1:6385"), -EINPROGRESS);
	assert_true(clock_mono_ms() - start < 500);
	for (int i = 0; i < 8; i++)
		close(fds[i]);
}

/* ---- dialing ---- */

static void test_dial(void **state)
{
	(void)state;
	struct addr from = at("192.0.2.77:51234"), to = at("10.77.0.2:6395"), name;
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	int result, mark = -1;
	_cleanup_close_ int wild = listen_at("0.0.0.0:51234", false);
	_cleanup_close_ int l = listen_at("0.0.0.0:6395", false);
	_cleanup_close_ int d = sock_dial(&from, &to, &result);
	assert_true(d >= 0);
	assert_int_equal(result, 0);
	_cleanup_close_ int s = accept(l, (void *)&sa, &len);
	assert_true(s >= 0);
	assert_int_equal(addr_from_sockaddr(&sa, len, &name), 0);
	assert_true(addr_equal(&name, &from));
	len = sizeof(mark);
	assert_int_equal(getsockopt(d, SOL_SOCKET, SO_MARK, &mark, &len), 0);
	assert_int_equal(mark, 0);
	/* The same name towards the same listener twice; nobody listening. */
	assert_int_equal(sock_dial(&from, &to, &result), -EADDRNOTAVAIL);
	to.port = 6396;
	assert_int_equal(sock_dial(&from, &to, &result), -ECONNREFUSED);
	/* It does not keep a server from the port either. */
	from = at("192.0.2.78:51235");
	to.port = 6395;
	_cleanup_close_ int d2 = sock_dial(&from, &to, &result);
	assert_true(d2 >= 0);
	_cleanup_close_ int later = listen_at("0.0.0.0:51235", false);
	/* And may come again soon after it went. */
	close(take_fd(&d));
	assert_int_equal(recv(s, &len, 1, 0), 0);
	close(take_fd(&s));
	usleep(1200 * 1000);
	from = at("192.0.2.77:51234");
	d = sock_dial(&from, &to, &result);
	assert_true(d >= 0);
}

/* ---- a successor ---- */

/*
 * A process that stayed outside: enters the namespaces it is given as a successor would, reloads
 * the filter, and says 'y' if that worked and the namespace is the one of the message's cookie.
 */
static int outside = -1;

static void outside_serve(int sock)
{
	uint64_t want = 0, got = 0;
	int fds[FDS_PASS_MAX];
	size_t n;
	struct error e = ERROR_INIT;
	struct nft filter = {0};
	bool v6;
	if (fds_recv(sock, &want, sizeof(want), fds, &n, 0) != sizeof(want) || n != 2)
		_exit(0);
	bool ok = ns_enter(fds[0], fds[1], &e) >= 0 && ns_configure(&v6, &e) >= 0 &&
		  nft_open(&filter, &e) >= 0 && ns_cookie(&got) >= 0 && got == want;
	if (!ok)
		fprintf(stderr, "# %s\n", e.text);
	(void)!send(sock, ok ? "y" : "n", 1, 0);
	_exit(0);
}

static int outside_start(void)
{
	int sv[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
		return -1;
	if (fork() == 0) {
		close(sv[0]);
		outside_serve(sv[1]);
	}
	close(sv[1]);
	outside = sv[0];
	return 0;
}

static void test_successor(void **state)
{
	(void)state;
#ifdef __SANITIZE_THREAD__
	printf("# ThreadSanitizer has a thread; only one thread alone may enter a namespace\n");
	skip();
#endif
	char buf[8];
	int fds[2] = {ns_user, ns_net};
	_cleanup_close_ int l = listen_at("127.0.0.1:6397", false);
	assert_int_equal(grant(60, false, "127.0.0.1:6397"), 0);
	_cleanup_close_ int c = sock_new(AF_INET, false, false);
	assert_int_equal(try_connect(c, 60, "127.0.0.1:6397"), 0);
	_cleanup_close_ int s = accept(l, NULL, NULL);
	int a;
	_cleanup_close_ int b = pair_new(NULL, "203.0.113.8:99", &a);
	_cleanup_close_ int own = a;
	assert_int_equal(fds_send(outside, &cookie, sizeof(cookie), fds, 2, 0), 0);
	assert_int_equal(recv(outside, buf, 1, 0), 1);
	assert_int_equal(buf[0], 'y');
	/* What was open flows on; what was granted is no more. */
	assert_int_equal(send(c, "flow", 4, 0), 4);
	assert_int_equal(recv(s, buf, sizeof(buf), 0), 4);
	check_talk(own, b);
	assert_int_equal(connect_new(60, "127.0.0.1:6397"), -ECONNREFUSED);
	assert_int_equal(grants_flush(&grants), 0);
	assert_int_equal(grant(60, false, "127.0.0.1:6397"), 0);
	assert_int_equal(connect_new(60, "127.0.0.1:6397"), 0);
}

/* ---- measured ---- */

static double per_us(uint64_t start, int n)
{
	return (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1000.0 / n;
}

static void test_measure(void **state)
{
	enum { N = 500 };
	(void)state;
	static int fds[N], peers[N];
	int result;
	_cleanup_close_ int l = listen_at("0.0.0.0:6398", false);
	assert_int_equal(listen(l, 2 * N), 0);
	struct nft_grant g = {.destination = at("127.0.0.1:6398")};
	uint64_t t = clock_ns(CLOCK_MONOTONIC);
	for (uint32_t i = 0; i < N; i++) {
		g.mark = 1000 + i;
		assert_int_equal(grants_add(&grants, &g, 0), 0);
	}
	printf("# grant, new: %.1f us", per_us(t, N));
	t = clock_ns(CLOCK_MONOTONIC);
	for (uint32_t i = 0; i < N; i++) {
		g.mark = 1000 + i;
		assert_int_equal(grants_add(&grants, &g, 0), 0);
	}
	printf("; installed: %.2f us\n", per_us(t, N));
	for (int i = 0; i < N; i++)
		fds[i] = sock_new(AF_INET, false, false);
	t = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < N; i++)
		assert_int_equal(try_connect(fds[i], 1000, "127.0.0.1:6398"), 0);
	printf("# connect: %.1f us", per_us(t, N));
	for (int i = 0; i < N; i++) {
		close(fds[i]);
		close(accept(l, NULL, NULL));
		fds[i] = sock_new(AF_INET, false, false);
	}
	struct sockaddr_storage sa;
	socklen_t len;
	assert_int_equal(addr_to_sockaddr(&g.destination, AF_INET, &sa, &len), 0);
	for (int i = 0; i < N; i++)
		assert_int_equal(sock_mark(fds[i], 1000), 0);
	t = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < N; i++)
		assert_int_equal(connect(fds[i], (void *)&sa, len), 0);
	printf(" (the system call alone %.1f us)\n", per_us(t, N));
	for (int i = 0; i < N; i++) {
		close(fds[i]);
		close(accept(l, NULL, NULL));
	}
	t = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < N; i++)
		peers[i] = pair_new("10.1.1.1:0", "203.0.113.1:80", &fds[i]);
	printf("# pair: %.1f us\n", per_us(t, N));
	for (int i = 0; i < N; i++) {
		close(fds[i]);
		close(peers[i]);
	}
	t = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < N; i++) {
		struct addr from = at("192.0.2.1:0");
		from.port = (uint16_t)(20000 + i);
		fds[i] = sock_dial(&from, &g.destination, &result);
		assert_true(fds[i] >= 0);
		assert_int_equal(result, 0);
	}
	printf("# dial: %.1f us\n", per_us(t, N));
	for (int i = 0; i < N; i++)
		close(fds[i]);
	t = clock_ns(CLOCK_MONOTONIC);
	assert_int_equal(grants_expire(&grants, GRANT_IDLE_MS), 0);
	printf("# grants expired: %.2f us each\n", per_us(t, N));
	g.mark = 1000;
	assert_int_equal(connect_new(1000, "127.0.0.1:6398"), -ECONNREFUSED);
}

static int setup(void **state)
{
	(void)state;
	return outside_start() < 0 ? -1 : kernel_setup();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grants_tcp),
		cmocka_unit_test(test_grants_v6),
		cmocka_unit_test(test_udp),
		cmocka_unit_test(test_bypasses),
		cmocka_unit_test(test_native_bind),
		cmocka_unit_test(test_foreign_socket),
		cmocka_unit_test(test_connect_states),
		cmocka_unit_test(test_dial),
		cmocka_unit_test(test_successor),
		cmocka_unit_test(test_measure),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, NULL);
}
