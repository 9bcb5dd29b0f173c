/*
 * The list of system calls (syscalls.def), as a filter of this process. Input: none but the tables
 * and one environment variable. A filter costs every system call some tens of nanoseconds:
 * libseccomp makes a binary tree of it.
 */
#include <errno.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <sched.h>
#include <seccomp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <termios.h>
#include <ucontext.h>
#include <unistd.h>

#include "sandbox/sandbox.h"

#ifndef PR_SET_VMA
#define PR_SET_VMA 0x53564d41
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define SANITIZED 1
#endif
#endif
#ifndef SANITIZED
#define SANITIZED 0
#endif

/* Roles as bits, under the names the table uses. */
enum {
#define ROLE(id, name, number) id = 1u << number,
#include "ipc/role.def"
#undef ROLE
	ALL = ~0u >> 1
};

#define OWN_PID UINT64_MAX /* stands for getpid() at the time of entering */

struct rule {
	const char *name;
	unsigned roles;
	bool has_arg;
	unsigned arg;
	uint64_t mask, value;
};

static const struct rule rules[] = {
#define ALLOW(name, roles, reason) {#name, roles, false, 0, 0, 0},
#define ALLOW_ARG(name, roles, n, mask, value, reason) {#name, roles, true, n, mask, value},
#include "sandbox/syscalls.def"
#undef ALLOW
#undef ALLOW_ARG
};

static const struct {
	const char *name;
	int err;
} refusals[] = {
#define REFUSE(name, err, reason) {#name, err},
#include "sandbox/syscalls.def"
#undef REFUSE
};

/* Negative for what this architecture or this libseccomp does not have. */
static int number_of(const char *name)
{
	return seccomp_syscall_resolve_name(name);
}

static bool applies(const struct rule *r, enum sandbox_profile p)
{
	return r->roles & 1u << p;
}

/* A call is either listed without argument or with some, or not: the strictest entry must not
 * widen. */
static bool listed(enum sandbox_profile p, const char *name, bool without_arg)
{
	for (size_t i = 0; i < ARRAY_LEN(rules); i++)
		if (applies(&rules[i], p) && !strcmp(rules[i].name, name) &&
			(!without_arg || !rules[i].has_arg))
			return true;
	return false;
}

size_t sandbox_allowed(enum sandbox_profile p, int *ret, size_t max)
{
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
		int nr = number_of(rules[i].name);
		if (!applies(&rules[i], p) || nr < 0)
			continue;
		if (n < max)
			ret[n] = nr;
		n++;
	}
	return n;
}

static int add_rules(scmp_filter_ctx f, enum sandbox_profile p)
{
	for (size_t i = 0; i < ARRAY_LEN(rules); i++) {
		const struct rule *r = &rules[i];
		int nr = number_of(r->name), err;
		if (!applies(r, p) || nr < 0)
			continue;
		if (!r->has_arg) {
			err = seccomp_rule_add(f, SCMP_ACT_ALLOW, nr, 0);
		} else if (listed(p, r->name, true)) {
			continue; /* allowed whatever its arguments */
		} else {
			uint64_t value = r->value == OWN_PID ? (uint64_t)getpid() : r->value;
			struct scmp_arg_cmp cmp = {
				r->arg, SCMP_CMP_MASKED_EQ, r->mask, value & r->mask};
			err = seccomp_rule_add_array(f, SCMP_ACT_ALLOW, nr, 1, &cmp);
		}
		if (err < 0 && err != -EEXIST)
			return err;
	}
	return 0;
}

/* What is refused instead of killed; with arguments listed, it is the calls with other arguments.
 */
static int add_refusals(scmp_filter_ctx f, enum sandbox_profile p)
{
	for (size_t i = 0; i < ARRAY_LEN(refusals); i++) {
		int nr = number_of(refusals[i].name);
		if (nr < 0 || listed(p, refusals[i].name, false))
			continue;
		int err = seccomp_rule_add(f, SCMP_ACT_ERRNO((uint32_t)refusals[i].err), nr, 0);
		if (err < 0)
			return err;
	}
	return 0;
}

/* Debugging only: resolving a name here may lock, and the process ends anyway. */
static void on_sigsys(int sig, siginfo_t *info, void *context)
{
	char line[128];
	(void)sig, (void)context;
	char *name = seccomp_syscall_resolve_num_arch(SCMP_ARCH_NATIVE, info->si_syscall);
	int n = snprintf(line, sizeof(line),
		"belay sandbox: %s[%d]: system call %s (%d) is not in its profile\n",
		program_invocation_short_name, (int)getpid(), name ? name : "?", info->si_syscall);
	ssize_t w = write(STDERR_FILENO, line, n > 0 ? (size_t)n : 0);
	(void)w;
	_exit(128 + SIGSYS);
}

static uint32_t default_action(void)
{
	const char *debug = getenv("BELAY_SANDBOX_DEBUG");
	if (!debug || strcmp(debug, "1"))
		return SCMP_ACT_KILL_PROCESS;
	struct sigaction sa = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
	sigaction(SIGSYS, &sa, NULL);
	return SCMP_ACT_TRAP;
}

int sandbox_seccomp(enum sandbox_profile p, struct error *e)
{
	if (SANITIZED)
		return 0;
	scmp_filter_ctx f = seccomp_init(default_action());
	if (!f)
		return error_set(e, -ENOMEM, "cannot make the system call filter");
	int r = seccomp_attr_set(f, SCMP_FLTATR_CTL_TSYNC, 1);
	if (!r)
		r = seccomp_attr_set(f, SCMP_FLTATR_CTL_OPTIMIZE, 2);
	if (!r)
		r = add_rules(f, p);
	if (!r)
		r = add_refusals(f, p);
	if (!r)
		r = seccomp_load(f);
	seccomp_release(f);
	return r < 0 ? error_errno(e, r, "cannot load the system call filter") : 0;
}
