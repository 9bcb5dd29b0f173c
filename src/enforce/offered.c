/*
 * Descriptors a user offers with a run: is the one a filter's notify descriptor, and can the other
 * be written to without waiting? Input: anything that can be passed over a socket, made to hold up
 * this process, which serves everybody. So nothing is asked of the descriptor itself that a file
 * system could answer late: only what the kernel knows by itself. Cost: some system calls a run.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/fds.h"
#include "base/mountinfo.h"
#include "enforce/enforce.h"
#include "enforce/target.h"

#define FDINFO_MAX 4096
#define NOTIFY_NAME "anon_inode:seccomp notify"

/* Majors of devices that are terminals, or null and its kind. */
static bool device_known(unsigned device)
{
	return device == 1 || device == 4 || device == 5 || (device >= 136 && device <= 143);
}

bool offered_notify(int fd)
{
	char link[64], name[64];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	ssize_t n = readlink(link, name, sizeof(name));
	return n == sizeof(NOTIFY_NAME) - 1 && !memcmp(name, NOTIFY_NAME, (size_t)n);
}

static bool type_waits(const char *type)
{
	static const char *const types[] = {"fuse", "nfs", "cifs", "smb", "9p", "virtiofs", "ceph",
		"afs", "gfs", "ocfs", "lustre", "autofs", "overlay-fuse"};
	for (size_t i = 0; i < ARRAY_LEN(types); i++)
		if (!strncmp(type, types[i], strlen(types[i])))
			return true;
	return false;
}

/* Is it on a mount of ours, of a file system that answers by itself? */
static bool mount_local(int fd)
{
	char path[64];
	_cleanup_free_ char *info = NULL, *mounts = NULL;
	size_t len;
	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", fd);
	if (fds_read_file(AT_FDCWD, path, FDINFO_MAX, &info, &len) < 0 ||
		fds_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &mounts, &len) < 0)
		return false;
	const char *id = strstr(info, "mnt_id:");
	long want = id ? strtol(id + 7, NULL, 10) : -1;
	struct mount_line m;
	for (char *at = mounts; want >= 0 && mountinfo_next(&at, &m) == 1;)
		if (m.id == want)
			return !type_waits(m.type);
	return false;
}

bool offered_writable(int fd)
{
	struct statx st;
	if (statx(fd, "", AT_EMPTY_PATH | AT_STATX_DONT_SYNC, STATX_TYPE, &st) < 0)
		return false;
	switch (st.stx_mode & S_IFMT) {
	case S_IFCHR:
		return device_known(st.stx_rdev_major);
	case S_IFSOCK:
		return sock_domain(fd) == AF_UNIX;
	case S_IFIFO:
	case S_IFREG:
		return mount_local(fd) || (st.stx_mode & S_IFMT) == S_IFIFO;
	default:
		return false;
	}
}
