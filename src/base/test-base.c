/* The ground floor: addresses, descriptors, digests, errors, lines of /proc. */
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/addr.h"
#include "base/crowd.h"
#include "base/error.h"
#include "base/fds.h"
#include "base/hex.h"
#include "base/proc.h"
#include "base/secret.h"

#include <cmocka.h>

static void test_addr_text(void **state)
{
	static const struct {
		const char *text, *back;
	} good[] = {{"1.2.3.4:5", "1.2.3.4:5"}, {"[::1]:65535", "[::1]:65535"},
		{"0.0.0.0:0", "0.0.0.0:0"}, {"[::ffff:10.0.0.1]:80", "10.0.0.1:80"},
		{"[2001:db8::1]:443", "[2001:db8::1]:443"}, {"127.0.0.1", "127.0.0.1:0"}};
	static const char *const bad[] = {"", ":", ":80", "1.2.3.4:", "1.2.3.4:65536", "1.2.3.4:-1",
		"1.2.3.4:5x", "1.2.3:5", "256.1.1.1:5", "[::1:5", "[::1]5", "[::1]:", "[1.2.3.4]:x",
		"localhost:80", " 1.2.3.4:5", "1.2.3.4 :5", "1.2.3.4:99999999999999999999"};
	struct addr a;
	char text[ADDR_TEXT_MAX];
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		if (addr_parse(good[i].text, &a) < 0)
			fail_msg("refused: %s", good[i].text);
		addr_format(&a, true, text);
		assert_string_equal(text, good[i].back);
	}
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (addr_parse(bad[i], &a) >= 0)
			fail_msg("accepted: %s", bad[i]);
}

static void test_addr_sockaddr(void **state)
{
	struct sockaddr_storage ss;
	struct addr a, b;
	socklen_t len;
	(void)state;
	assert_int_equal(addr_parse("10.1.2.3:80", &a), 0);
	assert_int_equal(addr_to_sockaddr(&a, AF_INET6, &ss, &len), 0);
	assert_int_equal(addr_from_sockaddr(&ss, len, &b), 0);
	assert_true(addr_equal(&a, &b)); /* mapped, and back */
	assert_int_equal(addr_from_sockaddr(&ss, sizeof(struct sockaddr_in6) - 5, &b), -EINVAL);
	ss.ss_family = AF_UNIX;
	assert_int_equal(addr_from_sockaddr(&ss, len, &b), -EAFNOSUPPORT);
	assert_int_equal(addr_from_sockaddr(&ss, 1, &b), -EINVAL);
}

static void test_addr_in(void **state)
{
	static const uint8_t net[] = {10, 1, 128, 0};
	struct addr a;
	(void)state;
	assert_int_equal(addr_parse("10.1.191.255:1", &a), 0);
	assert_true(addr_in(&a, net, 4, 18));
	assert_false(addr_in(&a, net, 4, 19));
	assert_true(addr_in(&a, net, 4, 0));
	assert_false(addr_in(&a, net, 16, 0));
	assert_int_equal(addr_parse("127.9.9.9:1", &a), 0);
	assert_true(addr_is_loopback(&a));
	assert_int_equal(addr_parse("[::]:1", &a), 0);
	assert_true(addr_is_any(&a));
}

static void test_hex(void **state)
{
	uint8_t in[2] = {0x0f, 0xa0}, out[2];
	char text[5], shorter[8] = "0fa";
	(void)state;
	hex_encode(in, 2, text);
	assert_string_equal(text, "0fa0");
	assert_int_equal(hex_decode("0FA0", out, 2), 0);
	assert_memory_equal(in, out, 2);
	assert_int_equal(hex_decode(shorter, out, 2), -1);
	assert_int_equal(hex_decode("0fa00", out, 2), -1);
	assert_int_equal(hex_decode("0fg0", out, 2), -1);
	assert_int_equal(hex_decode(shorter + 3, out, 2), -1);
}

static void test_error(void **state)
{
	struct error e = ERROR_INIT;
	char big[2 * ERROR_TEXT_MAX];
	(void)state;
	assert_int_equal(error_errno(&e, -ENOENT, "cannot open %s", "x"), -ENOENT);
	assert_string_equal(e.text, "cannot open x: No such file or directory");
	assert_int_equal(error_set(NULL, -EIO, "nobody asks"), -EIO);
	memset(big, 'a', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	error_errno(&e, -EIO, "%s", big);
	assert_int_equal(strlen(e.text), ERROR_TEXT_MAX - 1);
}

static void test_secret(void **state)
{
	uint8_t a[] = {1, 2, 3}, b[] = {1, 2, 3}, c[] = {1, 2, 2};
	(void)state;
	assert_true(secret_equal(a, b, 3));
	assert_false(secret_equal(a, c, 3));
	assert_true(secret_equal(a, c, 2));
	assert_true(secret_equal(a, c, 0));
}

static void test_proc(void **state)
{
	uint64_t t = 0, again = 0;
	uint32_t uids[4];
	(void)state;
	assert_int_equal(
		proc_stat_start_time(
			"7 (a) b) (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20\n",
			&t),
		0);
	assert_int_equal(t, 4242);
	assert_int_equal(proc_stat_start_time("", &t), -EBADMSG);
	assert_int_equal(proc_stat_start_time("7 (a) S 1 2 3", &t), -EBADMSG);
	assert_int_equal(
		proc_stat_start_time(
			"7 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 -1 20\n", &t),
		-EBADMSG);
	assert_int_equal(proc_stat_start_time("7 (a) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 "
					      "18 99999999999999999999999 20\n",
				 &t),
		-EBADMSG);
	assert_int_equal(proc_start_time(getpid(), &t), 0);
	assert_int_equal(proc_start_time(getpid(), &again), 0);
	assert_int_equal(t, again);
	assert_int_equal(proc_uids(getpid(), uids), 0);
	assert_int_equal(uids[1], geteuid());
	assert_int_equal(proc_status_uids("Name:\tx\nGid:\t1\t2\t3\t4\n", uids), -EBADMSG);
	assert_int_equal(proc_start_time(0x7fffffff, &t), -ENOENT);
}

static void test_memfd(void **state)
{
	const void *map;
	size_t len;
	(void)state;
	int fd = fds_memfd("test", "hello", 5);
	assert_true(fd >= 0);
	assert_int_equal(fds_map(fd, 5, &map, &len), 0);
	assert_int_equal(len, 5);
	assert_memory_equal(map, "hello", 5);
	munmap((void *)(uintptr_t)map, len);
	assert_int_equal(fds_map(fd, 4, &map, &len), -EFBIG);
	assert_int_equal(write(fd, "x", 1), -1);
	close(fd);
	fd = memfd_create("open", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	assert_int_equal(write(fd, "x", 1), 1);
	assert_int_equal(fds_map(fd, 5, &map, &len), -EPERM); /* unsealed */
	close(fd);
}

static void test_passing(void **state)
{
	int pair[2], fds[FDS_PASS_MAX + 1], got[FDS_PASS_MAX];
	char buf[4];
	size_t n;
	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair), 0);
	for (size_t i = 0; i <= FDS_PASS_MAX; i++)
		fds[i] = pair[0];
	assert_int_equal(fds_send(pair[0], "x", 1, fds, FDS_PASS_MAX + 1, 0), -EMSGSIZE);
	assert_int_equal(fds_send(pair[0], "x", 1, fds, 3, 0), 0);
	assert_int_equal(fds_recv(pair[1], buf, sizeof(buf), got, &n, 0), 1);
	assert_int_equal(n, 3);
	for (size_t i = 0; i < n; i++) {
		assert_true(fcntl(got[i], F_GETFD) & FD_CLOEXEC);
		close(got[i]);
	}
	/* Cut short: nothing of it is kept. */
	assert_int_equal(fds_send(pair[0], "hello", 5, fds, 2, 0), 0);
	assert_int_equal(fds_recv(pair[1], buf, sizeof(buf), got, &n, 0), -EMSGSIZE);
	assert_int_equal(n, 0);
	int next = dup(0);
	assert_int_equal(next, pair[1] + 1);
	close(next);
	close(pair[0]);
	assert_int_equal(fds_recv(pair[1], buf, sizeof(buf), got, &n, 0), 0);
	close(pair[1]);
}

static void test_read_file(void **state)
{
	char *text;
	size_t len;
	(void)state;
	assert_int_equal(fds_read_file(AT_FDCWD, "/proc/self/status", 1 << 20, &text, &len), 0);
	assert_int_equal(strlen(text), len);
	free(text);
	assert_int_equal(fds_read_file(AT_FDCWD, "/proc/self/status", 10, &text, &len), -EFBIG);
	assert_int_equal(fds_read_file(AT_FDCWD, "/nonexistent", 10, &text, &len), -ENOENT);
	int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	assert_int_equal(fds_pidfd_alive(pidfd), 1);
	close(pidfd);
}

static struct addr from(const char *text)
{
	struct addr a;
	assert_int_equal(addr_parse(text, &a), 0);
	return a;
}

static void test_crowd(void **state)
{
	(void)state;
	struct addr w[8], one = from("192.0.2.1:1"), other = from("192.0.2.2:1");
	for (size_t i = 0; i < ARRAY_LEN(w); i++)
		w[i] = from("192.0.2.1:5");
	/* Its own kind keeps it out, others do not; the oldest goes. */
	assert_int_equal(crowd_gives_way(w, ARRAY_LEN(w), &one), ARRAY_LEN(w));
	assert_int_equal(crowd_gives_way(w, ARRAY_LEN(w), &other), ARRAY_LEN(w) - 1);
	/* Half each: neither gains from the other. */
	for (size_t i = 0; i < ARRAY_LEN(w) / 2; i++)
		w[i] = other;
	assert_int_equal(crowd_gives_way(w, ARRAY_LEN(w), &one), ARRAY_LEN(w));
	assert_int_equal(crowd_gives_way(w, ARRAY_LEN(w), &other), ARRAY_LEN(w));
	/* One of a new network takes from the largest. */
	w[0] = from("[2001:db8::1]:1");
	struct addr near = from("[2001:db8::2]:1"), far = from("[2001:db8:0:1::1]:1");
	assert_true(crowd_same_source(&w[0], &near));
	assert_false(crowd_same_source(&w[0], &far));
	assert_int_equal(crowd_gives_way(w, ARRAY_LEN(w), &far), ARRAY_LEN(w) - 1);
	assert_int_equal(crowd_gives_way(w, 0, &far), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_addr_text),
		cmocka_unit_test(test_addr_sockaddr), cmocka_unit_test(test_addr_in),
		cmocka_unit_test(test_hex), cmocka_unit_test(test_error),
		cmocka_unit_test(test_secret), cmocka_unit_test(test_proc),
		cmocka_unit_test(test_memfd), cmocka_unit_test(test_passing),
		cmocka_unit_test(test_read_file), cmocka_unit_test(test_crowd)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
