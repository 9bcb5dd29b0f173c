/* Channels made of files and terminals. */
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "hostile.h"

int main(void)
{
	char path[64];
	snprintf(path, sizeof(path), "/tmp/hostile-fifo-%d", getpid());
	REFUSED(mkfifo(path, 0600), EACCES);
	REFUSED(mknod(path, S_IFIFO | 0600, 0), EACCES);
	REFUSED(ioctl(0, TIOCSTI, "x"), EPERM);
	REFUSED(syscall(SYS_ioctl, 0, 0x100000000 | TIOCSTI, "x"), EPERM);
	REFUSED(syscall(SYS_add_key, "user", "x", "y", 1, -4), ENOSYS);
	held();
}
