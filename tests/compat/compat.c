/*
 * What a program that knows nothing of Belay may rely on: 28 points, each found broken by some way
 * of binding that was not taken. Runs plainly (27 hold, the last is skipped) and under `belay run`
 * (28 hold); prints TAP. Uses ports from COMPAT_PORT (7700) up to 99 more, on 127.0.0.1 and ::1.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define SKIP 2
#define BULK (16u << 20)

static uint16_t next_port;

/* A point's condition: says which one failed and leaves the point. */
#define WANT(c)                                                                                \
	do {                                                                                   \
		if (!(c)) {                                                                    \
			printf("# %s:%d: %s (%s)\n", __func__, __LINE__, #c, strerror(errno)); \
			return 0;                                                              \
		}                                                                              \
	} while (0)

static struct sockaddr_in at(uint16_t port)
{
	return (struct sockaddr_in){.sin_family = AF_INET,
		.sin_port = htons(port),
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static int tcp(int flags)
{
	return socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | flags, 0);
}

static int bound(uint16_t port)
{
	struct sockaddr_in a = at(port);
	int fd = tcp(0), one = 1;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return -1;
	return fd;
}

static int listening(uint16_t *port)
{
	*port = next_port++;
	int fd = bound(*port);
	return fd < 0 || listen(fd, 64) < 0 ? -1 : fd;
}

static int join(int fd, uint16_t port)
{
	struct sockaddr_in a = at(port);
	return connect(fd, (struct sockaddr *)&a, sizeof(a));
}

struct pair {
	int l, c, s;
	uint16_t port;
};

static bool pair_open(struct pair *p)
{
	p->l = listening(&p->port);
	p->c = tcp(0);
	if (p->l < 0 || p->c < 0 || join(p->c, p->port) < 0)
		return false;
	p->s = accept(p->l, NULL, NULL);
	return p->s >= 0;
}

static bool talks(int a, int b)
{
	char c = 0;
	return write(a, "x", 1) == 1 && read(b, &c, 1) == 1 && c == 'x' && write(b, "y", 1) == 1 &&
	       read(a, &c, 1) == 1 && c == 'y';
}

static int option(int fd, int level, int name)
{
	int v = -1;
	socklen_t len = sizeof(v);
	getsockopt(fd, level, name, &v, &len);
	return v;
}

static int p_connect(void)
{
	struct pair p;
	WANT(pair_open(&p));
	WANT(talks(p.c, p.s));
	return 1;
}

static int p_getpeername(void)
{
	struct pair p;
	struct sockaddr_in a;
	socklen_t len = sizeof(a);
	WANT(pair_open(&p));
	WANT(getpeername(p.c, (struct sockaddr *)&a, &len) == 0 && len == sizeof(a));
	WANT(a.sin_family == AF_INET && ntohs(a.sin_port) == p.port);
	WANT(a.sin_addr.s_addr == htonl(INADDR_LOOPBACK));
	return 1;
}

static int p_getsockname(void)
{
	struct pair p;
	struct sockaddr_in own, peer;
	socklen_t len = sizeof(own);
	WANT(pair_open(&p));
	WANT(getsockname(p.c, (struct sockaddr *)&own, &len) == 0);
	WANT(getpeername(p.s, (struct sockaddr *)&peer, &len) == 0);
	WANT(own.sin_port == peer.sin_port && own.sin_addr.s_addr == peer.sin_addr.s_addr);
	return 1;
}

static int p_nodelay(void)
{
	struct pair p;
	int one = 1;
	WANT(pair_open(&p));
	WANT(setsockopt(p.c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) == 0);
	WANT(option(p.c, IPPROTO_TCP, TCP_NODELAY) == 1);
	return 1;
}

static int p_keepalive(void)
{
	struct pair p;
	int v = 42, one = 1;
	WANT(pair_open(&p));
	WANT(setsockopt(p.c, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one)) == 0);
	WANT(setsockopt(p.c, IPPROTO_TCP, TCP_KEEPIDLE, &v, sizeof(v)) == 0);
	WANT(option(p.c, IPPROTO_TCP, TCP_KEEPIDLE) == 42);
	return 1;
}

static int p_tcp_info(void)
{
	struct pair p;
	struct tcp_info i;
	socklen_t len = sizeof(i);
	WANT(pair_open(&p));
	WANT(getsockopt(p.c, IPPROTO_TCP, TCP_INFO, &i, &len) == 0);
	WANT(i.tcpi_state == TCP_ESTABLISHED);
	return 1;
}

static int p_second_connect(void)
{
	struct pair p;
	WANT(pair_open(&p));
	WANT(join(p.c, p.port) < 0 && errno == EISCONN);
	WANT(talks(p.c, p.s));
	return 1;
}

static int p_epoll_before(void)
{
	uint16_t port;
	int l = listening(&port), c = tcp(SOCK_NONBLOCK), ep = epoll_create1(0);
	struct epoll_event ev = {.events = EPOLLOUT, .data.u64 = 0x1122334455667788u}, got;
	WANT(epoll_ctl(ep, EPOLL_CTL_ADD, c, &ev) == 0);
	while (epoll_wait(ep, &got, 1, 0) > 0 && !(got.events & EPOLLHUP))
		;
	WANT(l >= 0 && join(c, port) < 0 && errno == EINPROGRESS);
	do
		WANT(epoll_wait(ep, &got, 1, 2000) == 1 && got.data.u64 == ev.data.u64);
	while (got.events & EPOLLHUP);
	WANT((got.events & EPOLLOUT) && option(c, SOL_SOCKET, SO_ERROR) == 0);
	ev.events = EPOLLIN;
	WANT(epoll_ctl(ep, EPOLL_CTL_MOD, c, &ev) == 0);
	int s = accept(l, NULL, NULL);
	WANT(write(s, "x", 1) == 1 && epoll_wait(ep, &got, 1, 2000) == 1);
	WANT(epoll_ctl(ep, EPOLL_CTL_DEL, c, NULL) == 0);
	return 1;
}

static int p_dup_before(void)
{
	uint16_t port;
	int l = listening(&port), c = tcp(0), d = dup(c);
	WANT(l >= 0 && join(c, port) == 0);
	WANT(talks(d, accept(l, NULL, NULL)));
	return 1;
}

static int p_fork_connects(void)
{
	uint16_t port;
	int l = listening(&port), c = tcp(0), status = 0;
	pid_t child = fork();
	if (child == 0)
		_exit(join(c, port) == 0 ? 0 : 1);
	WANT(waitpid(child, &status, 0) == child && status == 0);
	WANT(talks(c, accept(l, NULL, NULL)));
	return 1;
}

static int p_options_before(void)
{
	uint16_t port;
	int l = listening(&port), c = tcp(0), one = 1, size = 65536;
	setsockopt(c, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	setsockopt(c, SOL_SOCKET, SO_RCVBUF, &size, sizeof(size));
	int before = option(c, SOL_SOCKET, SO_RCVBUF);
	WANT(l >= 0 && join(c, port) == 0);
	WANT(option(c, IPPROTO_TCP, TCP_NODELAY) == 1);
	WANT(option(c, SOL_SOCKET, SO_RCVBUF) == before);
	return 1;
}

static int p_source_port(void)
{
	uint16_t port, own = next_port++;
	int l = listening(&port), c = bound(own);
	struct sockaddr_in peer;
	socklen_t len = sizeof(peer);
	WANT(l >= 0 && c >= 0 && join(c, port) == 0);
	int s = accept(l, (struct sockaddr *)&peer, &len);
	WANT(s >= 0 && ntohs(peer.sin_port) == own);
	return 1;
}

static int p_nonblock_poll(void)
{
	uint16_t port;
	int l = listening(&port), c = tcp(SOCK_NONBLOCK);
	WANT(l >= 0 && join(c, port) < 0 && errno == EINPROGRESS);
	struct pollfd p = {c, POLLOUT, 0};
	WANT(poll(&p, 1, 2000) == 1 && p.revents == POLLOUT);
	WANT(option(c, SOL_SOCKET, SO_ERROR) == 0);
	return 1;
}

static int p_nonblock_select(void)
{
	uint16_t port;
	int l = listening(&port), c = tcp(0);
	fcntl(c, F_SETFL, O_NONBLOCK);
	WANT(l >= 0 && join(c, port) < 0 && errno == EINPROGRESS);
	fd_set w;
	FD_ZERO(&w);
	FD_SET(c, &w);
	struct timeval tv = {2, 0};
	WANT(select(c + 1, NULL, &w, NULL, &tv) == 1 && FD_ISSET(c, &w));
	WANT(option(c, SOL_SOCKET, SO_ERROR) == 0);
	return 1;
}

static int p_epoll_edge(void)
{
	struct pair p;
	WANT(pair_open(&p));
	int level = epoll_create1(0), edge = epoll_create1(0);
	struct epoll_event a = {.events = EPOLLIN}, b = {.events = EPOLLIN | EPOLLET}, got;
	WANT(epoll_ctl(level, EPOLL_CTL_ADD, p.c, &a) == 0);
	WANT(epoll_ctl(edge, EPOLL_CTL_ADD, p.c, &b) == 0);
	WANT(write(p.s, "x", 1) == 1);
	WANT(epoll_wait(level, &got, 1, 2000) == 1 && epoll_wait(level, &got, 1, 0) == 1);
	WANT(epoll_wait(edge, &got, 1, 2000) == 1 && epoll_wait(edge, &got, 1, 0) == 0);
	WANT(write(p.s, "x", 1) == 1 && epoll_wait(edge, &got, 1, 2000) == 1);
	return 1;
}

static int p_nonblock_refused(void)
{
	int c = tcp(SOCK_NONBLOCK);
	WANT(join(c, next_port++) < 0 && (errno == EINPROGRESS || errno == ECONNREFUSED));
	if (errno == ECONNREFUSED)
		return 1;
	struct pollfd p = {c, POLLOUT, 0};
	WANT(poll(&p, 1, 2000) == 1);
	WANT(option(c, SOL_SOCKET, SO_ERROR) == ECONNREFUSED);
	return 1;
}

static int p_double_connect(void)
{
	uint16_t port;
	int l = listening(&port), c = tcp(SOCK_NONBLOCK);
	WANT(l >= 0 && join(c, port) < 0 && errno == EINPROGRESS);
	struct pollfd p = {c, POLLOUT, 0};
	WANT(poll(&p, 1, 2000) == 1);
	WANT(join(c, port) == 0);
	WANT(join(c, port) < 0 && errno == EISCONN);
	fcntl(c, F_SETFL, 0);
	WANT(talks(c, accept(l, NULL, NULL)));
	fcntl(l, F_SETFL, O_NONBLOCK);
	WANT(accept(l, NULL, NULL) < 0 && errno == EAGAIN); /* one connection, not two */
	return 1;
}

static int p_refused(void)
{
	WANT(join(tcp(0), next_port++) < 0 && errno == ECONNREFUSED);
	return 1;
}

static int p_accept4(void)
{
	uint16_t port;
	int l = listening(&port);
	WANT(l >= 0 && join(tcp(0), port) == 0);
	int s = accept4(l, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	WANT(s >= 0 && (fcntl(s, F_GETFL) & O_NONBLOCK) && fcntl(s, F_GETFD) == FD_CLOEXEC);
	int plain = socket(AF_INET, SOCK_STREAM, 0);
	WANT(fcntl(plain, F_GETFD) == 0 && !(fcntl(plain, F_GETFL) & O_NONBLOCK));
	return 1;
}

static void on_alarm(int s)
{
	(void)s;
}

static int p_eintr(void)
{
	uint16_t port;
	int l = listening(&port);
	struct sigaction a = {.sa_handler = on_alarm}, old;
	struct itimerval t = {{0, 0}, {0, 50000}};
	sigaction(SIGALRM, &a, &old);
	setitimer(ITIMER_REAL, &t, NULL);
	int r = accept(l, NULL, NULL), e = errno;
	sigaction(SIGALRM, &old, NULL);
	WANT(r < 0 && e == EINTR);
	return 1;
}

static int listen6(uint16_t port, bool only)
{
	struct sockaddr_in6 a = {
		.sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_ANY_INIT};
	int fd = socket(AF_INET6, SOCK_STREAM, 0), one = 1, v = only;
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &v, sizeof(v));
	return bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 5) < 0 ? -1 : fd;
}

static int p_dual_stack(void)
{
	uint16_t port = next_port++;
	int l = listen6(port, false), c = tcp(0);
	struct sockaddr_in6 peer;
	socklen_t len = sizeof(peer);
	WANT(l >= 0 && join(c, port) == 0);
	int s = accept(l, (struct sockaddr *)&peer, &len);
	WANT(s >= 0 && IN6_IS_ADDR_V4MAPPED(&peer.sin6_addr));
	WANT(talks(c, s));
	return 1;
}

static int p_ipv6(void)
{
	uint16_t port = next_port++;
	int l = listen6(port, true), c = socket(AF_INET6, SOCK_STREAM, 0);
	struct sockaddr_in6 a = {.sin6_family = AF_INET6,
		.sin6_port = htons(port),
		.sin6_addr = IN6ADDR_LOOPBACK_INIT};
	WANT(l >= 0 && connect(c, (struct sockaddr *)&a, sizeof(a)) == 0);
	WANT(talks(c, accept(l, NULL, NULL)));
	return 1;
}

static int p_restart(void)
{
	struct pair p;
	WANT(pair_open(&p));
	close(p.l);
	close(p.s); /* the server's side ends first and stays in TIME_WAIT */
	char c;
	WANT(read(p.c, &c, 1) == 0);
	close(p.c);
	int l = bound(p.port);
	WANT(l >= 0 && listen(l, 5) == 0);
	WANT(join(tcp(0), p.port) == 0);
	return 1;
}

static int p_scm(void)
{
	struct pair p;
	int u[2], got = -1;
	char byte = 'x', control[CMSG_SPACE(sizeof(int))] = {0};
	struct iovec iv = {&byte, 1};
	struct msghdr m = {.msg_iov = &iv,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	WANT(pair_open(&p) && socketpair(AF_UNIX, SOCK_STREAM, 0, u) == 0);
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	*h = (struct cmsghdr){CMSG_LEN(sizeof(int)), SOL_SOCKET, SCM_RIGHTS};
	memcpy(CMSG_DATA(h), &p.c, sizeof(int));
	WANT(sendmsg(u[0], &m, 0) == 1 && recvmsg(u[1], &m, 0) == 1);
	memcpy(&got, CMSG_DATA(CMSG_FIRSTHDR(&m)), sizeof(int));
	close(p.c);
	WANT(talks(got, p.s));
	return 1;
}

static int p_half_close(void)
{
	struct pair p;
	char c;
	WANT(pair_open(&p));
	WANT(shutdown(p.c, SHUT_WR) == 0 && read(p.s, &c, 1) == 0);
	WANT(write(p.s, "z", 1) == 1 && read(p.c, &c, 1) == 1 && c == 'z');
	return 1;
}

static int p_peek(void)
{
	struct pair p;
	char c = 0;
	int n = -1;
	WANT(pair_open(&p));
	WANT(send(p.c, "xy", 2, MSG_NOSIGNAL) == 2);
	WANT(recv(p.s, &c, 1, MSG_PEEK) == 1 && c == 'x' && recv(p.s, &c, 1, 0) == 1 && c == 'x');
	WANT(recv(p.s, &n, 1, MSG_DONTWAIT) == 1 && recv(p.s, &n, 1, MSG_DONTWAIT) < 0 &&
		errno == EAGAIN);
	return 1;
}

static int p_bulk(void)
{
	struct pair p;
	static uint8_t buf[65536];
	uint32_t sum = 0, want = 0, total = 0;
	WANT(pair_open(&p));
	pid_t child = fork();
	if (child == 0) {
		for (uint32_t sent = 0; sent < BULK; sent += sizeof(buf)) {
			memset(buf, (int)(sent >> 16), sizeof(buf));
			for (size_t n = 0; n < sizeof(buf);) {
				ssize_t w = write(p.c, buf + n, sizeof(buf) - n);
				if (w <= 0)
					_exit(1);
				n += (size_t)w;
			}
		}
		_exit(0);
	}
	close(p.c);
	for (uint32_t i = 0; i < BULK >> 16; i++)
		want += (i & 0xff) * 65536u;
	for (ssize_t n; (n = read(p.s, buf, sizeof(buf))) > 0; total += (uint32_t)n)
		for (ssize_t i = 0; i < n; i++)
			sum += buf[i];
	waitpid(child, NULL, 0);
	WANT(total == BULK && sum == want);
	return 1;
}

static int p_old_entry(void)
{
#if defined(__x86_64__)
	if (prctl(PR_GET_SECCOMP) <= 0)
		return SKIP;
	long r;
	/* socket(AF_INET, SOCK_STREAM, 0) by its 32-bit number */
	__asm__ volatile("int $0x80" : "=a"(r) : "a"(359L), "b"(2L), "c"(1L), "d"(0L) : "memory");
	errno = (int)-r;
	WANT(r == -ENOSYS);
	return 1;
#else
	return SKIP;
#endif
}

static const struct {
	const char *name;
	int (*run)(void);
} points[] = {
	{"connect and talk", p_connect},
	{"getpeername is the address asked for", p_getpeername},
	{"getsockname is what the peer sees", p_getsockname},
	{"TCP_NODELAY", p_nodelay},
	{"keep-alive options", p_keepalive},
	{"TCP_INFO", p_tcp_info},
	{"second connect is EISCONN", p_second_connect},
	{"epoll registered before connect", p_epoll_before},
	{"dup before connect", p_dup_before},
	{"fork, then the child connects", p_fork_connects},
	{"options set before connect stay", p_options_before},
	{"source port bound before connect", p_source_port},
	{"non-blocking connect, poll", p_nonblock_poll},
	{"non-blocking connect, select", p_nonblock_select},
	{"epoll level- and edge-triggered", p_epoll_edge},
	{"non-blocking connect refused, SO_ERROR", p_nonblock_refused},
	{"connect again when writable: 0, then EISCONN", p_double_connect},
	{"blocking connect refused", p_refused},
	{"accept4 and socket flags", p_accept4},
	{"accept interrupted by a signal", p_eintr},
	{"dual-stack listener, IPv4 client", p_dual_stack},
	{"IPv6", p_ipv6},
	{"SO_REUSEADDR restart", p_restart},
	{"connected socket passed over a Unix socket", p_scm},
	{"half close", p_half_close},
	{"MSG_PEEK and MSG_DONTWAIT", p_peek},
	{"16 MiB arrive unchanged", p_bulk},
	{"int 0x80 makes no socket", p_old_entry},
};

int main(void)
{
	size_t n = sizeof(points) / sizeof(points[0]), bad = 0;
	const char *base = getenv("COMPAT_PORT");
	next_port = (uint16_t)(base ? atoi(base) : 7700);
	setvbuf(stdout, NULL, _IOLBF, 0);
	alarm(60);
	printf("1..%zu\n", n);
	for (size_t i = 0; i < n; i++) {
		int r = points[i].run();
		bad += !r;
		printf("%sok %zu - %s%s\n", r ? "" : "not ", i + 1, points[i].name,
			r == SKIP ? " # SKIP no filter is in force" : "");
	}
	return bad ? 1 : 0;
}
