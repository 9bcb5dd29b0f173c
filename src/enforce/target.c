/*
 * See target.h. Processes are named by tid; a cache keeps pidfds of recent callers. An entry is
 * used only while its thread lives, which its own thread pidfd says, and a living thread's number
 * is nobody else's. Where the kernel has no thread pidfds (before 6.9) nothing is cached. Costs per
 * trapped call: one poll(2) for the cache, one process_vm_readv(2), one pidfd_getfd(2).
 */
#include "enforce/target.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/fsuid.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/discard.h"
#include "base/fds.h"
#include "ipc/component.h"

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

static int entry_fill(struct entry *c, pid_t tid)
{
	_cleanup_close_ int thread = pidfd_open_(tid, PIDFD_THREAD_);
	_cleanup_close_ int process = pidfd_open_(tid, 0);
	pid_t pid = tid;
	if (process < 0) { /* not the first thread of its process */
		_cleanup_free_ char *status = NULL;
		int r = status_read(tid, &status);
		if (r < 0)
			return r;
		pid = (pid_t)parse_number(status, "Tgid");
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

int target_read_text(pid_t tid, uint64_t address, char *text, size_t max)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	for (size_t at = 0; at < max;) {
		size_t n = page - (size_t)((address + at) % page); /* it may end before the next */
		n = n < max - at ? n : max - at;
		int bad = target_read(tid, address + at, text + at, n);
		if (bad)
			return bad;
		if (memchr(text + at, '\0', n))
			return 0;
		at += n;
	}
	return -ENAMETOOLONG;
}

int target_write(pid_t tid, uint64_t address, const void *buf, size_t len)
{
	struct iovec local = {(void *)(uintptr_t)buf, len};
	struct iovec remote = {(void *)(uintptr_t)address, len};
	ssize_t n = process_vm_writev(tid, &local, 1, &remote, 1, 0);
	return n == (ssize_t)len ? 0 : -EFAULT;
}

int target_magic(pid_t tid, const char *what, int flags)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/%s", tid, what);
	int fd = open(path, flags | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int target_signalled(pid_t tid)
{
	_cleanup_free_ char *s = NULL;
	int r = status_read(tid, &s);
	return r < 0 ? r : parse_signalled(s);
}

int target_ids(pid_t tid, struct target_ids *ret)
{
	_cleanup_free_ char *s = NULL;
	int r = status_read(tid, &s);
	return r < 0 ? r : parse_ids(s, ret);
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

static int watchdog_init(void);

/* ---- all sockets of a process ---- */

#define DESCRIPTORS_MAX 65536 /* looked at, of one process */

static bool one_descriptor(pid_t pid, int n, bool (*fn)(void *, int), void *ctx)
{
	int fd = target_fd(pid, n);
	if (fd < 0)
		return true;
	if (sock_domain(fd) < 0)
		return fds_discard(fd);
	bool go = fn(ctx, fd);
	fds_close_foreign(fd);
	return go;
}

/* The list may be read by the process's owner alone, on a host somebody else than we are. */
static DIR *list_open(pid_t pid)
{
	char path[64];
	struct stat st;
	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	bool other = stat(path, &st) == 0 && st.st_uid != geteuid();
	if (other)
		setfsuid(st.st_uid);
	DIR *d = opendir(path);
	if (!d && other)
		setfsuid(geteuid());
	return d;
}

static bool list_walk(DIR *d, pid_t pid, bool (*fn)(void *, int), void *ctx)
{
	char link[64];
	struct dirent *ent;
	int looked = 0;
	while ((ent = readdir(d))) {
		if (ent->d_name[0] == '.')
			continue;
		if (++looked > DESCRIPTORS_MAX)
			return false;
		ssize_t n = readlinkat(dirfd(d), ent->d_name, link, sizeof(link) - 1);
		if (n >= 7 && !memcmp(link, "socket:", 7) &&
			!one_descriptor(pid, atoi(ent->d_name), fn, ctx))
			return false;
	}
	return true;
}

/* Where even the list is closed (an image its user may not read): every number there can be. */
static bool numbers_walk(pid_t pid, bool (*fn)(void *, int), void *ctx)
{
	_cleanup_free_ char *status = NULL;
	long size = status_read(pid, &status) < 0 ? -1 : parse_number(status, "FDSize");
	if (size < 0 || size > DESCRIPTORS_MAX)
		return false;
	for (int i = 0; i < size; i++)
		if (!one_descriptor(pid, i, fn, ctx))
			return false;
	return true;
}

bool target_sockets(pid_t pid, bool (*fn)(void *ctx, int fd), void *ctx)
{
	DIR *d = list_open(pid);
	if (!d)
		return numbers_walk(pid, fn, ctx);
	bool all = list_walk(d, pid, fn, ctx);
	if ((uid_t)setfsuid(geteuid()) != geteuid())
		component_tie();
	closedir(d);
	return all;
}

int target_init(void)
{
	return watchdog_init();
}

static void on_alarm(int signum)
{
	(void)signum;
}

static int watchdog_init(void)
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
