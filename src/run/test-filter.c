/* The filter's verdicts, by running its program over hand-made calls. */
#include <errno.h>
#include <linux/audit.h>
#include <linux/seccomp.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <cmocka.h>

#include "run/filter.h"

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif
#define NOTIFY SECCOMP_RET_USER_NOTIF
#define ALLOW SECCOMP_RET_ALLOW
#define FAIL(e) (SECCOMP_RET_ERRNO | (e))

static struct sock_filter code[FILTER_LEN_MAX];
static int code_len;

/* As much of a BPF machine as the filter uses. */
static uint32_t verdict_of(const struct seccomp_data *d)
{
	uint32_t a = 0;
	for (int pc = 0; pc < code_len; pc++) {
		const struct sock_filter *i = &code[pc];
		bool yes = false;
		switch (i->code) {
		case BPF_LD | BPF_W | BPF_ABS:
			memcpy(&a, (const char *)d + i->k, 4);
			continue;
		case BPF_ALU | BPF_AND | BPF_K:
			a &= i->k;
			continue;
		case BPF_RET | BPF_K:
			return i->k;
		case BPF_JMP | BPF_JEQ | BPF_K:
			yes = a == i->k;
			break;
		case BPF_JMP | BPF_JGT | BPF_K:
			yes = a > i->k;
			break;
		case BPF_JMP | BPF_JSET | BPF_K:
			yes = (a & i->k) != 0;
			break;
		default:
			fail_msg("instruction %#x", i->code);
		}
		pc += yes ? i->jt : i->jf;
	}
	fail_msg("ran off the end");
	return 0;
}

static uint32_t call(long nr, uint64_t a, uint64_t b, uint64_t c, uint64_t d, uint64_t e)
{
	return verdict_of(&(struct seccomp_data){(int)nr, ARCH, 0, {a, b, c, d, e, 0}});
}

static void test_sockets(void **state)
{
	(void)state;
	assert_int_equal(call(__NR_socket, AF_INET, SOCK_STREAM, 0, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_socket, AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 17, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_socket, AF_INET, SOCK_STREAM, 262, 0, 0), FAIL(EPROTONOSUPPORT));
	assert_int_equal(call(__NR_socket, AF_INET6, SOCK_RAW, 6, 0, 0), FAIL(EPERM));
	assert_int_equal(call(__NR_socket, AF_UNIX, SOCK_STREAM, 0, 0, 0), ALLOW);
	assert_int_equal(call(__NR_socket, AF_UNIX, SOCK_DGRAM, 0, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_socket, AF_UNIX, SOCK_RAW, 0, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_socket, AF_NETLINK, SOCK_RAW, 0, 0, 0), ALLOW);
	assert_int_equal(call(__NR_socket, AF_NETLINK, SOCK_RAW, 4, 0, 0), FAIL(EAFNOSUPPORT));
	assert_int_equal(call(__NR_socket, AF_PACKET, SOCK_RAW, 0, 0, 0), FAIL(EAFNOSUPPORT));
	assert_int_equal(call(__NR_socketpair, AF_UNIX, SOCK_DGRAM, 0, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_socketpair, AF_UNIX, SOCK_STREAM, 0, 0, 0), ALLOW);
}

/* The kernel looks at 32 bits of an int; rubbish above them must not change the verdict. */
static void test_high_bits(void **state)
{
	(void)state;
	uint64_t high = 0x100000000u;
	assert_int_equal(call(__NR_socket, high | AF_INET, high | SOCK_STREAM, high, 0, 0), NOTIFY);
	assert_int_equal(
		call(__NR_socket, high | AF_PACKET, SOCK_RAW, 0, 0, 0), FAIL(EAFNOSUPPORT));
	assert_int_equal(call(__NR_prctl, high | PR_SET_MM, 0, 0, 0, 0), FAIL(EPERM));
	assert_int_equal(call(__NR_sendto, 3, 0, 0, 0, high), NOTIFY);
}

static void test_data(void **state)
{
	(void)state;
	assert_int_equal(call(__NR_sendto, 3, 1, 1, 0, 0), ALLOW);
	assert_int_equal(call(__NR_sendto, 3, 1, 1, 0, 0x7f00), NOTIFY);
	assert_int_equal(call(__NR_sendto, 3, 1, 1, MSG_FASTOPEN, 1), FAIL(EOPNOTSUPP));
	assert_int_equal(call(__NR_sendmsg, 3, 1, MSG_FASTOPEN, 0, 0), FAIL(EOPNOTSUPP));
	assert_int_equal(call(__NR_sendmmsg, 3, 1, 1, MSG_FASTOPEN, 0), FAIL(EOPNOTSUPP));
	assert_int_equal(call(__NR_sendto, 1007, 1, 1, 0, 0), ALLOW);
	assert_int_equal(call(__NR_sendto, 1008, 1, 1, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_sendmsg, 1023, 1, 0, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_sendmsg, 1024, 1, 0, 0, 0), ALLOW);
	assert_int_equal(call(__NR_sendmmsg, 1016, 1, 1, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_read, 0, 0, 0, 0, 0), ALLOW);
	assert_int_equal(call(__NR_accept4, 0, 0, 0, 0, 0), ALLOW);
}

static void test_refused(void **state)
{
	(void)state;
	assert_int_equal(call(__NR_io_uring_setup, 0, 0, 0, 0, 0), FAIL(ENOSYS));
	assert_int_equal(call(__NR_clone3, 0, 0, 0, 0, 0), FAIL(ENOSYS));
	assert_int_equal(call(__NR_clone, 0x10000000, 0, 0, 0, 0), FAIL(EPERM));
	assert_int_equal(call(__NR_clone, 0x3d0f00, 0, 0, 0, 0), ALLOW);
	assert_int_equal(call(__NR_unshare, 0x80, 0, 0, 0, 0), FAIL(EPERM));
	assert_int_equal(call(__NR_unshare, 0x400, 0, 0, 0, 0), ALLOW);
	assert_int_equal(call(__NR_mknodat, 0, 0, S_IFIFO | 0600, 0, 0), NOTIFY);
	assert_int_equal(call(__NR_mknodat, 0, 0, S_IFREG | 0600, 0, 0), ALLOW);
	assert_int_equal(call(__NR_ioctl, 0, 0x5412, 0, 0, 0), FAIL(EPERM));
	assert_int_equal(call(100000, 0, 0, 0, 0, 0), FAIL(ENOSYS));
	assert_int_equal(call(0x40000000 | __NR_connect, 0, 0, 0, 0, 0), FAIL(ENOSYS));
	struct seccomp_data old = {102, AUDIT_ARCH_I386, 0, {0}};
	assert_int_equal(verdict_of(&old), FAIL(ENOSYS));
}

int main(void)
{
	code_len = filter_build(code, FILTER_LEN_MAX);
	if (code_len < 0)
		return 1;
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_sockets),
		cmocka_unit_test(test_high_bits), cmocka_unit_test(test_data),
		cmocka_unit_test(test_refused)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
