/* The walls: what a profile lists works, what it does not kills, what libraries probe is refused.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "sandbox/sandbox.h"

#include <cmocka.h>

#define WALLS_STAND 100 /* exit status of a child that did not get in */

static char dir[] = "/tmp/belay-test-XXXXXX";
static pid_t parent;

/* Runs f inside the profile, in a child. Return: its exit status, or minus the signal that ended
 * it. */
static int inside(enum sandbox_profile p, const struct sandbox_args *args, int (*f)(void))
{
	int status;
	pid_t pid = fork();
	if (pid == 0) {
		struct rlimit none = {0};
		setrlimit(RLIMIT_CORE, &none);
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
		struct error e = ERROR_INIT;
		if (sandbox_enter(p, args, &e) < 0) {
			dprintf(STDERR_FILENO, "%s\n", e.text);
			_exit(WALLS_STAND);
		}
		_exit(f());
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	return WIFSIGNALED(status) ? -WTERMSIG(status) : WEXITSTATUS(status);
}

static int work(void)
{
	int pair[2];
	char *m = malloc(1 << 20);
	if (!m || pipe(pair) < 0)
		return 1;
	memset(m, 1, 1 << 20);
	if (write(pair[1], "x", 1) != 1 || read(pair[0], m, 1) != 1)
		return 2;
	free(m);
	return getpid() > 0 ? 0 : 3;
}

static int do_exec(void)
{
	execl("/bin/true", "true", NULL);
	return 0;
}

static int do_fork(void)
{
	return fork() < 0 ? errno : 0;
}

static int do_ptrace(void)
{
	return (int)syscall(SYS_ptrace, 0, 0, 0, 0);
}

static int do_exec_memory(void)
{
	return mmap(NULL, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1,
		       0) == MAP_FAILED;
}

static int do_uring(void)
{
	return syscall(SYS_io_uring_setup, 1, NULL) < 0 ? errno : 0;
}

static int do_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM, 0);
	return fd < 0 ? errno : 0;
}

static int do_open(void)
{
	int fd = open("/etc/passwd", O_RDONLY);
	return fd < 0 ? errno : 0;
}

static int do_write_inside(void)
{
	char path[64];
	snprintf(path, sizeof(path), "%s/f", dir);
	int fd = open(path, O_RDWR | O_CREAT, 0600);
	return fd < 0 ? errno : 0;
}

static int do_kill_other(void)
{
	return kill(parent, 0) < 0 ? errno : 0;
}

static int do_caps(void)
{
	char line[256];
	FILE *f = fopen("/proc/self/status", "r");
	while (f && fgets(line, sizeof(line), f))
		if (!strncmp(line, "CapPrm:\t0000000000000000", 24))
			return 0;
	return 1;
}

static void test_every_profile(void **state)
{
	static const enum sandbox_profile all[] = {
#define ROLE(id, name, number) SANDBOX_##id,
#include "ipc/role.def"
#undef ROLE
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		int numbers[512];
		size_t n = sandbox_allowed(all[i], numbers, ARRAY_LEN(numbers));
		assert_in_range(n, 60, ARRAY_LEN(numbers));
		assert_int_equal(inside(all[i], NULL, work), 0);
		assert_int_equal(inside(all[i], NULL, do_exec), -SIGSYS);
		assert_int_equal(inside(all[i], NULL, do_exec_memory), -SIGSYS);
		assert_int_equal(inside(all[i], NULL, do_uring), ENOSYS);
		/* enforce alone becomes others: its child that binds in a caller's place. */
		for (size_t k = 0; k < n; k++)
			assert_true(numbers[k] != SYS_execve && numbers[k] != SYS_execveat &&
				    numbers[k] != SYS_unshare && numbers[k] != SYS_mount &&
				    numbers[k] != SYS_bpf &&
				    (numbers[k] != SYS_setresuid || all[i] == SANDBOX_ENFORCE));
	}
}

static void test_only_some(void **state)
{
	(void)state;
	assert_int_equal(inside(SANDBOX_GUARD, NULL, do_socket), EACCES);
	assert_int_equal(inside(SANDBOX_LINK, NULL, do_socket), 0);
	assert_int_equal(inside(SANDBOX_CONN, NULL, do_open), EACCES);
	assert_int_equal(inside(SANDBOX_CONN, NULL, do_ptrace), -SIGSYS);
	assert_int_equal(inside(SANDBOX_CONN, NULL, do_kill_other), -SIGSYS);
	assert_int_equal(inside(SANDBOX_SIGNER, NULL, do_fork), -SIGSYS);
	assert_int_equal(
		inside(SANDBOX_GUARD, NULL, do_fork), -SIGSYS); /* threads, but no processes */
	assert_int_equal(inside(SANDBOX_ENFORCE, NULL, do_kill_other), 0);
}

static void test_files(void **state)
{
	int fd = open(dir, O_PATH | O_DIRECTORY);
	const struct sandbox_path write = {.fd = fd, .write = true}, read = {.path = dir},
				  none = {.path = "/nonexistent"};
	const struct sandbox_args may_write = {&write, 1}, may_read = {&read, 1},
				  may_not = {&none, 1};
	(void)state;
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) <= 0) {
		printf("# this kernel has no Landlock\n");
		skip();
	}
	assert_int_equal(inside(SANDBOX_GUARD, &may_write, do_open), EACCES);
	assert_int_equal(inside(SANDBOX_GUARD, &may_not, do_write_inside), EACCES);
	assert_int_equal(inside(SANDBOX_GUARD, &may_read, do_write_inside), EACCES);
	assert_int_equal(inside(SANDBOX_GUARD, &may_write, do_write_inside), 0);
	close(fd);
}

static void test_capabilities(void **state)
{
	const struct sandbox_path proc = {.path = "/proc"};
	const struct sandbox_args args = {&proc, 1};
	(void)state;
	assert_int_equal(inside(SANDBOX_GUARD, &args, do_caps), 0);
}

static void test_debug(void **state)
{
	(void)state;
	setenv("BELAY_SANDBOX_DEBUG", "1", 1);
	assert_int_equal(inside(SANDBOX_GUARD, NULL, do_exec), 128 + SIGSYS);
	unsetenv("BELAY_SANDBOX_DEBUG");
}

static int setup(void **state)
{
	(void)state;
	parent = getpid();
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	char path[64];
	(void)state;
	snprintf(path, sizeof(path), "%s/f", dir);
	unlink(path);
	return rmdir(dir);
}

int main(void)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
	puts("1..0 # SKIP no system call filter in this build");
	return 0;
#endif
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_every_profile),
		cmocka_unit_test(test_only_some), cmocka_unit_test(test_files),
		cmocka_unit_test(test_capabilities), cmocka_unit_test(test_debug)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
