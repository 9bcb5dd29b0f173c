/*
 * attest on real children: what it says of plain programs, copies, injected libraries, scripts,
 * memfds; and what it refuses. Runs as any uid; what needs root (files others cannot write) is
 * skipped without it.
 */
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
#include "attest/test-children.h"
#include "base/clock.h"
#include "base/fds.h"
#include "crypto/sha256.h"

/* ---- what a process is ---- */

static void test_plain(void **state)
{
	(void)state;
	pid_t pid = start("/bin/sleep", "anything/snooze", NULL);
	struct asked *a = ask(pid, false);
	assert_int_equal(a->error, 0);
	assert_is_file(&a->e.exe_sha256, "/bin/sleep");
	assert_string_equal(a->e.exe_path, "/usr/bin/sleep");
	assert_string_equal(a->e.name, "snooze");
	assert_int_equal(a->e.uid, geteuid());
	assert_int_equal(a->e.pid, pid);
	assert_true(a->e.start_time && a->e.netns && a->e.mntns && a->e.userns);
	assert_int_equal(a->e.n_foreign, 0);
	assert_false(a->e.anonymous_exec || a->e.interpreter);
	assert_true(digest_is_none(&a->e.script_sha256));
	assert_true(a->e.n_ancestors >= 1);
	assert_int_equal(a->e.ancestors[0].pid, getpid());
	assert_true(a->e.cgroup[0] == '/');
	struct digest first = a->e.exe_sha256;
	a = ask(pid, false);
	assert_memory_equal(&a->e.exe_sha256, &first, sizeof(first));
	end(pid);
}

static void test_copies(void **state)
{
	(void)state;
	pid_t pid = start(copy, "sleep", NULL);
	struct asked *a = ask(pid, false);
	assert_int_equal(a->error, 0);
	assert_is_file(&a->e.exe_sha256, "/bin/sleep");
	assert_string_equal(a->e.exe_path, copy);
	end(pid);
	pid = start(other, "sleep", NULL);
	a = ask(pid, false);
	assert_is_file(&a->e.exe_sha256, other);
	end(pid);
}

static void test_preload(void **state)
{
	(void)state;
	pid_t pid = start("/bin/sleep", "sleep", library);
	struct asked *a = ask(pid, false);
	assert_int_equal(a->error, 0);
	assert_int_equal(a->e.n_foreign, 1);
	assert_string_equal(a->e.foreign[0].path, library);
	assert_is_file(&a->e.foreign[0].sha256, library);
	end(pid);
}

/* A library package is replaced while a program runs that was looked at before. */
static void test_replaced_library(void **state)
{
	(void)state;
	char lib[96], kept[128];
	if (geteuid() != 0) {
		print_message("# not root: nothing can be installed\n");
		return;
	}
	snprintf(lib, sizeof(lib), "/usr/local/lib/belay-test-%d.so", getpid());
	snprintf(kept, sizeof(kept), "%s.old", lib);
	shell("install -m 644 %s %s", library, lib);
	pid_t pid = start("/bin/sleep", "sleep", lib);
	assert_int_equal(ask(pid, false)->e.n_foreign, 0);
	/* As a package manager does it: a second name, the new one over the first, the second goes.
	 */
	shell("ln %s %s && install -m 644 %s %s.new && mv %s.new %s", lib, kept, library, lib, lib,
		lib);
	assert_int_equal(ask(pid, false)->e.n_foreign, 0);
	unlink(kept);
	assert_int_equal(ask(pid, false)->e.n_foreign, 0);
	end(pid);
	/* One that somebody may write by now is none of the system's any more. */
	pid = start("/bin/sleep", "sleep", lib);
	assert_int_equal(ask(pid, false)->e.n_foreign, 0);
	chmod(lib, 0666);
	assert_int_equal(ask(pid, false)->e.n_foreign, 1);
	/* Nor one that was moved away. */
	chmod(lib, 0644);
	assert_int_equal(ask(pid, false)->e.n_foreign, 0);
	snprintf(kept, sizeof(kept), "/usr/local/belay-test-%d.so", getpid());
	assert_int_equal(rename(lib, kept), 0);
	assert_int_equal(ask(pid, false)->e.n_foreign, 1);
	end(pid);
	unlink(kept);
}

static void test_deleted(void **state)
{
	(void)state;
	char path[160], lib[160];
	snprintf(path, sizeof(path), "%s/gone", dir);
	snprintf(lib, sizeof(lib), "%s/gone.so", dir);
	shell("cp /bin/sleep %s && cp %s %s", path, library, lib);
	pid_t pid = start(path, "sleep", lib);
	unlink(path);
	unlink(lib);
	/* Another file in the library's place must not be taken for it. */
	shell("cp %s %s && printf x >> %s", library, lib, lib);
	struct asked *a = ask(pid, false);
	assert_int_equal(a->error, 0);
	assert_is_file(&a->e.exe_sha256, "/bin/sleep");
	assert_non_null(strstr(a->e.exe_path, "(deleted)"));
	assert_int_equal(a->e.n_foreign, 1);
	if (!digest_is_none(&a->e.foreign[0].sha256))
		assert_is_file(&a->e.foreign[0].sha256, library);
	end(pid);
}

static void test_memfd(void **state)
{
	(void)state;
	char *text, path[64];
	size_t len;
	assert_int_equal(fds_read_file(AT_FDCWD, "/bin/sleep", 1u << 24, &text, &len), 0);
	int fd = memfd_create("x", 0);
	assert_int_equal(fds_write_all(fd, text, len), 0);
	free(text);
	/* Reopened for reading: a descriptor open for writing keeps it from being executed. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	int ro = open(path, O_RDONLY);
	close(fd);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", ro);
	pid_t pid = start(path, "sleep", NULL);
	close(ro);
	struct asked *a = ask(pid, false);
	assert_int_equal(a->error, 0);
	assert_is_file(&a->e.exe_sha256, "/bin/sleep");
	end(pid);
}

static void test_loader(void **state)
{
	(void)state;
	char *const argv[] = {(char *)"sleep", (char *)"/bin/sleep", (char *)"60", NULL};
	pid_t pid = start_stopped("/lib64/ld-linux-x86-64.so.2", argv, NULL);
	struct asked *a = ask(pid, true);
	assert_int_equal(a->error, 0);
	assert_true(a->e.interpreter);
	go(pid);
	a = ask(pid, false);
	assert_true(a->e.interpreter);
	end(pid);
}

static void test_anonymous(void **state)
{
	(void)state;
	pid_t pid = child();
	if (pid == 0) {
		if (mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) ==
			MAP_FAILED)
			_exit(1);
		pause();
	}
	usleep(50000);
	struct asked *a = ask(pid, false);
	assert_int_equal(a->error, 0);
	assert_true(a->e.anonymous_exec);
	end(pid);
}

/* ---- what it was started with ---- */

static void test_name_is_remembered(void **state)
{
	(void)state;
	static const char source[] =
		"#include <string.h>\\n#include <unistd.h>\\nint main(int c, char **v) {"
		"memset(v[0], 0x78, strlen(v[0])); if (c > 1 && fork()) return 0; pause(); }";
	char path[160];
	snprintf(path, sizeof(path), "%s/title", dir);
	shell("printf '%s' | cc -x c -o %s -", source, path);
	char *const argv[] = {(char *)"server", NULL};
	pid_t pid = start_stopped(path, argv, NULL);
	struct asked *a = ask(pid, true);
	assert_int_equal(a->error, 0);
	assert_string_equal(a->e.name, "server");
	go(pid);
	assert_string_equal(ask(pid, false)->e.name, "server");
	end(pid);
	/* Not seen at its exec: then the text the program wrote itself is all there is. */
	pid = start_stopped(path, argv, NULL);
	go(pid);
	assert_string_equal(ask(pid, false)->e.name, "xxxxxx");
	end(pid);
}

static pid_t only_child_of(const char *name)
{
	char cmd[160];
	int pid = 0;
	snprintf(cmd, sizeof(cmd), "pgrep -n -x %s", name);
	FILE *f = popen(cmd, "r");
	assert_int_equal(fscanf(f, "%d", &pid), 1);
	pclose(f);
	return pid;
}

/* A server that forks and whose parent ends keeps what it was started as; also for the next attest.
 */
static void test_forks_inherit(void **state)
{
	(void)state;
	char path[160];
	snprintf(path, sizeof(path), "%s/title", dir);
	char *const argv[] = {(char *)"forker", (char *)"1", NULL};
	pid_t pid = start_stopped(path, argv, NULL);
	assert_int_equal(ask(pid, true)->error, 0);
	go(pid);
	waitpid(pid, NULL, 0);
	pid_t orphan = only_child_of("title");
	assert_true(orphan != pid);
	assert_string_equal(ask(orphan, false)->e.name, "forker");
	kill(orphan, SIGKILL);
}

/* ---- races and disguises ---- */

static void test_gone_or_other(void **state)
{
	(void)state;
	pid_t pid = start("/bin/sleep", "sleep", NULL), two = start("/bin/sleep", "sleep", NULL);
	/* The pidfd of one with the number of the other. */
	assert_int_equal(ask_pidfd(pid, pidfd_of(two), false)->error, -ESRCH);
	int fd = pidfd_of(pid);
	kill(pid, SIGKILL);
	usleep(20000);
	assert_true(ask_pidfd(pid, dup(fd), false)->error < 0); /* a zombie */
	waitpid(pid, NULL, 0);
	assert_true(ask_pidfd(pid, dup(fd), false)->error < 0); /* reaped */
	close(fd);
	/* Its number, taken by a pidfd of ourselves. */
	assert_true(ask_pidfd(pid, pidfd_of(getpid()), false)->error < 0);
	end(two);
}

/* Processes that end while they are looked at: an answer each time, and none for a dead one. */
static void test_ending_meanwhile(void **state)
{
	(void)state;
	unsigned good = 0;
	for (int i = 0; i < 300; i++) {
		pid_t pid = child();
		if (pid == 0) {
			usleep((useconds_t)(i * 3));
			_exit(0);
		}
		int fd = pidfd_of(pid);
		struct asked *a = ask_pidfd(pid, dup(fd), false);
		/* Alive when it was answered, or refused. */
		good += a->error == 0;
		waitpid(pid, NULL, 0);
		close(fd);
	}
	print_message("# %u of 300 answered before their end\n", good);
	assert_int_equal(attest_open_requests(attest), 0);
}

/* exec during the reading: the evidence is of one image or there is none. */
static void test_exec_meanwhile(void **state)
{
	(void)state;
	struct digest a_sleep, b_other;
	digest_of("/bin/sleep", &a_sleep);
	digest_of("/proc/self/exe", &b_other);
	for (int i = 0; i < 100; i++) {
		pid_t pid = child();
		if (pid == 0) {
			usleep((useconds_t)(i * 5));
			execl("/bin/sleep", "sleep", "60", NULL);
			_exit(1);
		}
		struct asked *a = ask(pid, false);
		if (a->error == 0) {
			bool one = digest_equal(&a->e.exe_sha256, &a_sleep);
			assert_true(one || digest_equal(&a->e.exe_sha256, &b_other));
		}
		end(pid);
	}
}

/*
 * The disguise by PR_SET_MM: unmap one's own text, become somebody else by name. Here only the
 * addresses are tried, which attest uses to tell forks from others: they need a privilege a bound
 * program does not have.
 */
static void test_set_mm(void **state)
{
	(void)state;
	pid_t pid = child();
	if (pid == 0) {
		if (geteuid() == 0 && setresuid(12345, 12345, 12345) < 0)
			_exit(2);
		int fd = open("/bin/sleep", O_RDONLY);
		long r = syscall(
			SYS_prctl, 35 /* PR_SET_MM */, 13 /* PR_SET_MM_EXE_FILE */, fd, 0, 0);
		_exit(r == 0 ? 1 : 0);
	}
	int status;
	waitpid(pid, &status, 0);
	assert_int_equal(WEXITSTATUS(status), 0);
}

/* ---- the memory of hashes ---- */

static struct digest hash_now(const char *path)
{
	struct asked *a = ask_file(path);
	if (a->error)
		print_message("# %s: %s\n", path, a->why);
	assert_int_equal(a->error, 0);
	return a->file;
}

/*
 * Changed through a shared mapping, where no time stamp need change: the old hash must not be
 * served. While somebody can write, there is no hash at all, or the true one.
 */
static void test_shared_mapping(void **state)
{
	(void)state;
	char path[160];
	snprintf(path, sizeof(path), "%s/mapped", dir);
	shell("cp /bin/sleep %s", path);
	struct digest before = hash_now(path), again = hash_now(path);
	assert_memory_equal(&before, &again, sizeof(before));

	/* Another process, since the writer waits until attest has let go. */
	int p[2], q[2];
	assert_int_equal(pipe(p) | pipe(q), 0);
	pid_t pid = child();
	if (pid == 0) {
		char c;
		int fd = open(path, O_RDWR);
		char *m = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		close(fd);
		if (m == MAP_FAILED || write(p[1], "x", 1) != 1 || read(q[0], &c, 1) != 1)
			_exit(1);
		m[200] ^= 0x55;
		(void)!write(p[1], "y", 1);
		(void)!read(q[0], &c, 1);
		_exit(0);
	}
	char c;
	assert_int_equal(fds_nonblock(p[0]), 0);
	uint64_t until = clock_mono_ms() + 5000;
	while (read(p[0], &c, 1) != 1 && clock_mono_ms() < until)
		uv_run(&loop, UV_RUN_NOWAIT);
	assert_int_equal(c, 'x');
	assert_int_equal(ask_file(path)->error, -ETXTBSY);
	assert_int_equal(write(q[1], "x", 1), 1);
	while (read(p[0], &c, 1) != 1)
		usleep(1000);
	assert_int_equal(ask_file(path)->error, -ETXTBSY);
	assert_int_equal(write(q[1], "x", 1), 1);
	waitpid(pid, NULL, 0);
	struct digest after = hash_now(path);
	assert_is_file(&after, path);
	assert_memory_not_equal(&before, &after, sizeof(before));
}

/* Who wants to write a remembered file waits milliseconds, not until a time-out. */
static void test_writer_waits_briefly(void **state)
{
	(void)state;
	char path[160];
	snprintf(path, sizeof(path), "%s/written", dir);
	shell("cp /bin/sleep %s", path);
	(void)hash_now(path);
	uint64_t started = clock_mono_ms();
	pid_t pid = child();
	if (pid == 0) {
		int fd = open(path, O_WRONLY | O_APPEND);
		_exit(fd >= 0 && write(fd, "x", 1) == 1 ? 0 : 1);
	}
	int status;
	while (waitpid(pid, &status, WNOHANG) == 0)
		uv_run(&loop, UV_RUN_NOWAIT);
	assert_int_equal(status, 0);
	assert_true(clock_mono_ms() - started < 1000);
	struct digest after = hash_now(path);
	assert_is_file(&after, path);
}

/* Large, and asked for by many at once: read once. */
static void test_large(void **state)
{
	(void)state;
	char path[160];
	snprintf(path, sizeof(path), "%s/large", dir);
	shell("head -c 30000000 /dev/zero > %s", path);
	static struct asked a[20];
	memset(a, 0, sizeof(a));
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		Belay__AttestFile f = BELAY__ATTEST_FILE__INIT;
		Belay__ToAttest m = BELAY__TO_ATTEST__INIT;
		m.body_case = BELAY__TO_ATTEST__BODY_FILE;
		m.file = &f;
		int fd = open(path, O_RDONLY | O_CLOEXEC);
		assert_int_equal(attest_ask(attest, &m, &fd, 1, on_answer, &a[i]), 0);
	}
	assert_int_equal(attest_open_requests(attest), ARRAY_LEN(a));
	while (attest_open_requests(attest))
		uv_run(&loop, UV_RUN_ONCE);
	for (size_t i = 0; i < ARRAY_LEN(a); i++) {
		assert_int_equal(a[i].error, 0);
		assert_is_file(&a[i].file, path);
	}
}

static void test_files(void **state)
{
	(void)state;
	struct asked *a = ask_file("/bin/sh");
	assert_true(a->file_elf && a->file_interpreter && !a->file_script);
	a = ask_file("/usr/bin/ldd");
	assert_true(!a->file_elf && a->file_script);
	Belay__AttestFile f = BELAY__ATTEST_FILE__INIT;
	Belay__ToAttest m = BELAY__TO_ATTEST__INIT;
	m.body_case = BELAY__TO_ATTEST__BODY_FILE;
	m.file = &f;
	int fd = open("/", O_RDONLY | O_CLOEXEC);
	memset(a, 0, sizeof(*a));
	assert_int_equal(attest_ask(attest, &m, &fd, 1, on_answer, a), 0);
	while (!a->done)
		uv_run(&loop, UV_RUN_ONCE);
	assert_int_equal(a->error, -EINVAL);
	/* A question that is none. */
	assert_int_equal(attest_ask(attest, &m, &fd, 0, on_answer, a), -EBADMSG);
}

int main(int argc, char **argv)
{
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_plain),
		cmocka_unit_test(test_copies),
		cmocka_unit_test(test_preload),
		cmocka_unit_test(test_replaced_library),
		cmocka_unit_test(test_deleted),
		cmocka_unit_test(test_memfd),
		cmocka_unit_test(test_loader),
		cmocka_unit_test(test_anonymous),
		cmocka_unit_test(test_name_is_remembered),
		cmocka_unit_test(test_forks_inherit),
		cmocka_unit_test(test_gone_or_other),
		cmocka_unit_test(test_ending_meanwhile),
		cmocka_unit_test(test_exec_meanwhile),
		cmocka_unit_test(test_set_mm),
		cmocka_unit_test(test_shared_mapping),
		cmocka_unit_test(test_writer_waits_briefly),
		cmocka_unit_test(test_large),
		cmocka_unit_test(test_files),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
