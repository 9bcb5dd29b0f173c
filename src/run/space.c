/*
 * The process prepares itself, with no privilege but that of owning a user namespace; it is the
 * program's own user who runs this, so nothing here is trusted by Belay: a user who leaves a step
 * out has an unbound program, not a bound one with more rights. Input: mountinfo, which the kernel
 * writes. Invariant: after space_enter() the file tree shows /proc read-only, a /dev/shm and POSIX
 * message queues of its own and nothing of Belay. Cost: some twenty system calls and, for root, one
 * short-lived child; once a start.
 */
#include "run/space.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <linux/mount.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sched.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fds.h"
#include "base/mountinfo.h"

#define ID_MAP_MAX 8192 /* the kernel takes 340 lines; ours have three numbers each */

static int write_file(const char *path, const char *text)
{
	_cleanup_close_ int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = write(fd, text, strlen(text));
	return n < 0 ? -errno : 0;
}

/* ---- user namespace ---- */

/* Every id that exists where we are, mapped to itself. */
static int identity_map(const char *of, char out[ID_MAP_MAX])
{
	_cleanup_free_ char *text = NULL;
	size_t len, n = 0;
	int r = fds_read_file(AT_FDCWD, of, ID_MAP_MAX, &text, &len);
	if (r < 0)
		return r;
	for (char *line = text, *next; line && *line; line = next) {
		unsigned inside, count;
		next = strchr(line, '\n');
		if (next)
			*next++ = '\0';
		if (sscanf(line, "%u %*u %u", &inside, &count) != 2)
			return -EINVAL;
		int w = snprintf(out + n, ID_MAP_MAX - n, "%u %u %u\n", inside, inside, count);
		if (w < 0 || (size_t)w >= ID_MAP_MAX - n)
			return -E2BIG;
		n += (size_t)w;
	}
	return 0;
}

/* The child, still outside, maps all ids for its parent, who by then is inside. */
static int map_all(pid_t parent, const char *uids, const char *gids)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/uid_map", parent);
	int r = write_file(path, uids);
	snprintf(path, sizeof(path), "/proc/%d/gid_map", parent);
	return r < 0 ? r : write_file(path, gids);
}

static int unshare_all(void)
{
	/* A mount namespace made together with a user namespace belongs to it. */
	return unshare(CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC) < 0 ? -errno : 0;
}

static int enter_mapped(void)
{
	char uids[ID_MAP_MAX], gids[ID_MAP_MAX];
	int r = identity_map("/proc/self/uid_map", uids);
	if (r >= 0)
		r = identity_map("/proc/self/gid_map", gids);
	int go[2];
	if (r < 0)
		return r;
	if (pipe2(go, O_CLOEXEC) < 0)
		return -errno;
	pid_t parent = getpid(), child = fork();
	if (child == 0) {
		char c;
		close(go[1]);
		if (read(go[0], &c, 1) != 1)
			_exit(0);
		_exit(-map_all(parent, uids, gids));
	}
	close(go[0]);
	r = child < 0 ? -errno : unshare_all();
	if (r >= 0 && write(go[1], "x", 1) != 1)
		r = -EIO;
	close(go[1]);
	int status = 0;
	while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
		;
	if (r >= 0 && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
		r = WIFEXITED(status) ? -WEXITSTATUS(status) : -ECHILD;
	return r;
}

static int enter_single(void)
{
	char uid[64], gid[64];
	snprintf(uid, sizeof(uid), "%u %u 1", geteuid(), geteuid());
	snprintf(gid, sizeof(gid), "%u %u 1", getegid(), getegid());
	int r = unshare_all();
	if (r < 0 || (r = write_file("/proc/self/uid_map", uid)) < 0 ||
		(r = write_file("/proc/self/setgroups", "deny")) < 0)
		return r;
	return write_file("/proc/self/gid_map", gid);
}

/* ---- network ---- */

/*
 * Resolver libraries ask for addresses of a family only when an interface has one that is not the
 * loopback address (AI_ADDRCONFIG). Nothing is ever sent from these: 127.0.0.2, and the first of
 * the block that is discarded everywhere (RFC 6666).
 */
static void second_addresses(int fd)
{
	struct ifreq four = {.ifr_name = "lo:1"};
	struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000002)};
	memcpy(&four.ifr_addr, &in, sizeof(in));
	(void)ioctl(fd, SIOCSIFADDR, &four);
	struct {
		struct in6_addr addr;
		uint32_t prefix;
		int index;
	} six = {.prefix = 128, .index = (int)if_nametoindex("lo")};
	six.addr.s6_addr[0] = 1;
	six.addr.s6_addr[15] = 1;
	_cleanup_close_ int fd6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd6 >= 0)
		(void)ioctl(fd6, SIOCSIFADDR, &six);
}

static int loopback_up(void)
{
	_cleanup_close_ int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	if (fd < 0 || ioctl(fd, SIOCSIFFLAGS, &r) < 0)
		return -errno;
	second_addresses(fd);
	return 0;
}

/* ---- files ---- */

static int make_readonly(const char *path)
{
	struct mount_attr a = {.attr_set = MOUNT_ATTR_RDONLY};
	long r = syscall(__NR_mount_setattr, AT_FDCWD, path, AT_RECURSIVE, &a, sizeof(a));
	return r < 0 ? -errno : 0;
}

static int remount(const struct mount_line *m)
{
	int r = 0;
	if (!strcmp(m->type, "proc"))
		r = make_readonly(m->point);
	else if (!strcmp(m->type, "mqueue") &&
		 mount("mqueue", m->point, "mqueue", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) < 0)
		r = -errno;
	/* A mount below another one, or in a place we may not enter, is out of the program's reach
	 * too. */
	return r == -ENOENT || r == -EACCES || r == -EINVAL || r == -ENOTDIR ? 0 : r;
}

static int remount_special(void)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = fds_read_file(AT_FDCWD, "/proc/self/mountinfo", MOUNTINFO_MAX, &text, &len);
	if (r < 0)
		return r;
	struct mount_line m;
	for (char *at = text; (r = mountinfo_next(&at, &m)) > 0;)
		if ((r = remount(&m)) < 0)
			break;
	return r;
}

static int mask(const char *path)
{
	struct stat st;
	if (stat(path, &st) < 0)
		return errno == ENOENT || errno == EACCES || errno == ENOTDIR ? 0 : -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	if (mount("tmpfs", path, "tmpfs", MS_RDONLY | MS_NOSUID | MS_NODEV | MS_NOEXEC,
		    "mode=0555,size=4k") < 0)
		return -errno;
	return 0;
}

static int arrange_files(const char *const *masked, struct error *e)
{
	char cwd[PATH_MAX];
	bool known = getcwd(cwd, sizeof(cwd)) && cwd[0] == '/';
	if (mount(NULL, "/", NULL, MS_REC | MS_SLAVE, NULL) < 0)
		return error_errno(e, -errno, "cannot keep mounts of this program to itself");
	struct stat st;
	if (stat("/dev/shm", &st) == 0 &&
		mount("tmpfs", "/dev/shm", "tmpfs", MS_NOSUID | MS_NODEV, "mode=1777") < 0)
		return error_errno(e, -errno, "cannot give the program a /dev/shm of its own");
	for (; *masked; masked++) {
		int r = mask(*masked);
		if (r < 0)
			return error_errno(e, r, "cannot mask %s", *masked);
	}
	int r = remount_special();
	if (r < 0)
		return error_errno(e, r, "cannot make /proc read-only");
	/* The working directory still leads below what was masked; walking there again does not. */
	if (known && chdir(cwd) < 0 && chdir("/") < 0)
		return error_errno(e, -errno, "cannot enter %s", cwd);
	return 0;
}

int space_enter(const char *const *masked, struct error *e)
{
	int r = geteuid() == 0 ? enter_mapped() : enter_single();
	if (r < 0)
		return error_errno(e, r,
			"cannot make a user namespace (try `belay doctor`; "
			"user.max_user_namespaces or kernel.unprivileged_userns_clone may forbid "
			"it)");
	r = loopback_up();
	if (r < 0)
		return error_errno(e, r, "cannot start the program's loopback interface");
	return arrange_files(masked, e);
}

/* ---- scope and capabilities ---- */

/* Of Landlock's ABI 6; the structure only ever grows at its end. */
struct scope_attr {
	uint64_t handled_access_fs, handled_access_net, scoped;
};
#define SCOPE_ABSTRACT_UNIX_SOCKET 1u
#define SCOPE_SIGNAL 2u
#define SCOPE_ABI 6
#define NET_BIND_TCP 1u
#define NET_CONNECT_TCP 2u
#define NET_ABI 4
#define RULESET_VERSION 1u

int space_scope(struct error *e)
{
	long abi = syscall(__NR_landlock_create_ruleset, NULL, 0, RULESET_VERSION);
	if (abi < NET_ABI)
		return 0; /* `belay doctor` says what that means */
	/* The fabric binds and connects the program's sockets; what the program were to do itself,
	 * past the filter, finds this wall. */
	struct scope_attr a = {.handled_access_net = NET_BIND_TCP | NET_CONNECT_TCP};
	if (abi >= SCOPE_ABI)
		a.scoped = SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL;
	size_t len = abi >= SCOPE_ABI ? sizeof(a) : offsetof(struct scope_attr, scoped);
	_cleanup_close_ int fd = (int)syscall(__NR_landlock_create_ruleset, &a, len, 0);
	if (fd < 0)
		return error_errno(e, -errno, "cannot make a Landlock scope");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
		syscall(__NR_landlock_restrict_self, fd, 0) < 0)
		return error_errno(e, -errno, "cannot enter the Landlock scope");
	return 0;
}

/* What a server started by root needs to become its worker user and to read its files. */
static bool cap_stays(unsigned long cap)
{
	switch (cap) {
	case CAP_CHOWN:
	case CAP_DAC_OVERRIDE:
	case CAP_DAC_READ_SEARCH:
	case CAP_FOWNER:
	case CAP_FSETID:
	case CAP_KILL:
	case CAP_SETGID:
	case CAP_SETUID:
	case CAP_SETPCAP:
	case CAP_SETFCAP:
	case CAP_SYS_CHROOT:
	case CAP_NET_BIND_SERVICE:
	case CAP_SYS_NICE:
		return true;
	default:
		return false;
	}
}

int space_drop(struct error *e)
{
	for (unsigned long cap = 0; prctl(PR_CAPBSET_READ, cap, 0, 0, 0) >= 0; cap++)
		if (!cap_stays(cap) && prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0)
			return error_errno(e, -errno, "cannot give up capability %lu", cap);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return error_errno(e, -errno, "cannot clear ambient capabilities");
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(e, -errno, "cannot set no_new_privs");
	return 0;
}
