/* The fabric's own namespaces for its tests (test-kernel.h). */
#include "fabric/test-kernel.h"

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

#include "base/addr.h"
#include "base/clock.h"
#include "base/fds.h"
#include "fabric/diag.h"
#include "fabric/grant.h"
#include "fabric/nft.h"
#include "fabric/ns.h"
#include "fabric/sock.h"

struct nft nft;
struct grants grants;
struct diag diag;
uint64_t cookie;
int ns_user = -1, ns_net = -1;
bool have_v6;

struct addr at(const char *text)
{
	struct addr a;
	assert_int_equal(addr_parse(text, &a), 0);
	return a;
}

int listen_at(const char *text, bool udp)
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

int grant(uint32_t mark, bool udp, const char *to)
{
	struct nft_grant g = {.mark = mark, .udp = udp, .destination = at(to)};
	return grants_add(&grants, &g, clock_mono_ms());
}

/* A program's connect as the fabric makes it, without granting anything. */
int try_connect(int fd, uint32_t mark, const char *to)
{
	struct addr a = at(to);
	struct sock_facts f;
	assert_int_equal(sock_facts(fd, cookie, &f), 0);
	return sock_connect(fd, &f, mark, &a);
}

int connect_new(uint32_t mark, const char *to)
{
	_cleanup_close_ int fd = sock_new(at(to).ip_len == 4 ? AF_INET : AF_INET6, false, false);
	return try_connect(fd, mark, to);
}

int pair_new(const char *local, const char *remote, int *ret_a)
{
	struct addr l = {0}, r = at(remote);
	struct sock_facts f;
	int b = -1;
	if (local)
		l = at(local);
	*ret_a = sock_new(r.ip_len == 4 ? AF_INET : AF_INET6, false, false);
	assert_int_equal(sock_facts(*ret_a, cookie, &f), 0);
	assert_int_equal(sock_pair(*ret_a, &f, &l, &r, &b), 0);
	assert_true(b >= 0);
	fcntl(b, F_SETFL, fcntl(b, F_GETFL) & ~O_NONBLOCK);
	return b;
}

void check_talk(int a, int b)
{
	char buf[16];
	assert_int_equal(send(a, "hello", 5, 0), 5);
	assert_int_equal(recv(b, buf, sizeof(buf), 0), 5);
	assert_int_equal(send(b, "world!", 6, 0), 6);
	assert_int_equal(recv(a, buf, sizeof(buf), 0), 6);
	assert_int_equal(shutdown(a, SHUT_WR), 0);
	assert_int_equal(recv(b, buf, sizeof(buf), 0), 0);
	assert_int_equal(send(b, "still", 5, 0), 5);
	assert_int_equal(recv(a, buf, sizeof(buf), 0), 5);
}

int kernel_setup(void)
{
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
