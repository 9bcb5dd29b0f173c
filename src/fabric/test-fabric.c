/*
 * The fabric against the kernel: namespaces, packet filter, sockets, pairs, sock_diag. Makes
 * namespaces of its own, as root or as an ordinary user; where the host refuses user namespaces
 * every test is skipped.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include <cmocka.h>

#include "base/addr.h"
#include "base/clock.h"
#include "fabric/diag.h"
#include "fabric/grant.h"
#include "fabric/nft.h"
#include "fabric/ns.h"
#include "fabric/sock.h"

static struct nft nft;
static struct grants grants;
static struct diag diag;
static uint64_t cookie;
static int ns_user = -1, ns_net = -1;
static bool have_v6;

static struct addr at(const char *text)
{
	struct addr a;
	assert_int_equal(addr_parse(text, &a), 0);
	return a;
}

static int listen_at(const char *text, bool udp)
{
	struct addr a = at(text);
	int fd = sock_new(a.ip_len == 4 ? AF_INET : AF_INET6, udp, false);
	struct sock_facts f;
	int one = 1;
	assert_true(fd >= 0);
	assert_int_equal(sock_facts(fd, cookie, &f), 0);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)), 0);
	assert_int_equal(sock_bind(fd, &f, &a), 0);
	if (!udp)
		assert_int_equal(listen(fd, 64), 0);
	return fd;
}

static int grant(uint32_t mark, bool udp, const char *to)
{
	struct nft_grant g = {.mark = mark, .udp = udp, .destination = at(to)};
	return grants_add(&grants, &g, clock_mono_ms());
}

/* A program's connect as the fabric makes it, without granting anything. */
static int try_connect(int fd, uint32_t mark, const char *to)
{
	struct addr a = at(to);
	struct sock_facts f;
	assert_int_equal(sock_facts(fd, cookie, &f), 0);
	return sock_connect(fd, &f, mark, &a);
}

static int connect_new(uint32_t mark, const char *to)
{
	_cleanup_close_ int fd = sock_new(at(to).ip_len == 4 ? AF_INET : AF_INET6, false, false);
	return try_connect(fd, mark, to);
}

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
	if (!have_v6)
		skip();
	_cleanup_close_ int l = listen_at("[::]:6379", false);
	assert_int_equal(grant(9, false, "[2001:db8::5]:6379"), 0);
	assert_int_equal(connect_new(9, "[2001:db8::5]:6379"), 0);
	assert_int_equal(connect_new(9, "[2001:db8::6]:6379"), -ECONNREFUSED);
	/* On the wire a mapped address is IPv4, and so is its grant. */
	_cleanup_close_ int fd = sock_new(AF_INET6, false, false);
	assert_int_equal(grant(10, false, "10.1.2.3:6379"), 0);
	assert_int_equal(try_connect(fd, 10, "10.1.2.3:6379"), 0);
}

static int setup(void **state)
{
	(void)state;
	struct error e = ERROR_INIT;
	if (ns_create(&ns_user, &ns_net, &e) < 0) {
		printf("# skipped: %s\n", e.text);
		exit(77);
	}
	if (ns_configure(&have_v6, &e) < 0 || nft_open(&nft, &e) < 0) {
		printf("# %s\n", e.text);
		return -1;
	}
	return ns_cookie(&cookie) || grants_init(&grants, &nft) || diag_open(&diag);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_grants_tcp),
		cmocka_unit_test(test_grants_v6),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, NULL);
}
