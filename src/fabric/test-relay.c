/*
 * The DNS relay, inside the sandbox, against a resolver outside (test-inside.h).
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

static const uint8_t query_short[] = "\x12\x34\x01\0\0\1\0\0\0\0\0\0\5short\0\0\1\0\1";

static ssize_t dns_ask(int fd, const uint8_t *q, size_t len, uint8_t *buf, size_t room)
{
	ssize_t n = -1;
	assert_int_equal(send(fd, q, len, 0), len);
	for (int i = 0; i < 200 && n < 0; i++) {
		uv_run(&loop, UV_RUN_NOWAIT);
		usleep(2000);
		n = recv(fd, buf, room, MSG_DONTWAIT);
	}
	return n;
}

static void test_dns_udp(void **state)
{
	(void)state;
	uint8_t buf[2048], q[sizeof(query_short)];
	size_t len = sizeof(query_short) - 1;
	_cleanup_close_ int u = program_socket(AF_INET, BELAY__TRANSPORT__TRANSPORT_UDP);
	assert_int_equal(order_connect(u, 90, 1, RELAY_AT), 0);
	memcpy(q, query_short, sizeof(q));
	assert_int_equal(dns_ask(u, q, len, buf, sizeof(buf)), len);
	assert_memory_equal(buf, "\x12\x34\x81\0", 4);
	q[13] = 'l'; /* a forgery comes first */
	assert_int_equal(dns_ask(u, q, len, buf, sizeof(buf)), len);
	assert_memory_equal(buf, "\x12\x34\x81\0", 4);
	q[13] = 'b'; /* too big for who says nothing of sizes */
	assert_int_equal(dns_ask(u, q, len, buf, sizeof(buf)), len);
	assert_int_equal(buf[2] & 2, 2);
	q[len - 3] = 16; /* TXT */
	assert_int_equal(dns_ask(u, q, len, buf, sizeof(buf)), len);
	assert_int_equal(buf[3] & 15, DNS_NOTIMP);
	/* More than there are slots, one after another: every slot is used again. */
	memcpy(q, query_short, sizeof(q));
	for (int i = 0; i < 2 * DNS_SLOTS; i++)
		assert_int_equal(dns_ask(u, q, len, buf, sizeof(buf)), len);
}

static void test_dns_tcp(void **state)
{
	(void)state;
	uint8_t buf[2048], q[2 + sizeof(query_short)] = {0, sizeof(query_short) - 1};
	size_t len = sizeof(query_short) + 1;
	memcpy(q + 2, query_short, sizeof(query_short));
	for (int k = 0; k < 3; k++) {
		_cleanup_close_ int t = program_socket(AF_INET, 0);
		assert_int_equal(order_connect(t, 91, 0, RELAY_AT), 0);
		for (int i = 0; i < 6; i++) {
			assert_int_equal(dns_ask(t, q, len, buf, sizeof(buf)), len);
			assert_memory_equal(buf + 2, "\x12\x34\x81\0", 4);
		}
	}
	_cleanup_close_ int both = program_socket(AF_INET, 0);
	uint8_t two[2 * sizeof(q)];
	memcpy(two, q, len);
	memcpy(two + len, q, len);
	assert_int_equal(order_connect(both, 91, 0, RELAY_AT), 0);
	ssize_t got = dns_ask(both, two, 2 * len, buf, sizeof(buf));
	for (int i = 0; i < 200 && got < (ssize_t)(2 * len); i++) {
		uv_run(&loop, UV_RUN_NOWAIT);
		usleep(2000);
		ssize_t n = recv(both, buf + got, sizeof(buf) - (size_t)got, MSG_DONTWAIT);
		got += n > 0 ? n : 0;
	}
	assert_int_equal(got, 2 * len);
	_cleanup_close_ int t = program_socket(AF_INET, 0);
	assert_int_equal(order_connect(t, 91, 0, RELAY_AT), 0);
	q[0] = 0xff; /* not a query's length */
	assert_int_equal(dns_ask(t, q, len, buf, sizeof(buf)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_dns_udp),
		cmocka_unit_test(test_dns_tcp),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, inside_setup, NULL);
}
