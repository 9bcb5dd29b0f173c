/* An attest and children to ask it about (test-children.h). */
#include "attest/test-children.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

#include "attest/hash.h"
#include "attest/request.h"
#include "base/clock.h"
#include "base/fds.h"
#include "crypto/sha256.h"
#include "identity/evidence.h"

char dir[64], copy[128], other[128], library[128];
uv_loop_t loop;
struct attest *attest;
int memory_fd;

/* ---- asking ---- */

void on_answer(void *ctx, const Belay__FromAttest *m)
{
	struct asked *a = ctx;
	a->done = true;
	a->error = m->error;
	snprintf(a->why, sizeof(a->why), "%s", m->why ? m->why : "");
	if (m->evidence)
		assert_int_equal(evidence_from_msg(m->evidence, &a->e), 0);
	if (m->file) {
		memcpy(a->file.bytes, m->file->sha256.data, DIGEST_LEN);
		a->file_elf = m->file->elf;
		a->file_script = m->file->script;
		a->file_interpreter = m->file->interpreter;
	}
}

struct asked *ask_pidfd(pid_t pid, int pidfd, bool at_exec)
{
	static struct asked a;
	memset(&a, 0, sizeof(a));
	Belay__AttestProcess p = BELAY__ATTEST_PROCESS__INIT;
	Belay__ToAttest m = BELAY__TO_ATTEST__INIT;
	p.pid = (uint32_t)pid;
	p.at_exec = at_exec;
	m.id = 7;
	m.body_case = BELAY__TO_ATTEST__BODY_PROCESS;
	m.process = &p;
	assert_int_equal(attest_ask(attest, &m, &pidfd, 1, on_answer, &a), 0);
	assert_int_equal(pidfd, -1);
	while (!a.done)
		uv_run(&loop, UV_RUN_ONCE);
	return &a;
}

int pidfd_of(pid_t pid)
{
	int fd = (int)syscall(SYS_pidfd_open, pid, 0);
	assert_true(fd >= 0);
	return fd;
}

struct asked *ask(pid_t pid, bool at_exec)
{
	return ask_pidfd(pid, pidfd_of(pid), at_exec);
}

struct asked *ask_file(const char *path)
{
	static struct asked a;
	memset(&a, 0, sizeof(a));
	Belay__AttestFile f = BELAY__ATTEST_FILE__INIT;
	Belay__ToAttest m = BELAY__TO_ATTEST__INIT;
	m.body_case = BELAY__TO_ATTEST__BODY_FILE;
	m.file = &f;
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(attest_ask(attest, &m, &fd, 1, on_answer, &a), 0);
	while (!a.done)
		uv_run(&loop, UV_RUN_ONCE);
	return &a;
}

void digest_of(const char *path, struct digest *ret)
{
	char *text;
	size_t len;
	assert_int_equal(fds_read_file(AT_FDCWD, path, 64u << 20, &text, &len), 0);
	sha256_of(text, len, ret->bytes);
	free(text);
}

void assert_is_file(const struct digest *d, const char *path)
{
	struct digest want;
	digest_of(path, &want);
	assert_memory_equal(d, &want, sizeof(want));
}

/* ---- children ---- */

/* A child that ends with this test, however that ends. */
pid_t child(void)
{
	pid_t pid = fork();
	if (pid == 0)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	return pid;
}

/* Starts a program stopped at its exec, before its first instruction, as the instance holds it. */
pid_t start_stopped(const char *path, char *const argv[], const char *preload)
{
	pid_t pid = child();
	if (pid == 0) {
		if (preload)
			setenv("LD_PRELOAD", preload, 1);
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		execv(path, argv);
		_exit(127);
	}
	int status;
	assert_int_equal(waitpid(pid, &status, 0), pid);
	ptrace(PTRACE_SETOPTIONS, pid, NULL, (void *)(PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL));
	ptrace(PTRACE_CONT, pid, NULL, NULL);
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFSTOPPED(status) && status >> 8 == (SIGTRAP | (PTRACE_EVENT_EXEC << 8)));
	return pid;
}

void go(pid_t pid)
{
	ptrace(PTRACE_DETACH, pid, NULL, NULL);
	usleep(100000); /* its loader maps the libraries */
}

void end(pid_t pid)
{
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
}

pid_t start(const char *path, const char *argv0, const char *preload)
{
	char *const argv[] = {(char *)argv0, (char *)"60", NULL};
	pid_t pid = start_stopped(path, argv, preload);
	go(pid);
	return pid;
}

void shell(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void shell(const char *fmt, ...)
{
	char cmd[512];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(cmd, sizeof(cmd), fmt, ap);
	va_end(ap);
	if (system(cmd) != 0)
		fail_msg("%s", cmd);
}

void write_file(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0700);
	assert_true(fd >= 0);
	assert_int_equal(fds_write_all(fd, text, strlen(text)), 0);
	assert_int_equal(fchmod(fd, mode), 0);
	close(fd);
}

int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/belay-attest-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	snprintf(copy, sizeof(copy), "%s/copy", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	snprintf(library, sizeof(library), "%s/evil.so", dir);
	shell("cp /bin/sleep %s && cp /bin/sleep %s && printf x >> %s", copy, other, other);
	shell("echo 'int evil(void) { return 1; }' | cc -shared -fPIC -x c -o %s -", library);
	struct error e = ERROR_INIT;
	if (hasher_block_signals() < 0 || uv_loop_init(&loop) < 0)
		return -1;
	return attest_new(&loop, -1, &attest, &memory_fd, &e);
}

int teardown(void **state)
{
	(void)state;
	shell("rm -r %s", dir);
	return 0;
}
