/*
 * Is a process the one belayd started? The pidfd names it for good, but /proc is read by number: so
 * alive, read, alive again: what was read between two proofs of life is of that process and no
 * other. What is asked: start time, all four uids, and the executable where the kernel lets us see
 * it (a component makes itself unreadable as its first act, so a refusal to look is no failure).
 * Six system calls a start.
 */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "base/proc.h"
#include "dispatcher/dispatcher.h"

static int check_executable(enum role role, uint32_t pid, struct error *e)
{
	char proc[64], expected[4096];
	struct stat is, want;
	snprintf(proc, sizeof(proc), "/proc/%u/exe", pid);
	if (stat(proc, &is) < 0) {
		if (errno == EACCES || errno == EPERM)
			return 0;
		return error_errno(e, -errno, "cannot look at its executable");
	}
	if (role_binary(role, expected, sizeof(expected)) < 0 || stat(expected, &want) < 0)
		return error_set(e, -EPERM, "its executable is not installed");
	if (is.st_dev != want.st_dev || is.st_ino != want.st_ino)
		return error_set(e, -EPERM, "its executable is not %s", expected);
	return 0;
}

static int check_alive(int pidfd, struct error *e)
{
	int r = fds_pidfd_alive(pidfd);
	if (r == 1)
		return 0;
	return error_errno(e, r < 0 ? r : -ESRCH, "its pidfd");
}

int verify_component(
	enum role role, uint32_t pid, uint64_t start_time, uint32_t uid, int pidfd, struct error *e)
{
	uint64_t start;
	uint32_t uids[4];
	int r = check_alive(pidfd, e);
	if (r < 0)
		return r;
	r = proc_start_time((pid_t)pid, &start);
	if (r < 0)
		return error_errno(e, r, "cannot read its start time");
	r = proc_uids((pid_t)pid, uids);
	if (r < 0)
		return error_errno(e, r, "cannot read its uids");
	r = check_executable(role, pid, e);
	if (r < 0)
		return r;
	r = check_alive(pidfd, e);
	if (r < 0)
		return r;
	if (start != start_time)
		return error_set(e, -EPERM, "started at %llu, not %llu", (unsigned long long)start,
			(unsigned long long)start_time);
	for (size_t i = 0; i < ARRAY_LEN(uids); i++)
		if (uids[i] != uid)
			return error_set(e, -EPERM, "runs as uid %u, not %u", uids[i], uid);
	return 0;
}
