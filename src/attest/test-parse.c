/* The parsers of the kernel's texts, and the walk over trusted directories, with what a hostile
 * process can put in. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attest/maps.h"
#include "attest/memory.h"
#include "attest/parse.h"
#include "attest/program.h"
#include "attest/trust.h"

static const char stat_tail[] =
	" S 7 1 1 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 9999 1000 200 18446744073709551615"
	" 4096 8192 140000000000000 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 1 2 3 777 888 5 6 0\n";

static void test_stat(void **state)
{
	(void)state;
	static const char *const names[] = {"sleep", "a) S 1 (b", "", ") R 1 1 1", "x y"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		char text[512];
		struct proc_stat st;
		snprintf(text, sizeof(text), "42 (%s)%s", names[i], stat_tail);
		assert_int_equal(parse_stat(text, strlen(text), &st), 0);
		assert_string_equal(st.comm, names[i]);
		assert_int_equal(st.ppid, 7);
		assert_int_equal(st.start_time, 9999);
		assert_int_equal(st.image.code, 4096);
		assert_true(st.image.stack == 140000000000000);
		assert_int_equal(st.image.arguments, 777);
		for (size_t cut = 0; cut < strlen(text) - 20; cut++)
			assert_int_equal(parse_stat(text, cut, &st), -EBADMSG);
	}
}

static void test_status(void **state)
{
	(void)state;
	static const char text[] = "Name:\tUid:\\n1\nTgid:\t5\nUid:\t1\t2\t3\t4\nGid:"
				   "\t5\t6\t7\t8\nGroups:\t4 24 27 \n";
	struct proc_status st;
	assert_int_equal(parse_status(text, strlen(text), &st), 0);
	assert_int_equal(st.uid, 2);
	assert_int_equal(st.gid, 6);
	assert_int_equal(st.n_groups, 3);
	assert_int_equal(st.groups[2], 27);
	char *many = malloc(8192);
	int n = sprintf(many, "Uid:\t0\t0\nGid:\t0\t0\nGroups:\t");
	for (int i = 0; i < 129; i++)
		n += sprintf(many + n, "%d ", i);
	assert_int_equal(parse_status(many, (size_t)n, &st), -E2BIG);
	free(many);
	assert_int_equal(parse_status("Uid:\t1\n", 7, &st), -EBADMSG);
	assert_int_equal(
		parse_status("Uid:\t1\t4294967296\nGid:\t0\t0\nGroups:\n", 37, &st), -EBADMSG);
}

static void test_fdinfo(void **state)
{
	(void)state;
	uint32_t pid;
	assert_int_equal(parse_fdinfo_pid("pos:\t0\nPid:\t77\nNSpid:\t77\n", 27, &pid), 0);
	assert_int_equal(pid, 77);
	assert_int_equal(parse_fdinfo_pid("Pid:\t-1\n", 8, &pid), -ESRCH);
	assert_int_equal(parse_fdinfo_pid("Pid:\t0\n", 7, &pid), -ESRCH);
	assert_int_equal(parse_fdinfo_pid("NSpid:\t1\n", 9, &pid), -EBADMSG);
}

static void check_cgroup(const char *text, const char *path, const char *unit)
{
	const char *p, *u;
	size_t n, k;
	int r = parse_cgroup(text, strlen(text), &p, &n);
	assert_int_equal(r, path ? 0 : -EBADMSG);
	if (!path)
		return;
	assert_int_equal(n, strlen(path));
	assert_memory_equal(p, path, n);
	bool has = cgroup_unit(p, n, &u, &k);
	assert_int_equal(has, unit != NULL);
	if (unit) {
		assert_int_equal(k, strlen(unit));
		assert_memory_equal(u, unit, k);
	}
}

static void test_cgroup(void **state)
{
	(void)state;
	check_cgroup(
		"0::/system.slice/redis.service\n", "/system.slice/redis.service", "redis.service");
	/* What a user's manager was delegated carries that manager's name, whatever it is called
	 * below. */
	check_cgroup("0::/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service\n",
		"/user.slice/user-1000.slice/user@1000.service/app.slice/redis.service",
		"user@1000.service");
	check_cgroup(
		"4:cpu:/x\n1:name=systemd:/a.slice/b.scope\n0::/\n", "/a.slice/b.scope", "b.scope");
	check_cgroup("0::/\n", "/", NULL);
	check_cgroup("0::/.service\n", "/.service", NULL);
	check_cgroup("0::/docker/abc\n", "/docker/abc", NULL);
	check_cgroup("", NULL, NULL);
	check_cgroup("0::nonsense\n", NULL, NULL);
}

static void test_maps(void **state)
{
	(void)state;
	char text[] = "7f00-7f10 r-xp 00001000 fe:00 12                         /usr/lib/a b.so\n"
		      "7f10-7f20 rw-p 00000000 00:00 0 \n"
		      "7f20-7f30 rwxp 00000000 00:00 0                          [stack]\n"
		      "7f30-7f40 r-xs 00000000 00:01 99                         "
		      "/memfd:x\\0127fff-7fff r-xp 0 00:00 0 (deleted)\n"
		      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  "
		      "[vsyscall]\n";
	char *p = text, *end = text + strlen(text);
	struct mapping m;
	assert_int_equal(parse_maps_next(&p, end, &m), 1);
	assert_true(m.executable && m.inode == 12 && m.major == 0xfe && m.start == 0x7f00);
	assert_string_equal(m.path, "/usr/lib/a b.so");
	assert_int_equal(parse_maps_next(&p, end, &m), 1);
	assert_false(m.executable);
	assert_string_equal(m.path, "");
	assert_int_equal(parse_maps_next(&p, end, &m), 1);
	assert_string_equal(m.path, "[stack]");
	/* A newline in a name does not make a line. */
	assert_int_equal(parse_maps_next(&p, end, &m), 1);
	assert_string_equal(m.path, "/memfd:x\n7fff-7fff r-xp 0 00:00 0 (deleted)");
	assert_int_equal(m.inode, 99);
	assert_int_equal(parse_maps_next(&p, end, &m), 1);
	assert_true(m.start == 0xffffffffff600000);
	assert_int_equal(parse_maps_next(&p, end, &m), 0);
	static const char *const bad[] = {"\n", "x\n", "1-2\n", "1-2 r-xp\n", "1-2 r-xp 0 fe:0\n",
		"11111111111111111-2 r-xp 0 fe:00 1 /x\n", "1-2 r-xp 0 fe:00 1 /x",
		"1-2 r-xp 0 100000000:00 1 /x\n"};
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		char *t = strdup(bad[i]), *q = t;
		assert_int_equal(parse_maps_next(&q, t + strlen(t), &m), -EBADMSG);
		free(t);
	}
}

/* The kernel's query and its text say the same of this process, which holds a foreign mapping and a
 * JIT's page. */
static void test_maps_both_ways(void **state)
{
	(void)state;
	static struct libraries *known;
	assert_int_equal(libraries_new(&known), 0);
	static struct maps_result a, b;
	struct stat st;
	int proc = open("/proc/self", O_PATH | O_DIRECTORY), exe = open("/proc/self/exe", O_PATH);
	int fd = memfd_create("code", 0);
	assert_int_equal(ftruncate(fd, 4096), 0);
	void *f = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_SHARED, fd, 0);
	assert_int_equal(fstat(exe, &st), 0);
	assert_int_equal(maps_judge(proc, exe, &st, false, known, &a), 0);
	assert_int_equal(maps_judge(proc, exe, &st, true, known, &b), 0);
	assert_int_equal(a.n_foreign, 1);
	assert_int_equal(b.n_foreign, 1);
	assert_string_equal(a.foreign[0].path, "/memfd:code (deleted)");
	assert_string_equal(b.foreign[0].path, a.foreign[0].path);
	assert_int_equal(a.anonymous, b.anonymous);
	bool before = a.anonymous;
	maps_result_done(&a);
	maps_result_done(&b);
	void *p = mmap(NULL, 4096, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	assert_int_equal(maps_judge(proc, exe, &st, false, known, &a), 0);
	assert_int_equal(maps_judge(proc, exe, &st, true, known, &b), 0);
	assert_true(a.anonymous && b.anonymous);
	(void)before;
	maps_result_done(&a);
	maps_result_done(&b);
	munmap(p, 4096);
	munmap(f, 4096);
	close(fd);
	close(exe);
	close(proc);
}

static void test_auxv(void **state)
{
	(void)state;
	Elf64_auxv_t v[] = {{.a_type = AT_PAGESZ, .a_un.a_val = 4096},
		{.a_type = AT_EXECFN, .a_un.a_val = 0x7ffc}, {.a_type = AT_NULL},
		{.a_type = AT_EXECFN, .a_un.a_val = 1}};
	uint64_t at;
	assert_int_equal(parse_auxv_execfn(v, sizeof(v), &at), 0);
	assert_int_equal(at, 0x7ffc);
	v[1].a_type = AT_UID;
	assert_int_equal(parse_auxv_execfn(v, sizeof(v), &at), -ENOENT);
	assert_int_equal(parse_auxv_execfn(v, 5, &at), -ENOENT);
}

static void test_shebang(void **state)
{
	(void)state;
	static const struct {
		const char *text, *name;
	} c[] = {{"#!/bin/sh\n", "/bin/sh"}, {"#! \t/bin/sh -e x\n", "/bin/sh"},
		{"#!/bin/sh", NULL}, {"#!sh\n", NULL}, {"#!\n", NULL}, {"#", NULL}, {"", NULL},
		{"\177ELF", NULL}, {"#!\n/bin/sh\n", NULL}, {"#!/a/../b\n", "/a/../b"}};
	struct shebang b;
	for (size_t i = 0; i < ARRAY_LEN(c); i++) {
		int r = parse_shebang(c[i].text, strlen(c[i].text), &b);
		assert_int_equal(r == 0, c[i].name != NULL);
		if (c[i].name)
			assert_string_equal(b.interpreter, c[i].name);
		assert_int_equal(b.n_words, 0);
	}
	/* Longer than the kernel reads: it would run another file than we see. */
	char text[SHEBANG_MAX + 50];
	memset(text, 'a', sizeof(text));
	memcpy(text, "#!/", 3);
	text[sizeof(text) - 1] = '\n';
	assert_int_equal(parse_shebang(text, sizeof(text), &b), -EBADMSG);
}

static void test_shebang_env(void **state)
{
	(void)state;
	static const struct {
		const char *text;
		size_t n;
		const char *last;
	} c[] = {{"#!/usr/bin/env python3\n", 1, "python3"}, {"#! /bin/env  sh \t\n", 1, "sh"},
		{"#!/usr/bin/env -S python3 -u\n", 2, "-u"}, {"#!/usr/bin/env -Ssh -e\n", 2, "-e"},
		{"#!/usr/bin/env python3 -u\n", 0, ""}, {"#!/usr/bin/env -i sh\n", 0, ""},
		{"#!/usr/bin/env A=b\n", 0, ""}, {"#!/usr/bin/env -S A=b sh\n", 0, ""},
		{"#!/usr/bin/env -S sh \"x y\"\n", 0, ""}, {"#!/usr/bin/env -S ${X} a\n", 0, ""},
		{"#!/usr/bin/env -S -i sh\n", 0, ""}, {"#!/usr/bin/env\n", 0, ""},
		{"#!/usr/bin/env -S\n", 0, ""}, {"#!/usr/bin/benv sh\n", 0, ""},
		{"#!/usr/bin/env sh", 0, ""}, {"#!/usr/bin/env -S a b c d e f g h i\n", 0, ""}};
	struct shebang b;
	for (size_t i = 0; i < ARRAY_LEN(c); i++) {
		assert_int_equal(parse_shebang(c[i].text, strlen(c[i].text), &b), 0);
		assert_int_equal(b.n_words, c[i].n);
		const char *last = b.words;
		for (size_t k = 1; k < b.n_words; k++)
			last += strlen(last) + 1;
		if (c[i].n)
			assert_string_equal(last, c[i].last);
	}
}

static void test_walk(void **state)
{
	(void)state;
	struct stat st, want, proc;
	int root = open("/", O_PATH | O_DIRECTORY);
	assert_int_equal(stat("/proc", &proc), 0);
	int fd = trust_walk(root, "/bin/sh", proc.st_dev);
	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st) | stat("/bin/sh", &want), 0);
	assert_true(st.st_ino == want.st_ino && st.st_dev == want.st_dev);
	close(fd);
	char dir[] = "/tmp/belay-walk-XXXXXX", path[64];
	assert_non_null(mkdtemp(dir));
	assert_int_equal(trust_walk(root, dir, proc.st_dev), -EPERM);
	snprintf(path, sizeof(path), "%s/link", dir);
	assert_int_equal(symlink("/bin/sh", path), 0);
	assert_int_equal(trust_walk(root, path, proc.st_dev), -EPERM);
	assert_int_equal(trust_walk(root, "/proc/self/exe", proc.st_dev), -EPERM);
	fd = trust_walk(root, "/../usr/./lib/../../bin/sh", proc.st_dev);
	assert_int_equal(fstat(fd, &st), 0);
	assert_true(st.st_ino == want.st_ino && st.st_dev == want.st_dev);
	close(fd);
	char up[64];
	snprintf(up, sizeof(up), "%s/../../bin/sh", dir);
	assert_int_equal(trust_walk(root, up, proc.st_dev), -EPERM);
	assert_int_equal(trust_walk(root, "/bin/sh/../sh", proc.st_dev), -ENOTDIR);
	assert_int_equal(trust_walk(root, "bin/sh", proc.st_dev), -EINVAL);
	assert_int_equal(trust_walk(root, "/nothing/here", proc.st_dev), -ENOENT);
	assert_int_equal(trust_walk(root, "/bin/sh/x", proc.st_dev), -ENOTDIR);
	char *longer = malloc(300);
	memset(longer, 'a', 299);
	longer[0] = '/';
	longer[299] = '\0';
	assert_int_equal(trust_walk(root, longer, proc.st_dev), -ENAMETOOLONG);
	free(longer);
	unlink(path);
	rmdir(dir);
	close(root);
}

static void test_interpreters(void **state)
{
	(void)state;
	struct stat st = {0};
	assert_true(program_is_interpreter("/usr/bin/python3.11", &st));
	assert_true(program_is_interpreter("/bin/dash", &st));
	assert_true(program_is_interpreter("/lib/x86_64-linux-gnu/ld-2.31.so", &st));
	assert_false(program_is_interpreter("/usr/bin/redis-server", &st));
	assert_false(program_is_interpreter("/usr/bin/ssh", &st));
	if (stat("/lib64/ld-linux-x86-64.so.2", &st) == 0)
		assert_true(program_is_interpreter("/tmp/renamed", &st));
}

static bool never_alive(uint32_t pid, uint64_t start)
{
	(void)pid;
	(void)start;
	return false;
}
static bool always_alive(uint32_t pid, uint64_t start)
{
	(void)pid;
	(void)start;
	return true;
}

static void test_memory(void **state)
{
	(void)state;
	struct memory *m;
	int fd;
	assert_int_equal(memory_open(-1, &m, &fd), 0);
	struct memory_key k = {.pid = 5,
		.used = 1,
		.start_time = 10,
		.exe_dev = 1,
		.exe_ino = 2,
		.image = {3, 4, 5}};
	struct memory_facts f = {.name = "a"}, got;
	assert_false(memory_get(m, &k, &got));
	assert_int_equal(memory_put(m, &k, &f, never_alive), 0);
	assert_true(memory_get(m, &k, &got));
	assert_string_equal(got.name, "a");
	/* Same number, another process or image. */
	struct memory_key other = k;
	other.image.stack = 9;
	assert_false(memory_get(m, &other, &got));
	other = k;
	other.exe_ino = 3;
	assert_false(memory_get(m, &other, &got));
	/* A fork: younger, same image. An elder cannot be one. */
	struct memory_key child = k;
	child.pid = 900;
	child.start_time = 11;
	assert_true(memory_get(m, &child, &got));
	child.start_time = 9;
	assert_false(memory_get(m, &child, &got));
	child.start_time = 11;
	/* The same image key twice with different facts: nobody knows. */
	struct memory_key twin = k;
	twin.pid = 6;
	strcpy(f.name, "b");
	assert_int_equal(memory_put(m, &twin, &f, never_alive), 0);
	assert_false(memory_get(m, &child, &got));
	assert_true(memory_get(m, &k, &got));
	assert_string_equal(got.name, "a");
	/* The next attest, and a neighbourhood full of living processes. */
	struct memory *next;
	int next_fd, r = 0;
	assert_int_equal(memory_open(dup(fd), &next, &next_fd), 0);
	assert_true(memory_get(next, &k, &got));
	for (uint32_t i = 0; i < 100 && r == 0; i++) {
		k.start_time = 1000 + i;
		r = memory_put(next, &k, &f, always_alive);
	}
	assert_int_equal(r, -ENOSPC);
	assert_int_equal(memory_put(next, &k, &f, never_alive), 0);
	memory_close(next);
	memory_close(m);
	/* Something else in its place. */
	int junk = memfd_create("x", 0);
	assert_int_equal(memory_open(junk, &m, &fd), -EINVAL);
}

/* Many spellings of one script's path cost their paths, not anybody's script. */
static void test_memory_scripts(void **state)
{
	(void)state;
	struct memory *m;
	int fd;
	assert_int_equal(memory_open(-1, &m, &fd), 0);
	struct memory_facts f = {.interpreter = 1, .script_sha256 = {{1}}}, got;
	for (uint32_t i = 1; i <= MEMORY_SCRIPTS + 100; i++) {
		struct memory_key k = {.pid = i, .start_time = i};
		snprintf(f.script_path, sizeof(f.script_path), "/%u", i);
		assert_int_equal(memory_put(m, &k, &f, always_alive), 0);
		assert_true(memory_get(m, &k, &got));
		assert_true(digest_equal(&got.script_sha256, &f.script_sha256));
		assert_string_equal(got.script_path,
			i <= MEMORY_SCRIPTS - MEMORY_PATHLESS ? f.script_path : "");
	}
	memory_close(m);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_stat),
		cmocka_unit_test(test_status),
		cmocka_unit_test(test_fdinfo),
		cmocka_unit_test(test_cgroup),
		cmocka_unit_test(test_maps),
		cmocka_unit_test(test_maps_both_ways),
		cmocka_unit_test(test_auxv),
		cmocka_unit_test(test_shebang),
		cmocka_unit_test(test_shebang_env),
		cmocka_unit_test(test_walk),
		cmocka_unit_test(test_interpreters),
		cmocka_unit_test(test_memory),
		cmocka_unit_test(test_memory_scripts),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
