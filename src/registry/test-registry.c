/* The registry's file: what is written is there after opening again; failures leave everything as
 * it was. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "registry/registry.h"

static char dir[64];

static int setup(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/belay-registry-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int teardown(void **state)
{
	(void)state;
	static const char *const names[] = {
		"registry.db", "registry.db-wal", "registry.db-shm", "registry.db-journal"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char path[128];
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir);
}

static struct registry *open_ok(void)
{
	struct error e = ERROR_INIT;
	struct registry *r = NULL;
	int k = registry_open_path(dir, &r, &e);
	if (k < 0)
		print_message("# %s\n", e.text);
	assert_int_equal(k, 0);
	return r;
}

static struct enrollment sample(const char *name, int digest)
{
	struct enrollment n = {.name = name, .path = "/usr/bin/x", .size = 100};
	memset(n.sha256.bytes, digest, DIGEST_LEN);
	return n;
}

static void enroll_ok(struct registry *r, const char *name, int digest)
{
	struct enrollment n = sample(name, digest);
	assert_int_equal(registry_enroll(r, &n, NULL), 0);
}

static void test_everything_persists(void **state)
{
	(void)state;
	static const char *const names[] = {"redis-server", "redis-sentinel"};
	struct registry *r = open_ok();
	struct enrollment n = sample("cache", 1);
	n.argv0 = names;
	n.n_argv0 = 2;
	n.group = "stores";
	n.flags = PROGRAM_JIT;
	assert_int_equal(registry_enroll(r, &n, NULL), 0);
	enroll_ok(r, "aaa", 2);
	struct node d = {
		.name = "n1", .link = "10.0.0.1:7", .data = "10.0.0.1:8", .n_addresses = 2};
	strcpy(d.addresses[0], "10.0.0.1");
	strcpy(d.addresses[1], "::1");
	assert_int_equal(registry_node_put(r, &d, NULL), 0);
	assert_int_equal(registry_meta_set(r, "node", "me", 2, NULL), 0);
	assert_int_equal(registry_revoke(r, REVOKED_USER, "1000", "left", NULL), 0);
	registry_close(r);

	r = open_ok();
	assert_int_equal(registry_programs(r), 2);
	assert_string_equal(registry_program(r, 0)->name, "aaa");
	const struct program *p = registry_program(r, 1);
	assert_null(registry_program(r, 2));
	assert_string_equal(p->name, "cache");
	assert_string_equal(p->group, "stores");
	assert_string_equal(p->path, "/usr/bin/x");
	assert_string_equal(p->script_path, "");
	assert_int_equal(p->n_argv0, 2);
	assert_string_equal(p->argv0[1], "redis-server");
	assert_int_equal(p->flags, PROGRAM_JIT);
	assert_true(registry_knows(r, "cache"));
	assert_false(registry_knows(r, "cach"));
	assert_true(registry_knows_group(r, "stores"));
	assert_false(registry_knows_group(r, ""));
	assert_string_equal(registry_node_find(r, "n1")->addresses[1], "::1");
	assert_null(registry_node_find(r, "n2"));
	assert_true(registry_revoked(r, REVOKED_USER, "1000", 5));
	assert_false(registry_revoked(r, REVOKED_USER, "1000", UINT64_MAX));
	assert_false(registry_revoked(r, REVOKED_NODE, "1000", 5));
	char v[8];
	size_t len;
	assert_int_equal(registry_meta_get(r, "node", v, sizeof(v), &len), 0);
	assert_int_equal(len, 2);
	assert_int_equal(registry_meta_get(r, "node", v, 1, &len), -ENOBUFS);
	assert_int_equal(registry_meta_get(r, "none", v, 1, &len), -ENOENT);
	registry_close(r);
}

static void test_enroll_twice(void **state)
{
	(void)state;
	static const char *const one[] = {"a"};
	struct registry *r = open_ok();
	struct enrollment n = sample("p", 1);
	n.argv0 = one;
	n.n_argv0 = 1;
	n.group = "g";
	assert_int_equal(registry_enroll(r, &n, NULL), 0);
	n.n_argv0 = 0;
	assert_int_equal(registry_enroll(r, &n, NULL), 0);
	assert_int_equal(registry_programs(r), 1);
	assert_int_equal(registry_program(r, 0)->n_argv0, 0);
	/* A second signature, in another group: the group is the name's, so the first follows. */
	n = sample("p", 2);
	n.group = "h";
	assert_int_equal(registry_enroll(r, &n, NULL), 0);
	assert_int_equal(registry_programs(r), 2);
	assert_string_equal(registry_program(r, 0)->group, "h");
	assert_int_equal(registry_unenroll(r, "p", &n.sha256, NULL), 0);
	assert_int_equal(registry_programs(r), 1);
	assert_int_equal(registry_unenroll(r, "p", NULL, NULL), 0);
	struct error e = ERROR_INIT;
	assert_int_equal(registry_unenroll(r, "p", NULL, &e), -ENOENT);
	assert_non_null(strstr(e.text, "belay programs"));
	registry_close(r);
}

static void test_refused_input(void **state)
{
	(void)state;
	static const char *const bad[] = {"a/b"}, *const control[] = {"a\nb"},
				 *const empty[] = {""};
	struct registry *r = open_ok();
	struct enrollment n = sample("ok", 1);
	uint64_t before = registry_generation(r);
	n.name = "not ok";
	assert_int_equal(registry_enroll(r, &n, NULL), -EINVAL);
	n.name = "ok";
	n.group = "'; DROP TABLE program; --";
	assert_int_equal(registry_enroll(r, &n, NULL), -EINVAL);
	n.group = NULL;
	n.n_argv0 = 1;
	n.argv0 = bad;
	assert_int_equal(registry_enroll(r, &n, NULL), -EINVAL);
	n.argv0 = control;
	assert_int_equal(registry_enroll(r, &n, NULL), -EINVAL);
	n.argv0 = empty;
	assert_int_equal(registry_enroll(r, &n, NULL), -EINVAL);
	n.n_argv0 = 0;
	n.flags = PROGRAM_INTERPRETER;
	assert_int_equal(registry_enroll(r, &n, NULL), -EINVAL);
	n = sample("ok", 0);
	assert_int_equal(registry_enroll(r, &n, NULL), -EINVAL);
	assert_true(registry_generation(r) == before);
	assert_int_equal(registry_programs(r), 0);
	registry_close(r);
}

static void test_revoke_and_enroll_again(void **state)
{
	(void)state;
	struct registry *r = open_ok();
	enroll_ok(r, "p", 1);
	assert_false(registry_program(r, 0)->revoked);
	assert_int_equal(registry_revoke(r, REVOKED_PROGRAM, "p", "stolen", NULL), 0);
	assert_true(registry_program(r, 0)->revoked);
	/* At once, in the same millisecond too. */
	enroll_ok(r, "p", 1);
	assert_false(registry_program(r, 0)->revoked);
	assert_int_equal(registry_revoke(r, REVOKED_PROGRAM, "p", "stolen", NULL), 0);
	assert_true(registry_program(r, 0)->revoked);
	assert_int_equal(registry_unrevoke(r, REVOKED_PROGRAM, "p", NULL), 0);
	assert_false(registry_program(r, 0)->revoked);
	assert_int_equal(registry_unrevoke(r, REVOKED_PROGRAM, "p", NULL), -ENOENT);
	registry_close(r);
}

/* A file-size limit behaves like a full disk: the change fails, says so, and nothing is lost. */
static void test_full_disk(void **state)
{
	(void)state;
	struct registry *r = open_ok();
	enroll_ok(r, "first", 1);
	struct rlimit old, small;
	getrlimit(RLIMIT_FSIZE, &old);
	small = old;
	small.rlim_cur = 40 * 1024;
	signal(SIGXFSZ, SIG_IGN);
	setrlimit(RLIMIT_FSIZE, &small);
	struct error e = ERROR_INIT;
	int k = 0, i;
	char value[8192];
	memset(value, 'x', sizeof(value));
	for (i = 0; i < 50 && k == 0; i++) {
		char key[16];
		snprintf(key, sizeof(key), "key-%d", i);
		k = registry_meta_set(r, key, value, sizeof(value), &e);
	}
	setrlimit(RLIMIT_FSIZE, &old);
	assert_true(k < 0);
	print_message("# %s\n", e.text);
	assert_true(strstr(e.text, "cannot save a setting") != NULL);
	assert_int_equal(registry_programs(r), 1);
	/* And when there is room again, it goes on. */
	enroll_ok(r, "second", 2);
	registry_close(r);
	r = open_ok();
	assert_int_equal(registry_programs(r), 2);
	registry_close(r);
}

/* Killed at any moment, the file holds what was acknowledged. */
static void test_killed(void **state)
{
	(void)state;
	registry_close(open_ok());
	size_t least = 0;
	for (int round = 0; round < 5; round++) {
		int p[2];
		assert_int_equal(pipe(p), 0);
		pid_t pid = fork();
		if (pid == 0) {
			struct registry *r = NULL;
			if (registry_open_path(dir, &r, NULL) < 0)
				_exit(1);
			for (int i = 0;; i++) {
				char name[32];
				snprintf(name, sizeof(name), "p-%d-%d", round, i);
				struct enrollment n = sample(name, 1 + i % 250);
				if (registry_enroll(r, &n, NULL) < 0 || write(p[1], "x", 1) != 1)
					_exit(1);
			}
		}
		close(p[1]);
		char c;
		for (int i = 0; i < 7 + round; i++)
			assert_int_equal(read(p[0], &c, 1), 1);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		size_t acked = 7 + (size_t)round;
		while (read(p[0], &c, 1) == 1)
			acked++;
		close(p[0]);
		struct registry *r = open_ok();
		assert_true(registry_programs(r) >= least + acked);
		least = registry_programs(r);
		registry_close(r);
	}
}

static struct invitation invitation(const char *node, uint8_t secret, uint64_t until_ms)
{
	struct invitation v = {.n_addresses = 2, .until_ms = until_ms};
	snprintf(v.node, sizeof(v.node), "%s", node);
	memset(v.secret.bytes, secret, sizeof(v.secret.bytes));
	snprintf(v.addresses[0], sizeof(v.addresses[0]), "10.0.0.%u", secret);
	snprintf(v.addresses[1], sizeof(v.addresses[1]), "::%u", secret);
	return v;
}

static void test_invitations(void **state)
{
	(void)state;
	struct registry *r = open_ok();
	struct invitation a = invitation("a", 1, 1000), b = invitation("b", 2, 2000), got;
	struct error e = ERROR_INIT;
	assert_int_equal(registry_invitation_put(r, &a, 1, &e), 0);
	assert_int_equal(registry_invitation_put(r, &b, 1, &e), 0);
	registry_close(r);
	r = open_ok();
	assert_string_equal(registry_invitation(r, 1)->addresses[1], "::2");
	/* A second of a name takes the first one's place; what is over makes room. */
	struct invitation again = invitation("a", 3, 3000);
	assert_int_equal(registry_invitation_put(r, &again, 2000, &e), 0);
	assert_null(registry_invitation(r, 1));
	assert_int_equal(registry_invitation_take(r, &a.secret, &got, &e), -ENOENT);
	assert_int_equal(registry_invitation_take(r, &again.secret, &got, &e), 0);
	assert_string_equal(got.node, "a");
	assert_int_equal(got.n_addresses, 2);
	assert_int_equal(registry_invitation_take(r, &again.secret, &got, &e), -ENOENT);
	struct invitation none = invitation("c", 0, 1);
	assert_int_equal(registry_invitation_put(r, &none, 0, &e), -EINVAL);
	for (unsigned i = 0; i <= REGISTRY_INVITATIONS_MAX; i++) {
		char name[16];
		snprintf(name, sizeof(name), "n%u", i);
		struct invitation v = invitation(name, (uint8_t)(i + 1), 9000);
		int k = registry_invitation_put(r, &v, 3000, &e);
		assert_int_equal(k, i < REGISTRY_INVITATIONS_MAX ? 0 : -E2BIG);
	}
	registry_close(r);
}

/* Killed at any moment: what was given once is not given again. */
static void test_invitation_killed(void **state)
{
	(void)state;
	for (int round = 0; round < 8; round++) {
		struct registry *r = open_ok();
		struct invitation v = invitation("a", 1, 1000), got;
		struct error e = ERROR_INIT;
		int p[2];
		assert_int_equal(registry_invitation_put(r, &v, 1, &e), 0);
		registry_close(r);
		assert_int_equal(pipe(p), 0);
		pid_t pid = fork();
		if (pid == 0) {
			if (registry_open_path(dir, &r, NULL) < 0 || write(p[1], "o", 1) != 1 ||
				registry_invitation_take(r, &v.secret, &got, NULL) < 0 ||
				write(p[1], "t", 1) != 1)
				_exit(1);
			pause();
		}
		close(p[1]);
		char c;
		assert_int_equal(read(p[0], &c, 1), 1);
		if (round % 2)
			assert_int_equal(read(p[0], &c, 1), 1);
		else
			usleep((useconds_t)round * 300);
		kill(pid, SIGKILL);
		assert_int_equal(waitpid(pid, NULL, 0), pid);
		bool taken = round % 2 || read(p[0], &c, 1) == 1;
		close(p[0]);
		r = open_ok();
		int k = registry_invitation_take(r, &v.secret, &got, &e);
		assert_true(k == -ENOENT || (k == 0 && !taken));
		registry_close(r);
	}
}

static void test_newer_or_damaged(void **state)
{
	(void)state;
	char path[128];
	snprintf(path, sizeof(path), "%s/registry.db", dir);
	struct registry *r = open_ok();
	enroll_ok(r, "p", 1);
	registry_close(r);
	sqlite3 *db;
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 99", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	struct error e = ERROR_INIT;
	assert_int_equal(registry_open_path(dir, &r, &e), -EPROTONOSUPPORT);
	assert_non_null(strstr(e.text, "newer"));
	/* Two processes at once would each hold half of the truth. */
	assert_int_equal(sqlite3_open(path, &db), SQLITE_OK);
	assert_int_equal(sqlite3_exec(db, "PRAGMA user_version = 2", NULL, NULL, NULL), SQLITE_OK);
	sqlite3_close(db);
	struct registry *one = open_ok();
	assert_int_equal(registry_open_path(dir, &r, &e), -EBUSY);
	registry_close(one);
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	assert_int_equal(pwrite(fd, "garbage!", 8, 0), 8);
	close(fd);
	assert_int_equal(registry_open_path(dir, &r, &e), -EBADMSG);
	print_message("# %s\n", e.text);
}

static void test_open_by_descriptor(void **state)
{
	(void)state;
	int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct registry *r = NULL;
	assert_int_equal(registry_open(fd, &r, NULL), 0);
	enroll_ok(r, "p", 1);
	registry_close(r);
	close(fd);
}

#define CASE(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
	const struct CMUnitTest tests[] = {
		CASE(test_everything_persists),
		CASE(test_enroll_twice),
		CASE(test_refused_input),
		CASE(test_revoke_and_enroll_again),
		CASE(test_full_disk),
		CASE(test_killed),
		CASE(test_invitations),
		CASE(test_invitation_killed),
		CASE(test_newer_or_damaged),
		CASE(test_open_by_descriptor),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
