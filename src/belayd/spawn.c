/*
 * Fork and exec of one component with exactly its heritage: 0 is /dev/null, 1 and 2 are our
 * standard error, then the descriptors of the heritage from 3 on without a gap, then nothing. The
 * environment is made anew. One blocking wait, bounded by BELAYD_EXEC_MS: for the exec to have
 * happened, because only then do the child's uid and executable say what it is.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/fds.h"
#include "base/proc.h"
#include "belayd/belayd.h"

#define SPAWN_ENV_MAX 32

struct plan {
	int *fds; /* fds[i] becomes descriptor 3 + i */
	size_t n;
	char *text;
	char arg[32]; /* "@FD" when the text goes by memfd */
	int text_fd;
	char *env[SPAWN_ENV_MAX + 3];
};

static void plan_clear(struct plan *p)
{
	free(p->fds);
	free(p->text);
	if (p->text_fd >= 0)
		close(p->text_fd);
}

static int plan_add(struct plan *p, int fd)
{
	p->fds[p->n] = fd;
	return 3 + (int)p->n++;
}

/* The names we pass on; all else of our environment stays with us. */
static bool env_passes(const char *var)
{
	static const char *const names[] = {
		"BELAY_LOG=", "BELAY_SANDBOX_DEBUG=", "ASAN_OPTIONS=", "LSAN_OPTIONS=",
		"TSAN_OPTIONS=", "UBSAN_OPTIONS=", "LLVM_PROFILE_FILE=", "BELAY_TEST_"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++)
		if (!strncmp(var, names[i], strlen(names[i])))
			return true;
	return false;
}

static void plan_env(struct plan *p)
{
	size_t n = 0;
	static char path[] = "PATH=/usr/bin:/bin", lang[] = "LC_ALL=C";
	p->env[n++] = path;
	p->env[n++] = lang;
	for (char **v = environ; *v && n < SPAWN_ENV_MAX + 2; v++)
		if (env_passes(*v))
			p->env[n++] = *v;
	p->env[n] = NULL;
}

static int plan_text(struct plan *p, struct heritage *h)
{
	int r = heritage_format(h, &p->text);
	if (r < 0)
		return r;
	size_t len = strlen(p->text);
	if (len <= HERITAGE_ARG_MAX)
		return 0;
	p->text_fd = fds_memfd("heritage", p->text, len);
	if (p->text_fd < 0)
		return p->text_fd;
	snprintf(p->arg, sizeof(p->arg), "@%d", plan_add(p, p->text_fd));
	return 0;
}

static int plan_make(
	struct plan *p, const struct belayd *b, const struct child *c, int dispatcher, int keep)
{
	p->fds = calloc(c->n_kept + 5, sizeof(*p->fds));
	struct heritage h = {.role = c->role,
		.host = b->host,
		.generation = c->generation,
		.owner_uid = b->host ? 0 : getuid(),
		.state_dir = -1,
		.memory = -1};
	h.kept = calloc(c->n_kept + 1, sizeof(*h.kept));
	if (!p->fds || !h.kept) {
		free(h.kept);
		return -ENOMEM;
	}
	snprintf(h.dir, sizeof(h.dir), "%s", b->instance.dir);
	if (c->role == ROLE_GUARD) {
		memcpy(h.resolvers, b->resolvers, sizeof(h.resolvers));
		h.n_resolvers = b->n_resolvers;
	}
	h.dispatcher = plan_add(p, dispatcher);
	h.belayd = plan_add(p, keep);
	if (c->state_dir >= 0)
		h.state_dir = plan_add(p, c->state_dir);
	if (c->memory >= 0)
		h.memory = plan_add(p, c->memory);
	for (; h.n_kept < c->n_kept; h.n_kept++) {
		h.kept[h.n_kept] = c->kept[h.n_kept];
		h.kept[h.n_kept].fd = plan_add(p, c->kept[h.n_kept].fd);
	}
	plan_env(p);
	int r = plan_text(p, &h);
	free(h.kept);
	return r;
}

/* ---- in the child; every failure is one errno on the report pipe ---- */

static int place_fds(struct plan *p, int *report)
{
	int clear = 3 + (int)p->n;
	/* First out of the way, so that no dup2 lands on one still needed. */
	*report = fcntl(*report, F_DUPFD_CLOEXEC, clear + 1);
	if (*report < 0)
		return -errno;
	for (size_t i = 0; i < p->n; i++) {
		p->fds[i] = fcntl(p->fds[i], F_DUPFD_CLOEXEC, clear + 1);
		if (p->fds[i] < 0)
			return -errno;
	}
	for (size_t i = 0; i < p->n; i++)
		if (dup2(p->fds[i], 3 + (int)i) < 0)
			return -errno;
	if (dup2(STDERR_FILENO, STDOUT_FILENO) < 0)
		return -errno;
	/* What is left has close-on-exec set; this holds even where something forgot it. */
	if (syscall(SYS_close_range, (unsigned)clear, ~0u, 4u /* CLOSE_RANGE_CLOEXEC */) < 0)
		return -errno;
	return 0;
}

_Noreturn static void become(
	const struct belayd *b, const struct child *c, struct plan *p, int report)
{
	sigset_t none;
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_IGN);
	umask(077);
	setsid(); /* no terminal, and a Ctrl-C is for belayd alone */
	int r = place_fds(p, &report);
	if (!r)
		r = privilege_drop(b, c->role);
	if (!r) {
		char *argv[] = {(char *)(uintptr_t)role_process(c->role),
			(char *)(uintptr_t) "--heritage", p->arg[0] ? p->arg : p->text, NULL};
		execve(c->path, argv, p->env);
		r = -errno;
	}
	ssize_t w = write(report, &r, sizeof(r));
	(void)w;
	_exit(127);
}

/* ---- in belayd ---- */

/* End of file: the exec closed the pipe. Anything else is a child that is not going to be a
 * component. */
static int await_exec(int report)
{
	struct pollfd p = {.fd = report, .events = POLLIN};
	int n, r;
	do
		n = poll(&p, 1, BELAYD_EXEC_MS);
	while (n < 0 && errno == EINTR);
	if (n <= 0)
		return n ? -errno : -ETIMEDOUT;
	ssize_t got = read(report, &r, sizeof(r));
	if (got == 0)
		return 0;
	return got == (ssize_t)sizeof(r) && r < 0 ? r : -EIO;
}

static int spawn_finish(pid_t pid, int report, struct spawn *ret, struct error *e)
{
	int r = await_exec(report);
	_cleanup_close_ int pidfd = r < 0 ? -1 : (int)syscall(SYS_pidfd_open, pid, 0);
	if (!r && pidfd < 0)
		r = -errno;
	uint64_t start = 0;
	if (!r)
		r = proc_start_time(pid, &start);
	if (r < 0) {
		kill(pid, SIGKILL); /* our own child, not waited for yet: the number is still its */
		waitpid(pid, NULL, 0);
		return error_errno(e, r, "cannot start it");
	}
	*ret = (struct spawn){.pid = pid, .pidfd = take_fd(&pidfd), .start_time = start};
	return 0;
}

int spawn_child(const struct belayd *b, const struct child *c, int dispatcher, int keep,
	struct spawn *ret, struct error *e)
{
	_cleanup_(plan_clear) struct plan p = {.text_fd = -1};
	int r = plan_make(&p, b, c, dispatcher, keep);
	if (r < 0)
		return error_errno(e, r, "cannot write its heritage");
	int report[2];
	if (pipe2(report, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	_cleanup_close_ int in = report[0];
	pid_t pid = fork();
	if (pid == 0)
		become(b, c, &p, report[1]);
	int err = errno;
	close(report[1]);
	if (pid < 0)
		return error_errno(e, -err, "cannot fork");
	return spawn_finish(pid, in, ret, e);
}
