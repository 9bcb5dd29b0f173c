/*
 * fake-instance ENFORCE COMMAND...: an instance of two processes, to test belay-enforce and
 * belay-run without the rest. The real belay-enforce is started as belayd would start it; a child
 * in a network namespace of its own stands in for guard and fabric and allows everything but what
 * FAKE_DENY_PORT, FAKE_DENY_EXE and FAKE_DENY_UNIX name. COMMAND runs with BELAY_DIR set; its exit
 * status is ours. FAKE_KILL_MS=N kills enforce every N ms and starts a successor with what the old
 * one had kept.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>

#include "base/addr.h"
#include "base/clock.h"
#include "base/fds.h"
#include "component.pb-c.h"
#include "control.pb-c.h"
#include "enforce.pb-c.h"
#include "ipc/component.h"
#include "ipc/ipc.h"

#define CONTROLS 256

static void die(const char *what)
{
	perror(what);
	exit(99);
}

static void must(int r, const char *what)
{
	if (r < 0) {
		errno = errno ? errno : -r;
		die(what);
	}
}

/* ---- guard and fabric ---- */

static int arrow = -1;
static uint64_t trees;

static long env_number(const char *name)
{
	const char *v = getenv(name);
	return v ? atol(v) : 0;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		fprintf(stderr, "# %s: %s\n", path, strerror(errno));
	if (fd >= 0)
		close(fd);
}

static void fabric_open(void)
{
	char uid[64], gid[64];
	snprintf(uid, sizeof(uid), "0 %u 1", geteuid());
	snprintf(gid, sizeof(gid), "0 %u 1", getegid());
	must(unshare(CLONE_NEWUSER | CLONE_NEWNET), "unshare");
	write_text("/proc/self/uid_map", uid);
	write_text("/proc/self/setgroups", "deny");
	write_text("/proc/self/gid_map", gid);
	write_text("/proc/sys/net/ipv4/ip_unprivileged_port_start", "32768");
	write_text("/proc/sys/net/ipv6/ip_nonlocal_bind", "1");
	must(system("ip link set lo up; ip route add local 0.0.0.0/0 dev lo; "
		    "ip -6 route add local ::/0 dev lo"),
		"ip");
}

static void send_answer(uint64_t id, int error, const char *notice)
{
	Belay__Answer a = BELAY__ANSWER__INIT;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	a.error = error;
	a.notice = (char *)(uintptr_t)notice;
	m.id = id;
	m.body_case = BELAY__TO_ENFORCE__BODY_ANSWER;
	m.answer = &a;
	int r = ipc_send_fd(arrow, &m.base, NULL, 0);
	(void)r;
}

static void send_sockets(const Belay__SocketsWanted *w)
{
	int fds[FDS_PASS_MAX];
	Belay__Sockets s = BELAY__SOCKETS__INIT;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	s.family = w->family;
	s.transport = w->transport;
	m.body_case = BELAY__TO_ENFORCE__BODY_SOCKETS;
	m.sockets = &s;
	int type = w->transport == BELAY__TRANSPORT__TRANSPORT_UDP ? SOCK_DGRAM : SOCK_STREAM;
	for (uint32_t i = 0; i < w->count; i++)
		fds[i] = socket((int)w->family, type | SOCK_CLOEXEC, 0);
	int r = ipc_send_fd(arrow, &m.base, fds, w->count);
	(void)r;
	for (uint32_t i = 0; i < w->count; i++)
		close(fds[i]);
}

static int do_address(const Belay__Question *q, int sock)
{
	struct sockaddr_storage sa;
	socklen_t len;
	struct addr a = {.ip_len = (uint8_t)q->address->ip.len, .port = (uint16_t)q->address->port};
	memcpy(a.ip, q->address->ip.data, a.ip_len);
	int n = addr_to_sockaddr(&a, (int)q->family, &sa, &len);
	if (n < 0)
		return n;
	if (q->call == BELAY__QUESTION__CALL__CALL_BIND)
		return bind(sock, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
	if (q->call == BELAY__QUESTION__CALL__CALL_DATAGRAM)
		return 0;
	int flags = fcntl(sock, F_GETFL);
	fcntl(sock, F_SETFL, flags | O_NONBLOCK);
	n = connect(sock, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
	fcntl(sock, F_SETFL, flags);
	return n;
}

static int judge_exec(const Belay__Question *q)
{
	char path[64], exe[64] = "";
	const char *deny = getenv("FAKE_DENY_EXE");
	/* The name is all that may be read from inside a user namespace. */
	snprintf(path, sizeof(path), "/proc/%u/comm", q->pid);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, exe, sizeof(exe) - 1);
	exe[n > 0 ? n - 1 : 0] = '\0';
	if (fd >= 0)
		close(fd);
	for (size_t i = 0; i < q->n_inherited && getenv("FAKE_SHOW"); i++)
		fprintf(stderr, "# %s inherits a socket of port %u\n", exe,
			q->inherited[i]->local->port);
	return deny && !strcmp(exe, deny) ? -EACCES : 0;
}

static int judge(const Belay__Question *q, const int *fds, size_t n_fds)
{
	struct sockaddr sa = {.sa_family = AF_UNSPEC};
	const char *deny = getenv("FAKE_DENY_UNIX");
	size_t want = q->call == BELAY__QUESTION__CALL__CALL_EXEC ||
				      q->call == BELAY__QUESTION__CALL__CALL_UNIX_CONNECT ||
				      q->call == BELAY__QUESTION__CALL__CALL_FIFO
			      ? 1
			      : 2;
	if (n_fds != want || fds_pidfd_alive(fds[0]) != 1)
		return -EBADMSG;
	if (q->address && q->address->port == (uint32_t)env_number("FAKE_DENY_PORT"))
		return -EACCES;
	switch (q->call) {
	case BELAY__QUESTION__CALL__CALL_EXEC:
		return judge_exec(q);
	case BELAY__QUESTION__CALL__CALL_LISTEN:
		return listen(fds[1], q->backlog) < 0 ? -errno : 0;
	case BELAY__QUESTION__CALL__CALL_DISCONNECT:
		return connect(fds[1], &sa, sizeof(sa)) < 0 ? -errno : 0;
	case BELAY__QUESTION__CALL__CALL_FIFO:
		return -EXDEV;
	case BELAY__QUESTION__CALL__CALL_UNIX_CONNECT:
		return deny && strstr(q->unix_path, deny) ? -EACCES : 0;
	default:
		return do_address(q, fds[1]);
	}
}

static bool serve_arrow(void)
{
	void *msg = NULL;
	int fds[FDS_PASS_MAX];
	size_t n_fds = 0;
	if (ipc_recv_fd(arrow, &belay__from_enforce__descriptor, &msg, fds, &n_fds) < 0)
		return false;
	const Belay__FromEnforce *m = msg;
	if (m->body_case == BELAY__FROM_ENFORCE__BODY_QUESTION) {
		int r = judge(m->question, fds, n_fds);
		send_answer(m->id, r, r == -EACCES ? "refused by the fake guard" : "");
	} else if (m->body_case == BELAY__FROM_ENFORCE__BODY_SOCKETS_WANTED) {
		send_sockets(m->sockets_wanted);
	}
	for (size_t i = 0; i < n_fds; i++)
		close(fds[i]);
	ipc_free(msg);
	return true;
}

static bool serve_control(int fd)
{
	void *msg = NULL;
	int fds[FDS_PASS_MAX];
	size_t n_fds = 0;
	if (ipc_recv_fd(fd, &belay__control_request__descriptor, &msg, fds, &n_fds) < 0)
		return false;
	Belay__TreeAdd t = BELAY__TREE_ADD__INIT;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	Belay__ControlReply reply = BELAY__CONTROL_REPLY__INIT;
	reply.text = (char *)(uintptr_t) "bound"; /* an empty message reads as the end */
	t.tree = ++trees;
	m.body_case = BELAY__TO_ENFORCE__BODY_TREE_ADD;
	m.tree_add = &t;
	if (getenv("FAKE_DENY_RUN")) {
		reply.error = -EACCES;
		reply.text = (char *)(uintptr_t) "no such name as --as says";
	} else {
		must(ipc_send_fd(arrow, &m.base, fds, n_fds), "tree");
	}
	must(ipc_send_fd(fd, &reply.base, NULL, 0), "reply");
	for (size_t i = 0; i < n_fds; i++)
		close(fds[i]);
	ipc_free(msg);
	return true;
}

/* `successors`: where the arrow's new ends come from after enforce was killed. */
static _Noreturn void guard(int listener, int successors)
{
	struct pollfd p[3 + CONTROLS] = {
		{listener, POLLIN, 0}, {-1, POLLIN, 0}, {successors, POLLIN, 0}};
	nfds_t n = 3;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	fabric_open();
	for (;;) {
		p[1].fd = arrow;
		if (poll(p, n, -1) < 0)
			continue;
		if (p[2].revents) {
			char c;
			int fd[FDS_PASS_MAX];
			size_t n_fd;
			if (fds_recv(successors, &c, 1, fd, &n_fd, 0) <= 0 || n_fd != 1)
				exit(0);
			if (arrow >= 0)
				close(arrow);
			arrow = fd[0];
			continue;
		}
		if (p[1].revents && !serve_arrow()) {
			close(arrow);
			arrow = -1;
		}
		if (p[0].revents && arrow >= 0 && n < 3 + CONTROLS) {
			int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
			if (fd >= 0)
				p[n++] = (struct pollfd){fd, POLLIN, 0};
		}
		for (nfds_t i = 3; i < n; i++)
			if (p[i].revents && !serve_control(p[i].fd)) {
				close(p[i].fd);
				p[i--] = p[--n];
				p[n].revents = 0;
			}
	}
}

/* ---- belayd and dispatcher ---- */

struct kept {
	char name[HERITAGE_NAME_MAX];
	int fd;
};
static struct kept kept[HERITAGE_KEPT_MAX];
static size_t n_kept;
static char dir[200];
static int memory, successors, belayd = -1, dispatcher = -1;
static pid_t enforce;
static uint32_t generation;

static int raw_fd(int fd)
{
	return fcntl(fd, F_DUPFD, 3);
}

static int by_fd(const void *a, const void *b)
{
	const struct heritage_kept *x = a, *y = b;
	return x->fd - y->fd;
}

static void enforce_exec(const char *program, int to_dispatcher, int to_belayd)
{
	static struct heritage_kept list[HERITAGE_KEPT_MAX];
	struct heritage h = {.role = ROLE_ENFORCE,
		.generation = generation,
		.state_dir = -1,
		.owner_uid = getuid(),
		.kept = list};
	char *text = NULL;
	snprintf(h.dir, sizeof(h.dir), "%s", dir);
	h.dispatcher = raw_fd(to_dispatcher);
	h.belayd = raw_fd(to_belayd);
	h.memory = raw_fd(memory);
	for (; h.n_kept < n_kept; h.n_kept++) {
		snprintf(list[h.n_kept].name, HERITAGE_NAME_MAX, "%s", kept[h.n_kept].name);
		list[h.n_kept].fd = raw_fd(kept[h.n_kept].fd);
	}
	qsort(list, h.n_kept, sizeof(list[0]), by_fd);
	must(heritage_format(&h, &text), "heritage");
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	execl(program, program, "--heritage", text, NULL);
	die(program);
}

static void enforce_start(const char *program)
{
	int d[2], b[2], a[2];
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, d), "socketpair");
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, b), "socketpair");
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, a), "socketpair");
	generation++;
	enforce = fork();
	if (enforce == 0)
		enforce_exec(program, d[1], b[1]);
	must(fds_send(successors, "x", 1, &a[0], 1, 0), "successor");
	Belay__Arrow m = BELAY__ARROW__INIT;
	Belay__ToComponent t = BELAY__TO_COMPONENT__INIT;
	m.role = ROLE_GUARD;
	m.pid = 1;
	m.generation = 1;
	t.body_case = BELAY__TO_COMPONENT__BODY_ARROW;
	t.arrow = &m;
	must(ipc_send_fd(d[0], &t.base, &a[1], 1), "arrow");
	close(d[1]);
	close(b[1]);
	close(a[0]);
	close(a[1]);
	if (dispatcher >= 0)
		close(dispatcher);
	dispatcher = d[0];
	belayd = b[0];
}

static void keep(const char *name, int fd)
{
	size_t i = 0;
	while (i < n_kept && strcmp(kept[i].name, name))
		i++;
	if (i < n_kept) {
		close(kept[i].fd);
		kept[i] = kept[--n_kept];
	}
	if (fd >= 0) {
		snprintf(kept[n_kept].name, HERITAGE_NAME_MAX, "%s", name);
		kept[n_kept++].fd = fd;
	}
}

static bool serve_belayd(void)
{
	void *msg = NULL;
	int fds[FDS_PASS_MAX];
	size_t n_fds = 0;
	if (ipc_recv_fd(belayd, &belay__to_belayd__descriptor, &msg, fds, &n_fds) < 0)
		return false;
	const Belay__ToBelayd *m = msg;
	if (m->body_case == BELAY__TO_BELAYD__BODY_KEEP)
		keep(m->keep->name, fds[0]);
	else if (m->body_case == BELAY__TO_BELAYD__BODY_DROP)
		keep(m->drop->name, -1);
	ipc_free(msg);
	return true;
}

static void enforce_replace(const char *program)
{
	kill(enforce, SIGKILL);
	waitpid(enforce, NULL, 0);
	while (serve_belayd())
		;
	close(belayd);
	enforce_start(program);
}

static int control_open(void)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(dir, sizeof(dir), "/tmp/belay-fake-XXXXXX");
	if (!mkdtemp(dir))
		die(dir);
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%.80s/control", dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	must(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), "bind");
	must(listen(fd, 64), "listen");
	return fd;
}

int main(int argc, char **argv)
{
	if (argc < 3)
		return 99;
	int listener = control_open(), s[2], status = 0;
	must(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, s), "socketpair");
	pid_t g = fork();
	if (g == 0)
		guard(listener, s[1]);
	close(listener);
	close(s[1]);
	successors = s[0];
	memory = memfd_create("journal", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	enforce_start(argv[1]);
	setenv("BELAY_DIR", dir, 1);
	pid_t command = fork();
	if (command == 0) {
		execvp(argv[2], argv + 2);
		die(argv[2]);
	}
	uint64_t every = (uint64_t)env_number("FAKE_KILL_MS"), next = clock_mono_ms() + every;
	while (waitpid(command, &status, WNOHANG) == 0) {
		struct pollfd p = {belayd, POLLIN, 0};
		if (poll(&p, 1, 10) == 1 && !serve_belayd()) {
			fprintf(stderr, "# enforce ended\n");
			waitpid(enforce, &status, 0);
			fprintf(stderr, "# status %#x\n", status);
			kill(command, SIGKILL);
			return 98;
		}
		if (every && clock_mono_ms() >= next) {
			enforce_replace(argv[1]);
			next = clock_mono_ms() + every;
		}
	}
	kill(g, SIGKILL);
	kill(enforce, SIGKILL);
	char path[256];
	snprintf(path, sizeof(path), "%.80s/control", dir);
	unlink(path);
	rmdir(dir);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}
