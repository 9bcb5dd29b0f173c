/* prctl(PR_SET_MM) makes /proc/self/exe name another program. */
#include "hostile.h"

int main(void)
{
	int fd = open("/bin/true", O_RDONLY);
	REFUSED(prctl(PR_SET_MM, PR_SET_MM_EXE_FILE, fd, 0, 0), EPERM);
	REFUSED(syscall(SYS_prctl, 0x100000000 | PR_SET_MM, PR_SET_MM_MAP, 0, 0, 0), EPERM);
	held();
}
