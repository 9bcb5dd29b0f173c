/*
 * Assembles filter.def into classic BPF. No input: the table is constant. First line that holds
 * wins, arguments are compared as the 32 bits the kernel uses; calls newer than this table are
 * refused with ENOSYS, so that a new kernel opens no way round. Written here rather than with a
 * filter library because order is meaning, because the load needs a flag such libraries lack
 * (WAIT_KILLABLE_RECV: without it a signal repeats a call that was executed already), and because
 * it costs microseconds at each start. Invariant: calls without a line are decided by number alone,
 * which lets the kernel skip the filter for them.
 */
#include "run/filter.h"

#include <asm/prctl.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/netlink.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "ipc/control.h"

#ifndef __NR_open_tree_attr
#define __NR_open_tree_attr 467
#endif
#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* linux 6.16 */
#endif
#ifndef ARCH_MAP_VDSO_X32
#define ARCH_MAP_VDSO_X32 0x2001
#endif
#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif

#if defined(__x86_64__)
#define FILTER_ARCH AUDIT_ARCH_X86_64
#elif defined(__aarch64__)
#define FILTER_ARCH AUDIT_ARCH_AARCH64
#else
#error "no filter for this architecture yet"
#endif

#define FILTER_LAST_CALL                                                        \
	469 /* file_setattr: the newest call somebody has judged for filter.def \
	     */
#define NEW_NAMESPACES                                                                 \
	(CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER | \
		CLONE_NEWPID | CLONE_NEWNET)
/* In clone the low eight bits are the exit signal, so CLONE_NEWTIME means something in unshare
 * only. */

#define DATAGRAM_FD MASK(0, ~(DATAGRAM_FDS - 1u), DATAGRAM_FD_FIRST)

#define CONDITIONS_MAX 4
enum op { OP_END, OP_EQUAL, OP_ANY_BIT, OP_NOT_NULL };
struct condition {
	uint8_t op, arg;
	uint32_t mask, value;
};
struct rule {
	uint32_t call, action;
	struct condition when[CONDITIONS_MAX];
};

#define IS(a, v)                                        \
	{                                               \
		OP_EQUAL, a, 0xffffffffu, (uint32_t)(v) \
	}
#define MASK(a, m, v)                                     \
	{                                                 \
		OP_EQUAL, a, (uint32_t)(m), (uint32_t)(v) \
	}
#define ANY_BIT(a, m)                           \
	{                                       \
		OP_ANY_BIT, a, (uint32_t)(m), 0 \
	}
#define NOT_NULL(a)                  \
	{                            \
		OP_NOT_NULL, a, 0, 0 \
	}
#define WHEN(...)           \
	{                   \
		__VA_ARGS__ \
	}
#define NOTIFY SECCOMP_RET_USER_NOTIF
#define ALLOW SECCOMP_RET_ALLOW
#define ERROR(e) (SECCOMP_RET_ERRNO | ((e)&SECCOMP_RET_DATA))
#define RULE(name, conditions, act, why) {__NR_##name, act, WHEN conditions},

static const struct rule rules[] = {
#include "run/filter.def"
};

struct code {
	struct sock_filter *out;
	size_t n, max;
};

static void emit(struct code *c, uint16_t code, uint8_t jt, uint8_t jf, uint32_t k)
{
	if (c->n < c->max)
		c->out[c->n] = (struct sock_filter){code, jt, jf, k};
	c->n++;
}

static void load(struct code *c, size_t offset)
{
	emit(c, BPF_LD | BPF_W | BPF_ABS, 0, 0, (uint32_t)offset);
}

static size_t arg_offset(unsigned arg, bool high)
{
	bool big = __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__;
	return offsetof(struct seccomp_data, args) + arg * 8 + (big != high ? 4u : 0u);
}

/* Instructions of one condition; it falls through when it holds. Counted, because jumps are. */
static size_t condition_len(const struct condition *w)
{
	switch (w->op) {
	case OP_EQUAL:
		return w->mask == 0xffffffffu ? 2 : 3;
	case OP_ANY_BIT:
		return 2;
	default:
		return 4;
	}
}

/* `skip`: instructions between this condition's end and the next rule. */
static void condition_emit(struct code *c, const struct condition *w, uint8_t skip)
{
	load(c, arg_offset(w->arg, false));
	switch (w->op) {
	case OP_EQUAL:
		if (w->mask != 0xffffffffu)
			emit(c, BPF_ALU | BPF_AND | BPF_K, 0, 0, w->mask);
		emit(c, BPF_JMP | BPF_JEQ | BPF_K, 0, skip, w->value);
		break;
	case OP_ANY_BIT:
		emit(c, BPF_JMP | BPF_JSET | BPF_K, 0, skip, w->mask);
		break;
	default: /* a pointer is not null when either half is not 0 */
		emit(c, BPF_JMP | BPF_JEQ | BPF_K, 0, 2, 0);
		load(c, arg_offset(w->arg, true));
		emit(c, BPF_JMP | BPF_JEQ | BPF_K, skip, 0, 0);
		break;
	}
}

static size_t rule_len(const struct rule *r)
{
	size_t n = 1;
	for (size_t i = 0; i < CONDITIONS_MAX && r->when[i].op; i++)
		n += condition_len(&r->when[i]);
	return n;
}

static void rule_emit(struct code *c, const struct rule *r)
{
	size_t left = rule_len(r);
	for (size_t i = 0; i < CONDITIONS_MAX && r->when[i].op; i++) {
		left -= condition_len(&r->when[i]);
		condition_emit(c, &r->when[i], (uint8_t)left);
	}
	emit(c, BPF_RET | BPF_K, 0, 0, r->action);
}

int filter_build(struct sock_filter *out, size_t max)
{
	struct code c = {out, 0, max};
	load(&c, offsetof(struct seccomp_data, arch));
	emit(&c, BPF_JMP | BPF_JEQ | BPF_K, 1, 0, FILTER_ARCH);
	emit(&c, BPF_RET | BPF_K, 0, 0, ERROR(ENOSYS));
	load(&c, offsetof(struct seccomp_data, nr));
	/* Also every x32 call: they are numbered from 0x40000000. */
	emit(&c, BPF_JMP | BPF_JGT | BPF_K, 0, 1, FILTER_LAST_CALL);
	emit(&c, BPF_RET | BPF_K, 0, 0, ERROR(ENOSYS));
	for (size_t i = 0; i < ARRAY_LEN(rules);) {
		size_t end = i, len = 1;
		for (; end < ARRAY_LEN(rules) && rules[end].call == rules[i].call; end++)
			len += rule_len(&rules[end]);
		if (len > 255)
			return -E2BIG;
		emit(&c, BPF_JMP | BPF_JEQ | BPF_K, 0, (uint8_t)len, rules[i].call);
		for (; i < end; i++)
			rule_emit(&c, &rules[i]);
		emit(&c, BPF_RET | BPF_K, 0, 0, ALLOW);
	}
	emit(&c, BPF_RET | BPF_K, 0, 0, ALLOW);
	return c.n > max ? -E2BIG : (int)c.n;
}

int filter_load(void)
{
	struct sock_filter code[FILTER_LEN_MAX];
	int n = filter_build(code, ARRAY_LEN(code));
	if (n < 0)
		return n;
	struct sock_fprog prog = {(unsigned short)n, code};
	unsigned long flags = SECCOMP_FILTER_FLAG_NEW_LISTENER;
	long fd = syscall(__NR_seccomp, SECCOMP_SET_MODE_FILTER,
		flags | SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV, &prog);
	return fd < 0 ? -errno : (int)fd;
}
