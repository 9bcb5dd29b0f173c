/*
 * Files and network a process may still reach (Landlock), by the kernel's own interface. Input:
 * descriptors and paths the process itself names. Grows with what the kernel knows: an older one
 * gives fewer walls, never other ones.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "sandbox/profile.h"
#include "sandbox/sandbox.h"

/* The kernel's interface, which Debian 12's headers know only in part. */
struct ruleset_attr {
	uint64_t fs, net, scoped;
};
struct path_beneath {
	uint64_t access;
	int32_t fd;
} __attribute__((packed));

enum { RULE_PATH_BENEATH = 1 };
enum {
	FS_EXECUTE = 1 << 0,
	FS_WRITE_FILE = 1 << 1,
	FS_READ_FILE = 1 << 2,
	FS_READ_DIR = 1 << 3,
	FS_REMOVE_DIR = 1 << 4,
	FS_REMOVE_FILE = 1 << 5,
	FS_MAKE_DIR = 1 << 7,
	FS_MAKE_REG = 1 << 8,
	FS_REFER = 1 << 13,
	FS_TRUNCATE = 1 << 14,
	FS_ABI1 = (1 << 13) - 1,
	FS_IOCTL_DEV = 1 << 15,
	NET_BIND_TCP = 1 << 0,
	NET_CONNECT_TCP = 1 << 1,
	SCOPE_ABSTRACT_UNIX = 1 << 0,
	SCOPE_SIGNAL = 1 << 1,
};

#define FS_FILE_RIGHTS (FS_READ_FILE | FS_WRITE_FILE | FS_TRUNCATE)
#define FS_READ (FS_READ_FILE | FS_READ_DIR)
#define FS_WRITE                                                                                \
	(FS_READ | FS_WRITE_FILE | FS_TRUNCATE | FS_REMOVE_DIR | FS_REMOVE_FILE | FS_MAKE_DIR | \
		FS_MAKE_REG | FS_REFER)

static struct ruleset_attr handled(const struct profile *p, long abi)
{
	struct ruleset_attr a = {.fs = FS_ABI1};
	if (abi >= 2)
		a.fs |= FS_REFER;
	if (abi >= 3)
		a.fs |= FS_TRUNCATE;
	if (abi >= 4 && !(p->net & NET_BIND))
		a.net |= NET_BIND_TCP;
	if (abi >= 4 && !(p->net & NET_CONNECT))
		a.net |= NET_CONNECT_TCP;
	if (abi >= 5)
		a.fs |= FS_IOCTL_DEV;
	if (abi >= 6)
		a.scoped = SCOPE_ABSTRACT_UNIX | (p->signals ? 0 : SCOPE_SIGNAL);
	return a;
}

static int add_path(int ruleset, const struct ruleset_attr *a, const struct sandbox_path *p)
{
	_cleanup_close_ int opened = -1;
	int fd = p->fd;
	struct stat st;
	if (p->path) {
		fd = opened = open(p->path, O_PATH | O_CLOEXEC);
		if (fd < 0)
			return errno == ENOENT ? 0 : -errno;
	}
	if (fstat(fd, &st) < 0)
		return -errno;
	uint64_t access = p->write ? FS_WRITE : FS_READ;
	if (!S_ISDIR(st.st_mode))
		access &= FS_FILE_RIGHTS;
	struct path_beneath rule = {.access = access & a->fs, .fd = fd};
	return syscall(SYS_landlock_add_rule, ruleset, RULE_PATH_BENEATH, &rule, 0) < 0 ? -errno
											: 0;
}

int sandbox_landlock(enum sandbox_profile id, const struct sandbox_args *args, struct error *e)
{
	const struct profile *p = profile_get(id);
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, 1 /* which version? */);
	if (!p->landlock || abi <= 0)
		return 0;
	struct ruleset_attr a = handled(p, abi);
	size_t size = abi >= 6 ? sizeof(a) : abi >= 4 ? 16 : 8;
	_cleanup_close_ int fd = (int)syscall(SYS_landlock_create_ruleset, &a, size, 0);
	if (fd < 0)
		return error_errno(e, -errno, "cannot make the Landlock rules");
	for (size_t i = 0; args && i < args->n_paths; i++) {
		int r = add_path(fd, &a, &args->paths[i]);
		if (r < 0)
			return error_errno(e, r, "cannot allow %s in the sandbox",
				args->paths[i].path ? args->paths[i].path : "a descriptor");
	}
	if (syscall(SYS_landlock_restrict_self, fd, 0) < 0)
		return error_errno(e, -errno, "cannot enter the Landlock domain");
	return 0;
}
