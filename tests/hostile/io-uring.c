/* io_uring opens and connects sockets without system calls a filter sees. */
#include "hostile.h"

int main(void)
{
	char params[256] = {0};
	REFUSED(syscall(425, 8, params), ENOSYS);
	REFUSED(syscall(426, 0, 1, 0, 0, NULL, 0), ENOSYS);
	REFUSED(syscall(427, 0, 0, NULL, 0), ENOSYS);
	held();
}
