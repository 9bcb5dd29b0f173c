/* Where an instance is looked for, in which order, and that a stranger's is not believed. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "ipc/control.h"

#include <cmocka.h>

static char top[] = "/tmp/belay-test-XXXXXX";

static int listen_in(const char *dir)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	snprintf(sa.sun_path, sizeof(sa.sun_path), "%s/control", dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 4), 0);
	return fd;
}

static void remove_in(const char *dir, int fd)
{
	char path[256];
	snprintf(path, sizeof(path), "%s/control", dir);
	unlink(path);
	close(fd);
}

static int setup(void **state)
{
	(void)state;
	unsetenv("BELAY_DIR");
	unsetenv("XDG_STATE_HOME");
	return mkdtemp(top) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	return rmdir(top);
}

static void test_default(void **state)
{
	struct instance i;
	struct error e;
	(void)state;
	if (getuid() == 0) {
		assert_int_equal(instance_default(&i, &e), 0);
		assert_string_equal(i.dir, BELAY_HOST_RUN);
		return;
	}
	setenv("HOME", "/home/x", 1);
	assert_int_equal(instance_default(&i, &e), 0);
	assert_string_equal(i.dir, "/home/x/.local/state/belay");
	setenv("XDG_STATE_HOME", "/s", 1);
	assert_int_equal(instance_default(&i, &e), 0);
	assert_string_equal(i.dir, "/s/belay");
	setenv("XDG_STATE_HOME", "relative", 1);
	assert_int_equal(instance_default(&i, &e), 0);
	assert_string_equal(i.dir, "/home/x/.local/state/belay");
	unsetenv("XDG_STATE_HOME");
}

static void test_named(void **state)
{
	struct instance i;
	struct error e = ERROR_INIT;
	int listener = listen_in(top);
	(void)state;
	int fd = instance_connect(top, &i, &e);
	assert_true(fd >= 0);
	close(fd);
	assert_string_equal(i.found, "--dir");
	setenv("BELAY_DIR", top, 1);
	fd = instance_connect(NULL, &i, &e);
	assert_true(fd >= 0);
	close(fd);
	assert_string_equal(i.found, "BELAY_DIR");
	/* What is named is meant: nothing else is tried. */
	assert_int_equal(instance_connect("/nonexistent", &i, &e), -ENOENT);
	unsetenv("BELAY_DIR");
	remove_in(top, listener);
	assert_int_equal(instance_connect(top, &i, &e), -ENOENT);
	assert_non_null(strstr(e.text, "belayd --dir"));
}

static void test_long_name(void **state)
{
	char dir[INSTANCE_DIR_MAX + 10];
	struct instance i;
	struct error e;
	(void)state;
	memset(dir, 'a', sizeof(dir));
	dir[0] = '/';
	dir[sizeof(dir) - 1] = '\0';
	assert_int_equal(instance_connect(dir, &i, &e), -ENAMETOOLONG);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(test_default),
		cmocka_unit_test(test_named), cmocka_unit_test(test_long_name)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, setup, teardown);
}
