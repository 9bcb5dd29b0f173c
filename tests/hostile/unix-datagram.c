/* Sending from a Unix datagram socket by every call nobody is asked about. */
#include <sys/sendfile.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "hostile.h"

static struct sockaddr_un path = {AF_UNIX, ""};

static void tries(int fd)
{
	struct iovec iv = {(void *)(uintptr_t) "x", 1};
	struct msghdr m = {&path, sizeof(path), &iv, 1, NULL, 0, 0};
	struct mmsghdr mm = {m, 0};
	int p[2], file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
	REFUSED(sendmsg(fd, &m, MSG_NOSIGNAL), EPIPE);
	REFUSED(sendmmsg(fd, &mm, 1, MSG_NOSIGNAL), EPIPE);
	m.msg_name = NULL;
	if (sendmsg(fd, &m, MSG_NOSIGNAL) >= 0 || send(fd, "x", 1, MSG_NOSIGNAL) >= 0)
		got_through("it sends without a name");
	REFUSED(write(fd, "x", 1), EPIPE);
	REFUSED(writev(fd, &iv, 1), EPIPE);
	REFUSED(sendfile(fd, file, NULL, 1), EPIPE);
	if (pipe(p) < 0 || write(p[1], "x", 1) != 1)
		got_through("no pipe");
	REFUSED(splice(p[0], NULL, fd, NULL, 1, 0), EPIPE);
	close(p[0]);
	close(p[1]);
	close(file);
}

int main(void)
{
	snprintf(path.sun_path, sizeof(path.sun_path), "/tmp/hostile-datagram-%d", getpid());
	int to = socket(AF_UNIX, SOCK_DGRAM, 0), raw = socket(AF_UNIX, SOCK_RAW, 0), one = 1;
	if (to < 0 || raw < 0 || bind(to, (struct sockaddr *)&path, sizeof(path)) < 0)
		got_through("no datagram sockets: %s", strerror(errno));
	/* The number under which it is trapped is the program's to change. */
	for (int round = 0; round < 3; round++) {
		int fd = dup(round ? raw : to), kind = 0;
		socklen_t len = sizeof(kind);
		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &kind, &len) < 0 || kind != SOCK_DGRAM)
			got_through("another kind of socket");
		tries(fd);
		setsockopt(fd, SOL_SOCKET, SO_PASSCRED, &one, sizeof(one));
		shutdown(fd, SHUT_RD);
		if (round && connect(fd, (struct sockaddr *)&path, sizeof(path)) < 0)
			got_through("cannot connect within the tree: %s", strerror(errno));
		tries(fd);
		struct sockaddr_un none = {.sun_family = AF_UNSPEC};
		connect(fd, (struct sockaddr *)&none, sizeof(none));
		tries(fd);
	}
	/* What it may, it may: the same through the front door, which nothing above used. */
	char c;
	if (sendto(raw, "y", 1, 0, (struct sockaddr *)&path, sizeof(path)) == 1)
		got_through("it was shut for receiving");
	int fresh = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	unlink(path.sun_path);
	if (bind(fresh, (struct sockaddr *)&path, sizeof(path)) < 0 ||
		sendto(raw, "y", 1, 0, (struct sockaddr *)&path, sizeof(path)) != 1 ||
		recv(fresh, &c, 1, 0) != 1 || c != 'y' || recv(fresh, &c, 1, 0) >= 0)
		got_through("more or less arrived than was sent: %s", strerror(errno));
	unlink(path.sun_path);
	held();
}
