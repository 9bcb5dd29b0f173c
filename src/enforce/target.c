/*
 * See target.h. Processes are named by tid; a cache keeps pidfds of recent callers. An entry is
 * used only while its thread lives, which its own thread pidfd says, and a living thread's number
 * is nobody else's. Where the kernel has no thread pidfds (before 6.9) nothing is cached. Costs per
 * trapped call: one poll(2) for the cache, one process_vm_readv(2), one pidfd_getfd(2).
 */
#include "enforce/target.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/fds.h"

#define CACHE 256
#define PIDFD_THREAD_ O_EXCL
#define STATUS_MAX (64u * 1024)

struct entry {
	pid_t tid, pid;
	int thread, process;
};
static struct entry cache[CACHE];

static int pidfd_open_(pid_t pid, unsigned flags)
{
	int fd = (int)syscall(__NR_pidfd_open, pid, flags);
	return fd < 0 ? -errno : fd;
}

static int status_read(pid_t tid, char **ret)
{
	char path[64];
	size_t len;
	snprintf(path, sizeof(path), "/proc/%d/status", tid);
	return fds_read_file(AT_FDCWD, path, STATUS_MAX, ret, &len);
}

/* The text after "\nKEY:", or NULL. */
static const char *status_field(const char *status, const char *key)
{
	size_t n = strlen(key);
	for (const char *p = status; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (!strncmp(p, key, n) && p[n] == ':')
			return p + n + 1;
	return NULL;
}

static int entry_fill(struct entry *c, pid_t tid)
{
	_cleanup_close_ int thread = pidfd_open_(tid, PIDFD_THREAD_);
	_cleanup_close_ int process = pidfd_open_(tid, 0);
	pid_t pid = tid;
	if (process < 0) { /* not the first thread of its process */
		_cleanup_free_ char *status = NULL;
		int r = status_read(tid, &status);
		const char *f = r < 0 ? NULL : status_field(status, "Tgid");
		if (!f)
			return r < 0 ? r : -ESRCH;
		pid = atoi(f);
		process = pidfd_open_(pid, 0);
	}
	if (process < 0)
		return process;
	*c = (struct entry){tid, pid, thread < 0 ? -1 : thread, process};
	thread = process = -1;
	return 0;
}

static void entry_clear(struct entry *c)
{
	if (c->tid && c->thread >= 0)
		close(c->thread);
	if (c->tid)
		close(c->process);
	c->tid = 0;
}

static struct entry *entry_get(pid_t tid, int *error)
{
	struct entry *c = &cache[(unsigned)tid % CACHE];
	if (c->tid == tid && c->thread >= 0 && fds_pidfd_alive(c->thread) == 1)
		return c;
	entry_clear(c);
	*error = entry_fill(c, tid);
	return *error < 0 ? NULL : c;
}

int target_process(pid_t tid, pid_t *ret_pid, int *ret_pidfd)
{
	int r = 0;
	const struct entry *c = entry_get(tid, &r);
	if (!c)
		return r;
	*ret_pid = c->pid;
	*ret_pidfd = c->process;
	return 0;
}

int target_fd(pid_t tid, int fd)
{
	int r = 0;
	const struct entry *c = entry_get(tid, &r);
	if (!c)
		return r;
	/* The thread's own table where the kernel can say so; a thread with a table of its own on
	 * an older kernel gets its process's: still nothing but that process's own sockets. */
	r = (int)syscall(__NR_pidfd_getfd, c->thread >= 0 ? c->thread : c->process, fd, 0);
	return r < 0 ? -errno : r;
}

int target_read(pid_t tid, uint64_t address, void *buf, size_t len)
{
	struct iovec local = {buf, len}, remote = {(void *)(uintptr_t)address, len};
	ssize_t n = process_vm_readv(tid, &local, 1, &remote, 1, 0);
	return n == (ssize_t)len ? 0 : -EFAULT;
}

int target_signalled(pid_t tid)
{
	_cleanup_free_ char *s = NULL;
	int r = status_read(tid, &s);
	if (r < 0)
		return r;
	uint64_t v[4] = {0};
	const char *const names[] = {"SigPnd", "ShdPnd", "SigBlk", "SigCgt"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		const char *f = status_field(s, names[i]);
		v[i] = f ? strtoull(f, NULL, 16) : 0;
	}
	return ((v[0] | v[1]) & ~v[2] & v[3]) != 0;
}

int target_ids(pid_t tid, struct target_ids *ret)
{
	_cleanup_free_ char *s = NULL;
	int r = status_read(tid, &s);
	if (r < 0)
		return r;
	const char *u = status_field(s, "Uid"), *g = status_field(s, "Gid");
	const char *groups = status_field(s, "Groups");
	if (!u || !g || !groups || sscanf(u, "%*u %*u %*u %u", &ret->uid) != 1 ||
		sscanf(g, "%*u %*u %*u %u", &ret->gid) != 1)
		return -EINVAL;
	ret->n_groups = 0;
	while (*groups && *groups != '\n' && ret->n_groups < ARRAY_LEN(ret->groups)) {
		char *end;
		unsigned long v = strtoul(groups, &end, 10);
		if (end == groups || *end == '\0')
			break;
		ret->groups[ret->n_groups++] = (gid_t)v;
		groups = *end == ' ' ? end + 1 : end;
	}
	return 0;
}

int sock_int(int fd, int level, int option)
{
	int v = 0;
	socklen_t len = sizeof(v);
	return getsockopt(fd, level, option, &v, &len) < 0 ? -errno : v;
}

int sock_domain(int fd)
{
	return sock_int(fd, SOL_SOCKET, SO_DOMAIN);
}

uint64_t sock_cookie_netns(int fd)
{
	uint64_t v = 0;
	socklen_t len = sizeof(v);
	return getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE_, &v, &len) < 0 ? 0 : v;
}

static void on_alarm(int signum)
{
	(void)signum;
}

int watchdog_init(void)
{
	struct sigaction a = {.sa_handler = on_alarm}; /* no SA_RESTART: that is the point */
	return sigaction(SIGALRM, &a, NULL) < 0 ? -errno : 0;
}

static void watchdog_set(long ms)
{
	struct itimerval t = {{0, ms * 1000}, {0, ms * 1000}};
	setitimer(ITIMER_REAL, &t, NULL);
}

void watchdog_start(void)
{
	watchdog_set(WATCHDOG_MS);
}

void watchdog_stop(void)
{
	int keep = errno;
	watchdog_set(0);
	errno = keep;
}
