/*
 * `belay doctor`: tells what this host lacks and what follows. Each probe does the thing, in a
 * child process of its own that ends with 0 for yes: version numbers and configuration files lie.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

#include "cli/cli.h"

#ifndef SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
#define SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV (1UL << 5)
#endif
#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, __u64)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP (1UL << 0)
#endif
#ifndef SYS_landlock_create_ruleset
#define SYS_landlock_create_ruleset 444
#endif
#ifndef SYS_memfd_secret
#define SYS_memfd_secret 447
#endif
#define LANDLOCK_ABI_SCOPES 6
#define PROCMAP_QUERY_NR 17

static int probe_userns(void)
{
	return unshare(CLONE_NEWUSER | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWNS);
}

/* A filter that traps one harmless call; returns the notify descriptor. */
static int notify_fd(unsigned long flags)
{
	struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_getppid, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_USER_NOTIF),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog prog = {.len = ARRAY_LEN(code), .filter = code};
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
		return -1;
	return (int)syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER,
		SECCOMP_FILTER_FLAG_NEW_LISTENER | flags, &prog);
}

static int probe_notify(void)
{
	return notify_fd(0) < 0;
}

static int probe_killable(void)
{
	return notify_fd(SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV) < 0;
}

static int probe_sync_wakeup(void)
{
	int fd = notify_fd(0);
	return fd < 0 ||
	       ioctl(fd, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
}

static int probe_pidfd_getfd(void)
{
	int pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	return pidfd < 0 || syscall(SYS_pidfd_getfd, pidfd, pidfd, 0) < 0;
}

static int netlink_in_namespace(int protocol)
{
	return unshare(CLONE_NEWUSER | CLONE_NEWNET) || socket(AF_NETLINK, SOCK_RAW, protocol) < 0;
}

static int probe_nft(void)
{
	return netlink_in_namespace(NETLINK_NETFILTER);
}

static int probe_diag(void)
{
	return netlink_in_namespace(NETLINK_SOCK_DIAG);
}

static int probe_repair(void)
{
	int one = 1;
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET))
		return 1;
	int s = socket(AF_INET, SOCK_STREAM, 0);
	return s < 0 || setsockopt(s, IPPROTO_TCP, TCP_REPAIR, &one, sizeof(one));
}

static int probe_landlock(void)
{
	return syscall(SYS_landlock_create_ruleset, NULL, 0, 1) < LANDLOCK_ABI_SCOPES;
}

static int probe_lease(void)
{
	const char *home = getenv("HOME");
	int w = open(home ? home : "/tmp", O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	char path[64];
	if (w < 0)
		return 1;
	snprintf(path, sizeof(path), "/proc/self/fd/%d", w);
	int r = open(path, O_RDONLY | O_CLOEXEC);
	close(w);
	return r < 0 || fcntl(r, F_SETLEASE, F_RDLCK) < 0;
}

static int probe_lease_root(void)
{
	int fd = open("/usr/bin/env", O_RDONLY | O_CLOEXEC);
	return fd < 0 || fcntl(fd, F_SETLEASE, F_RDLCK) < 0;
}

/* ENOTTY says the request is unknown; any other refusal says it is known. */
static int probe_procmap(void)
{
	char query[104] = {[0] = sizeof(query)};
	int fd = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	return fd < 0 ||
	       (ioctl(fd, _IOC(_IOC_READ | _IOC_WRITE, 'f', PROCMAP_QUERY_NR, sizeof(query)),
			query) < 0 &&
		       errno == ENOTTY);
}

static int probe_secretmem(void)
{
	return syscall(SYS_memfd_secret, 0) < 0;
}

static bool probe(int (*fn)(void))
{
	fflush(NULL);
	pid_t p = fork();
	int st;
	if (!p)
		_exit(fn() ? 1 : 0);
	return p > 0 && waitpid(p, &st, 0) == p && WIFEXITED(st) && WEXITSTATUS(st) == 0;
}

int cmd_doctor(int argc, char **argv)
{
	static const struct {
		int (*fn)(void);
		const char *name;
		bool required;
		const char *follows;
	} probes[] = {
#define PROBE(fn, name, required, follows) {fn, name, required, follows},
#include "cli/probes.def"
#undef PROBE
	};
	bool json = argc == 2 && !strcmp(argv[1], "--json"), ready = true;
	if (argc > 1 && !json)
		return cli_usage("doctor", !strcmp(argv[1], "--help"));
	struct utsname u;
	if (!json && !uname(&u))
		printf("Linux %s %s, %s\n", u.release, u.machine,
			getuid() ? "an ordinary user: private instance" : "root: host instance");
	for (size_t i = 0; i < ARRAY_LEN(probes); i++) {
		bool have = probe(probes[i].fn);
		ready = ready && (have || !probes[i].required);
		if (json) {
			json_t *j = json_pack("{s:s,s:b,s:b,s:s}", "name", probes[i].name, "have",
				have, "required", probes[i].required, "follows",
				have ? "" : probes[i].follows);
			if (j)
				json_dumpf(j, stdout, JSON_COMPACT);
			putchar('\n');
			json_decref(j);
			continue;
		}
		printf("%-8s %s\n",
			have                 ? "yes"
			: probes[i].required ? "MISSING"
					     : "no",
			probes[i].name);
		if (!have)
			printf("         so: %s\n", probes[i].follows);
	}
	if (!json)
		puts(ready ? "this host can run Belay" : "this host cannot run Belay yet");
	return ready ? EXIT_OK : EXIT_REFUSED;
}
