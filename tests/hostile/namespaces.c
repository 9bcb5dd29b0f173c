/* A namespace of one's own makes one privileged there; another's is the way out. */
#include <sched.h>
#include <sys/mount.h>

#include "hostile.h"

int main(void)
{
	static const int kinds[] = {CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWIPC,
		CLONE_NEWPID, CLONE_NEWUTS, 0x02000000 /* cgroup */};
	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
		REFUSED(unshare(kinds[i]), EPERM);
		REFUSED(syscall(SYS_clone, kinds[i] | 17, 0, 0, 0, 0), EPERM);
	}
	REFUSED(unshare(0x80 /* time */), EPERM);
	char args[128] = {0};
	REFUSED(syscall(SYS_clone3, args, sizeof(args)), ENOSYS);
	int ns = open("/proc/1/ns/net", O_RDONLY), own = open("/proc/self/ns/net", O_RDONLY);
	REFUSED(setns(ns >= 0 ? ns : own, 0), EPERM);
	REFUSED(mount("none", "/mnt", "tmpfs", 0, NULL), EPERM);
	REFUSED(umount2("/proc", MNT_DETACH), EPERM);
	REFUSED(syscall(SYS_pivot_root, "/", "/"), EPERM);
	REFUSED(syscall(SYS_open_tree, -100, "/", 1), EPERM);
	REFUSED(syscall(SYS_fsopen, "proc", 0), EPERM);
	REFUSED(syscall(SYS_open_by_handle_at, 0, NULL, 0), EPERM);
	REFUSED(syscall(SYS_bpf, 0, NULL, 0), EPERM);
	REFUSED(syscall(SYS_perf_event_open, NULL, 0, 0, 0, 0), EPERM);
	held();
}
