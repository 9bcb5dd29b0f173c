/* The 32-bit and x32 ways into the kernel number their calls differently. */
#include "hostile.h"

int main(void)
{
#if defined(__x86_64__)
	static const long calls[] = {359 /* socket */, 362 /* connect */, 102 /* socketcall */,
		11 /* execve */, 120 /* clone */, 26 /* ptrace */, 425 /* io_uring_setup */};
	for (size_t i = 0; i < sizeof(calls) / sizeof(calls[0]); i++) {
		long r;
		__asm__ volatile("int $0x80"
				 : "=a"(r)
				 : "a"(calls[i]), "b"(2L), "c"(1L), "d"(0L)
				 : "memory");
		if (r != -ENOSYS)
			got_through("int 0x80 call %ld gave %ld", calls[i], r);
	}
	REFUSED(syscall(0x40000000 | SYS_socket, AF_INET, SOCK_STREAM, 0), ENOSYS);
	REFUSED(syscall(0x40000000 | SYS_connect, 3, NULL, 0), ENOSYS);
	REFUSED(syscall(0x40000000 | 520 /* execve */, NULL, NULL, NULL), ENOSYS);
	REFUSED(syscall(100000), ENOSYS);
	held();
#else
	skip("one way in only");
#endif
}
