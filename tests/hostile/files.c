/* Channels made of files and terminals. */
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "hostile.h"

int main(void)
{
	char path[64], other[64];
	struct stat st;
	snprintf(path, sizeof(path), "/tmp/hostile-fifo-%d", getpid());
	snprintf(other, sizeof(other), "/tmp/hostile-fifo-%d-2", getpid());
	/* A pipe no rule shares is not there for anybody else: its place holds a link. */
	if (mkfifo(path, 0600) == 0 && (lstat(path, &st) < 0 || !S_ISLNK(st.st_mode)))
		got_through("a pipe others see");
	if (syscall(SYS_mknodat, AT_FDCWD, other, 0x100000000 | S_IFIFO | 0600, 0) == 0 &&
		(lstat(other, &st) < 0 || !S_ISLNK(st.st_mode)))
		got_through("a pipe others see");
	unlink(path);
	unlink(other);
	REFUSED(ioctl(0, TIOCSTI, "x"), EPERM);
	REFUSED(syscall(SYS_ioctl, 0, 0x100000000 | TIOCSTI, "x"), EPERM);
	REFUSED(syscall(SYS_add_key, "user", "x", "y", 1, -4), ENOSYS);
	held();
}
