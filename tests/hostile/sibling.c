/* Acting through another process of the same tree, which may be another program. */
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/uio.h>

#include "hostile.h"

static volatile int secret = 42;

int main(void)
{
	pid_t child = fork();
	if (child == 0) {
		pause();
		_exit(0);
	}
	int value = 7;
	struct iovec mine = {&value, sizeof(value)};
	struct iovec its = {(void *)(uintptr_t)&secret, sizeof(secret)};
	REFUSED(ptrace(PTRACE_ATTACH, child, NULL, NULL), EPERM);
	REFUSED(ptrace(PTRACE_SEIZE, child, NULL, NULL), EPERM);
	REFUSED(ptrace(PTRACE_TRACEME, 0, NULL, NULL), EPERM);
	REFUSED(process_vm_writev(child, &mine, 1, &its, 1, 0), EPERM);
	REFUSED(process_vm_readv(child, &mine, 1, &its, 1, 0), EPERM);
	int pidfd = (int)syscall(434 /* pidfd_open */, child, 0);
	REFUSED(syscall(438 /* pidfd_getfd */, pidfd, 0, 0), EPERM);
	REFUSED(syscall(SYS_kcmp, getpid(), child, 2, 0, 0), EPERM);
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/mem", child);
	REFUSED(open(path, O_RDWR), EROFS);
	REFUSED(open(path, O_WRONLY), EROFS);
	REFUSED(open("/proc/self/mem", O_RDWR), EROFS);
	kill(child, 9);
	held();
}
