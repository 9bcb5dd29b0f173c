/*
 * connect(2) on a program's socket (connect.h). The program, and other threads of it, can do
 * anything to the same socket at the same time; the address is the caller's own copy. Four system
 * calls on a blocking socket whose listener answers, two on others.
 */
#include "base/connect.h"

#include <errno.h>
#include <fcntl.h>

int connect_to(int fd, int family, const struct addr *to)
{
	struct sockaddr_storage sa;
	socklen_t len;
	if (addr_to_sockaddr(to, family, &sa, &len) < 0)
		return -EAFNOSUPPORT;
	return connect(fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
}

static void lend(uint32_t *lent, uint32_t v)
{
	if (lent)
		__atomic_store_n(lent, v, __ATOMIC_RELEASE);
}

void connect_give_back(int fd, uint32_t *lent)
{
	int fl = fcntl(fd, F_GETFL);
	if (fl >= 0)
		fcntl(fd, F_SETFL, fl & ~O_NONBLOCK);
	lend(lent, 0);
}

/*
 * The flag belongs to the open file, which the program shares: it is changed only in the two states
 * where the call could block, in which nothing can be read or accepted, and only for the call.
 */
int connect_now(int fd, int family, const struct addr *to, uint32_t *lent)
{
	int fl = fcntl(fd, F_GETFL);
	if (fl < 0)
		return -errno;
	if (fl & O_NONBLOCK)
		return connect_to(fd, family, to);
	lend(lent, 1);
	int r = fcntl(fd, F_SETFL, fl | O_NONBLOCK) < 0 ? -errno : connect_to(fd, family, to);
	/*
	 * The answer crossed the loopback within the call but waits until the socket is unlocked:
	 * asked again, the kernel knows. Not for a non-blocking program, which is to see what it
	 * always sees: EINPROGRESS, then 0, then EISCONN.
	 */
	if (r == -EINPROGRESS)
		r = connect_to(fd, family, to);
	/* A blocking program would now wait; also one that calls again after a signal. */
	if (r == -EALREADY)
		r = -EINPROGRESS;
	fcntl(fd, F_SETFL, fl);
	lend(lent, 0);
	return r;
}
