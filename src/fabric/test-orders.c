/*
 * The guard's orders as messages, inside the sandbox, against the kernel (test-inside.h).
 */
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

#include "fabric/test-inside.h"

static int order_revoke(uint32_t mark)
{
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricRevoke r = BELAY__FABRIC_REVOKE__INIT;
	m.body_case = BELAY__TO_FABRIC__BODY_REVOKE;
	m.revoke = &r;
	r.mark = mark;
	return ask(&m, -1)->m->error;
}

static int order_destroy(const char *a, const char *b)
{
	struct pb pa, pbb;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricDestroy d = BELAY__FABRIC_DESTROY__INIT;
	m.body_case = BELAY__TO_FABRIC__BODY_DESTROY;
	m.destroy = &d;
	d.a = pb(&pa, a);
	d.b = b ? pb(&pbb, b) : NULL;
	return ask(&m, -1)->m->error;
}

static void test_connect(void **state)
{
	(void)state;
	_cleanup_close_ int l = program_listen("0.0.0.0:80");
	_cleanup_close_ int c = program_socket(AF_INET, 0);
	assert_int_equal(order_connect(c, 5, 0, "0.0.0.0:80"), 0); /* means loopback */
	assert_int_equal(said[0].m->local->ip.data[0], 127);
	assert_true(said[0].m->inode);
	_cleanup_close_ int u = program_socket(AF_INET, BELAY__TRANSPORT__TRANSPORT_UDP);
	assert_int_equal(order_connect(u, 5, 0, "127.0.0.1:80"), -EPERM); /* not TCP */
	assert_int_equal(order_connect(u, 6, 1, "127.0.0.1:80"), 0);
	assert_int_equal(order_connect(u, 0, 1, "127.0.0.1:80"), -EINVAL);
	_cleanup_close_ int x = socket(AF_UNIX, SOCK_STREAM, 0);
	assert_int_equal(order_connect(x, 5, 0, "127.0.0.1:80"), -EPERM);
	assert_int_equal(order_revoke(5), 0);
	_cleanup_close_ int d = program_socket(AF_INET, 0);
	assert_int_equal(sock_mark(d, 5), 0);
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(80)};
	in.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
	assert_int_equal(connect(d, (void *)&in, sizeof(in)), -1);
	assert_int_equal(errno, ECONNREFUSED);
}

/* Not orders: the arrow ends. */
static void test_surprises(void **state)
{
	(void)state;
	struct pb p;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricConnect c = BELAY__FABRIC_CONNECT__INIT;
	assert_int_equal(order(&m, -1), -EBADMSG);
	m.body_case = BELAY__TO_FABRIC__BODY_CONNECT;
	m.connect = &c;
	c.destination = pb(&p, "127.0.0.1:1");
	assert_int_equal(order(&m, -1), -EBADMSG); /* no socket */
	_cleanup_close_ int fd = program_socket(AF_INET, 0);
	p.m.ip.len = 5;
	assert_int_equal(order(&m, fd), -EBADMSG);
	p.m.ip.len = 4;
	p.m.port = 65536;
	assert_int_equal(order(&m, fd), -EBADMSG);
	p.m.port = 1;
	c.transport = BELAY__TRANSPORT__TRANSPORT_UNIX;
	assert_int_equal(order(&m, fd), -EBADMSG);
	c.transport = 0;
	fabric_reset(&fabric);
	assert_int_equal(order(&m, fd), -EBADMSG); /* not configured */
	fabric.configured = true;
}

static void test_pair_stats_destroy(void **state)
{
	(void)state;
	struct pb a, b;
	char buf[1000] = {0}, at[2][ADDR_TEXT_MAX];
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricPair pair = BELAY__FABRIC_PAIR__INIT;
	_cleanup_close_ int fd = program_socket(AF_INET, 0);
	m.body_case = BELAY__TO_FABRIC__BODY_PAIR;
	m.pair = &pair;
	pair.remote = pb(&b, "203.0.113.4:443");
	struct said *r = ask(&m, fd);
	assert_int_equal(r->m->error, 0);
	assert_int_equal(r->n_fds, 1);
	/* Unbound: an address of this node. */
	assert_int_equal(fabric_addr_read(r->m->local, &a.a), 0);
	addr_format(&a.a, true, at[0]);
	addr_format(&b.a, true, at[1]);
	assert_int_equal(strncmp(at[0], "10.77.0.1:", 10), 0);
	_cleanup_close_ int peer = take_fd(&r->fds[0]);
	assert_int_equal(send(fd, buf, 900, 0), 900);
	assert_int_equal(send(peer, buf, 100, 0), 100);
	/* Singly, then by dump. */
	for (size_t n = 1; n <= 40; n += 39) {
		Belay__FabricFlow flow = BELAY__FABRIC_FLOW__INIT, *flows[40];
		Belay__FabricStats stats = BELAY__FABRIC_STATS__INIT;
		pb(&a, at[0]);
		flow.a = &a.m;
		flow.b = &b.m;
		for (size_t i = 0; i < n; i++)
			flows[i] = &flow;
		struct pb none;
		Belay__FabricFlow other = BELAY__FABRIC_FLOW__INIT;
		other.a = pb(&none, "1.2.3.4:5");
		other.b = &b.m;
		for (size_t i = 1; i < n; i++)
			flows[i] = &other;
		stats.flows = flows;
		stats.n_flows = n;
		m.body_case = BELAY__TO_FABRIC__BODY_STATS;
		m.stats = &stats;
		r = ask(&m, -1);
		assert_int_equal(r->m->n_flows, 1);
		assert_int_equal(r->m->flows[0]->bytes_a_to_b, 900);
		assert_int_equal(r->m->flows[0]->bytes_b_to_a, 100);
		assert_true(r->m->flows[0]->inode);
	}
	drain();
	assert_int_equal(order_destroy(at[0], at[1]), 0);
	/* What had arrived may be read; then the connection is no more. */
	(void)!recv(fd, buf, sizeof(buf), 0);
	assert_true(recv(fd, buf, sizeof(buf), 0) <= 0);
	assert_int_equal(send(fd, buf, 1, MSG_NOSIGNAL), -1);
	assert_int_equal(order_destroy(at[0], at[1]), -ENOENT);
	close(take_fd(&fd));
	close(take_fd(&peer));
	forget();
	size_t n = 0;
	while (n < 2) {
		wait_said(1);
		assert_true(said[0].m->id == 0);
		assert_true(said[0].m->n_closed > 0);
		for (size_t i = 0; i < said[0].m->n_closed; i++, n++) {
			const Belay__FabricClosed *c = said[0].m->closed[i];
			assert_false(c->listener);
			assert_int_equal(
				c->flow->bytes_a_to_b, c->flow->a->port != 443 ? 900 : 100);
		}
		forget();
	}
}

static void test_destroy_listener(void **state)
{
	(void)state;
	_cleanup_close_ int l = program_listen("127.0.0.1:8080");
	_cleanup_close_ int l2 = program_listen("127.0.0.2:8080");
	_cleanup_close_ int c = program_socket(AF_INET, 0);
	char byte;
	assert_int_equal(order_connect(c, 8, 0, "127.0.0.1:8080"), 0);
	drain();
	assert_int_equal(order_destroy("127.0.0.1:8080", NULL), 0);
	assert_int_equal(accept4(l, NULL, NULL, SOCK_CLOEXEC), -1);
	/* Whom nobody had accepted went with it; another's listener stays. */
	assert_true(recv(c, &byte, 1, 0) <= 0);
	_cleanup_close_ int d = program_socket(AF_INET, 0);
	assert_int_equal(order_connect(d, 9, 0, "127.0.0.2:8080"), 0);
	drain();
	close(take_fd(&l2));
	bool told = false;
	wait_said(1);
	for (size_t i = 0; i < n_said; i++)
		for (size_t k = 0; k < said[i].m->n_closed; k++)
			told = told || (said[i].m->closed[k]->listener &&
					       said[i].m->closed[k]->flow->a->port == 8080);
	assert_true(told);
}

static void test_dump(void **state)
{
	(void)state;
	int fds[450];
	size_t flows = 0, messages = 0;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricDump d = BELAY__FABRIC_DUMP__INIT;
	struct sock_facts f;
	for (int i = 0; i < 450; i++) {
		struct addr a = {.ip_len = 4, .ip = {127, 0, 0, 1}, .port = (uint16_t)(9000 + i)};
		fds[i] = sock_new(AF_INET, i & 1, true);
		assert_int_equal(sock_facts(fds[i], fabric.cookie, &f), 0);
		assert_int_equal(sock_bind(fds[i], &f, &a), 0);
		if (!f.udp)
			assert_int_equal(listen(fds[i], 1), 0);
	}
	drain();
	m.body_case = BELAY__TO_FABRIC__BODY_DUMP;
	m.dump = &d;
	assert_int_equal(order(&m, -1), 0);
	for (size_t i = 0; i < n_said; i++, messages++) {
		assert_int_equal(said[i].m->more, i + 1 < n_said);
		for (size_t k = 0; k < said[i].m->n_flows; k++) {
			const Belay__FabricFlow *x = said[i].m->flows[k];
			if (x->a->port < 9000 || x->a->port >= 9450)
				continue;
			assert_int_equal(x->transport, x->a->port & 1);
			assert_null(x->b);
			flows++;
		}
	}
	assert_int_equal(flows, 450);
	assert_true(messages >= 2);
	for (int i = 0; i < 450; i++)
		close(fds[i]);
	drain();
}

static void test_dial(void **state)
{
	(void)state;
	struct pb from, to;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricDial d = BELAY__FABRIC_DIAL__INIT;
	_cleanup_close_ int l = program_listen("0.0.0.0:8090");
	assert_int_equal(listen(l, 0), 0);
	m.body_case = BELAY__TO_FABRIC__BODY_DIAL;
	m.dial = &d;
	d.source = pb(&from, "192.0.2.9:1000");
	d.destination = pb(&to, "10.77.0.1:8090");
	struct said *r = ask(&m, -1);
	assert_int_equal(r->m->error, 0);
	assert_int_equal(r->n_fds, 1);
	assert_int_equal(r->m->local->port, 1000);
	/* The queue is full: answered when the program has accepted one. */
	forget();
	for (uint32_t i = 1; i <= 3; i++) {
		from.m.port = 1000 + i;
		assert_int_equal(order(&m, -1), 0);
	}
	assert_true(n_said < 3);
	assert_true(fabric.n_dials > 0);
	fcntl(l, F_SETFL, O_NONBLOCK);
	for (int i = 0; i < 400 && n_said < 3; i++) {
		int fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		if (fd >= 0)
			close(fd);
		uv_run(&loop, UV_RUN_NOWAIT);
		usleep(10000);
	}
	size_t done = 0;
	for (size_t i = 0; i < n_said; i++)
		done += said[i].m->id != 0 && said[i].m->error == 0;
	assert_int_equal(done, 3);
	assert_int_equal(fabric.n_dials, 0);
	drain();
}

static void test_udp_grant(void **state)
{
	(void)state;
	struct pb p;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricUdpGrant g = BELAY__FABRIC_UDP_GRANT__INIT;
	_cleanup_close_ int u = program_socket(AF_INET, BELAY__TRANSPORT__TRANSPORT_UDP);
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(7777)};
	in.sin_addr.s_addr = htonl(0x0a010101);
	m.body_case = BELAY__TO_FABRIC__BODY_UDP_GRANT;
	m.udp_grant = &g;
	g.mark = 77;
	g.destination = pb(&p, "10.1.1.1:7777");
	assert_int_equal(ask(&m, u)->m->error, 0);
	assert_int_equal(sendto(u, "x", 1, 0, (void *)&in, sizeof(in)), 1);
	in.sin_port = htons(7778);
	/* Elsewhere: told of once, and lost; then an error. */
	ssize_t first = sendto(u, "x", 1, 0, (void *)&in, sizeof(in));
	assert_true(first == 1 || errno == EPERM);
	assert_int_equal(sendto(u, "x", 1, 0, (void *)&in, sizeof(in)), -1);
	assert_int_equal(errno, EPERM);
}

/* More ends than the queue holds: said, and what comes after is heard again. */
static void test_overrun(void **state)
{
	(void)state;
	int small = 2048, big = 8 << 20, fd = netlink_fd(&fabric.diag.events);
	bool overrun = false;
	drain();
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)), 0);
	int l = program_listen("127.0.0.1:8100");
	for (int i = 0; i < 50; i++)
		close(program_listen("127.0.0.2:8101"));
	for (int i = 0; i < 200 && !overrun; i++) {
		uv_run(&loop, UV_RUN_NOWAIT);
		for (size_t k = 0; k < n_said; k++)
			overrun = overrun || said[k].m->overrun;
		forget();
		usleep(5000);
		close(program_listen("127.0.0.2:8101"));
	}
	assert_true(overrun);
	assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &big, sizeof(big)), 0);
	drain();
	close(l);
	wait_said(1);
	assert_int_equal(said[0].m->n_closed, 1);
	assert_int_equal(said[0].m->closed[0]->flow->a->port, 8100);
}

/* ---- measured ---- */

enum { MEASURED = 200 };

static double per_us(uint64_t start)
{
	return (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1000.0 / MEASURED;
}

static double measure(Belay__ToFabric *m, bool socket, uint32_t *vary)
{
	int fds[MEASURED];
	for (int i = 0; i < MEASURED; i++)
		fds[i] = socket ? sock_new(AF_INET, false, false) : -1;
	forget();
	uint64_t t = clock_ns(CLOCK_MONOTONIC);
	for (int i = 0; i < MEASURED; i++) {
		*vary += 1;
		assert_int_equal(order(m, fds[i]), 0);
	}
	double us = per_us(t);
	for (int i = 0; i < MEASURED; i++) {
		assert_int_equal(said[i].m->error, 0);
		if (fds[i] >= 0)
			close(fds[i]);
	}
	drain();
	return us;
}

static void test_measure(void **state)
{
	(void)state;
	struct pb to, from;
	uint32_t mark = 5000, none = 0;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__FabricConnect c = BELAY__FABRIC_CONNECT__INIT;
	Belay__FabricPair pair = BELAY__FABRIC_PAIR__INIT;
	Belay__FabricDial d = BELAY__FABRIC_DIAL__INIT;
	_cleanup_close_ int l = program_listen("0.0.0.0:8200");
	assert_int_equal(listen(l, 4000), 0);
	m.body_case = BELAY__TO_FABRIC__BODY_CONNECT;
	m.connect = &c;
	c.destination = pb(&to, "127.0.0.1:8200");
	c.mark = mark;
	double fresh = measure(&m, true, &c.mark);
	double again = measure(&m, true, &none);
	m.body_case = BELAY__TO_FABRIC__BODY_PAIR;
	m.pair = &pair;
	pair.remote = pb(&from, "203.0.113.1:80");
	double paired = measure(&m, true, &none);
	m.body_case = BELAY__TO_FABRIC__BODY_DIAL;
	m.dial = &d;
	d.source = pb(&from, "192.0.2.1:30000");
	d.destination = pb(&to, "127.0.0.1:8200");
	double dialled = measure(&m, false, &from.m.port);
	printf("# us an order: connect %.1f, with a new grant %.1f, pair %.1f, dial %.1f\n", again,
		fresh, paired, dialled);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_connect),
		cmocka_unit_test(test_surprises),
		cmocka_unit_test(test_pair_stats_destroy),
		cmocka_unit_test(test_destroy_listener),
		cmocka_unit_test(test_dump),
		cmocka_unit_test(test_dial),
		cmocka_unit_test(test_udp_grant),
		cmocka_unit_test(test_overrun),
		cmocka_unit_test(test_measure),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, inside_setup, NULL);
}
