/*
 * A process's facts from /proc (process.h). Cost without hashes: some 40 system calls and two per
 * ancestor and library; no allocation but for reading.
 */
#include "attest/process.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "attest/program.h"
#include "attest/trust.h"
#include "base/fds.h"

#define PROC_TEXT_MAX 4096    /* stat, cgroup, fdinfo, the beginning of cmdline */
#define STATUS_MAX (1u << 20) /* status: a process may be in many groups */
#define PIDFS_MAGIC_ 0x50494446

void reading_init(struct reading *r)
{
	memset(r, 0, sizeof(*r));
	r->proc = r->pidfd = -1;
}

void reading_close(struct reading *r)
{
	while (r->n_wanted)
		close(r->wanted[--r->n_wanted].fd);
	if (r->proc >= 0)
		close(take_fd(&r->proc));
	if (r->pidfd >= 0)
		close(take_fd(&r->pidfd));
}

static void want(struct reading *r, int fd, bool settled, bool required, struct digest *to)
{
	r->wanted[r->n_wanted++] =
		(struct wanted){.fd = fd, .settled = settled, .required = required, .to = to};
}

/* The beginning of a small file: one open, read and close; no allocation. */
static ssize_t read_some(int dir, const char *name, char *buf, size_t size)
{
	_cleanup_close_ int fd = openat(dir, name, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	ssize_t n = read(fd, buf, size);
	return n < 0 ? -errno : n;
}

int process_stat(int proc, struct proc_stat *ret)
{
	char text[PROC_TEXT_MAX];
	ssize_t n = read_some(proc, "stat", text, sizeof(text));
	return n < 0 ? (int)n : parse_stat(text, (size_t)n, ret);
}

int process_status(int proc, struct proc_status *ret)
{
	char begin[PROC_TEXT_MAX];
	ssize_t n = read_some(proc, "status", begin, sizeof(begin));
	if (n < 0)
		return (int)n;
	if ((size_t)n < sizeof(begin))
		return parse_status(begin, (size_t)n, ret);
	_cleanup_free_ char *text = NULL; /* in many groups */
	size_t len;
	int r = fds_read_file(proc, "status", STATUS_MAX, &text, &len);
	return r < 0 ? r : parse_status(text, len, ret);
}

/* ---- one kind of fact each ---- */

static int take_user(struct reading *r)
{
	struct evidence *e = &r->evidence;
	struct proc_status st;
	char text[32];
	int k = process_status(r->proc, &st);
	if (k < 0)
		return k;
	e->uid = st.uid;
	e->gid = st.gid;
	_Static_assert(sizeof(st.groups) == sizeof(e->groups), "both hold as many groups");
	memcpy(e->groups, st.groups, sizeof(e->groups));
	e->n_groups = st.n_groups;
	/* Kernels without audit have neither: nobody logged in. */
	e->login_uid = e->session = UINT32_MAX;
	ssize_t n = read_some(r->proc, "loginuid", text, sizeof(text) - 1);
	if (n > 0)
		e->login_uid = (uint32_t)strtoul(text, NULL, 10);
	memset(text, 0, sizeof(text));
	n = read_some(r->proc, "sessionid", text, sizeof(text) - 1);
	if (n > 0)
		e->session = (uint32_t)strtoul(text, NULL, 10);
	return 0;
}

static void take_cgroup(struct reading *r)
{
	char text[PROC_TEXT_MAX];
	const char *path, *unit;
	size_t len, unit_len;
	ssize_t n = read_some(r->proc, "cgroup", text, sizeof(text));
	if (n <= 0 || parse_cgroup(text, (size_t)n, &path, &len) < 0)
		return;
	text_scrub_path(path, len, r->evidence.cgroup, sizeof(r->evidence.cgroup));
	if (cgroup_unit(path, len, &unit, &unit_len))
		text_scrub(unit, unit_len, r->evidence.unit, sizeof(r->evidence.unit));
}

static uint64_t namespace_of(int proc, const char *name)
{
	struct stat st;
	return fstatat(proc, name, &st, 0) < 0 ? 0 : st.st_ino;
}

static void take_name(struct reading *r)
{
	char text[PROC_TEXT_MAX];
	ssize_t n = read_some(r->proc, "cmdline", text, sizeof(text));
	if (n <= 0)
		return;
	size_t len = strnlen(text, (size_t)n);
	const char *slash = memrchr(text, '/', len), *base = slash ? slash + 1 : text;
	text_scrub(base, len - (size_t)(base - text), r->evidence.name, sizeof(r->evidence.name));
}

/* ---- the image ---- */

static bool settled_exe(const char *path, const struct stat *exe_st, const struct stat *proc_st)
{
	struct stat st;
	if (!trust_stat(exe_st))
		return false;
	_cleanup_close_ int root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	_cleanup_close_ int fd = root < 0 ? -1 : trust_walk(root, path, proc_st->st_dev);
	return fd >= 0 && fstat(fd, &st) == 0 && st.st_dev == exe_st->st_dev &&
	       st.st_ino == exe_st->st_ino;
}

static int take_exe(struct reading *r, struct error *why)
{
	struct evidence *e = &r->evidence;
	char path[PATH_MAX];
	struct stat proc_st;
	_cleanup_close_ int exe = openat(r->proc, "exe", O_PATH | O_CLOEXEC);
	if (exe < 0 || fstat(exe, &r->exe_st) < 0 || fstat(r->proc, &proc_st) < 0)
		return error_errno(why, -errno, "its executable cannot be opened");
	ssize_t n = readlinkat(r->proc, "exe", path, sizeof(path) - 1);
	if (n < 0)
		return error_errno(why, -errno, "its executable cannot be read");
	path[n] = '\0';
	text_scrub_path(path, (size_t)n, e->exe_path, sizeof(e->exe_path));
	e->exe_size = (uint64_t)r->exe_st.st_size;
	e->exe_dev = r->exe_st.st_dev;
	e->exe_ino = r->exe_st.st_ino;
	e->interpreter = program_is_interpreter(path, &r->exe_st);
	r->key.exe_dev = e->exe_dev;
	r->key.exe_ino = e->exe_ino;
	want(r, take_fd(&exe), settled_exe(path, &r->exe_st, &proc_st), true, &e->exe_sha256);
	return 0;
}

static int take_maps(struct reading *r, struct libraries *known, struct error *why)
{
	struct evidence *e = &r->evidence;
	struct maps_result *m = calloc(1, sizeof(*m));
	if (!m)
		return error_set(why, -ENOMEM, "out of memory");
	int k = maps_judge(r->proc, r->wanted[0].fd, &r->exe_st, false, known, m);
	if (k < 0) {
		free(m);
		if (k == -E2BIG)
			return error_set(why, k,
				"it maps more than %d files from outside the library directories",
				MAPS_FOREIGN_MAX);
		return error_errno(why, k, "its memory map cannot be read");
	}
	e->anonymous_exec = m->anonymous;
	for (size_t i = 0; i < m->n_foreign; i++) {
		struct foreign *f = &e->foreign[e->n_foreign++];
		_Static_assert(sizeof(f->path) == sizeof(m->foreign[i].path), "same room");
		memcpy(f->path, m->foreign[i].path, sizeof(f->path));
		if (m->foreign[i].fd >= 0)
			want(r, m->foreign[i].fd, m->foreign[i].settled, false, &f->sha256);
	}
	free(m);
	return 0;
}

/* The script it was started by, directly or, in the exec before this one, over `env`. */
static void take_script(struct reading *r, struct memory *memory, uint32_t pid)
{
	struct evidence *e = &r->evidence;
	struct memory_facts f;
	struct script s = {.fd = -1};
	int fd = script_find(r->proc, pid, &r->exe_st, &s);
	if (fd < 0 && memory_last(memory, pid, e->start_time, &f) && f.starting) {
		fd = script_continued(r->proc, pid, r->key.image.arguments, f.script_path, &s);
		r->continued = fd >= 0;
		r->script_before = f.script_sha256;
	}
	if (fd < 0)
		return;
	text_scrub_path(s.path, strlen(s.path), e->script_path, sizeof(e->script_path));
	want(r, fd, true, true, &e->script_sha256);
	e->interpreter = true;
	/* Later the path is compared: what is not remembered as it is cannot go on. */
	e->starting = s.starting && strcmp(s.path, e->script_path) == 0;
}

/* How the image was started: seen now, or remembered. */
static void take_start(struct reading *r, struct memory *memory, uint32_t pid)
{
	struct evidence *e = &r->evidence;
	struct memory_facts f;
	if (r->at_exec) {
		take_script(r, memory, pid);
	} else if (memory_get(memory, &r->key, &f)) {
		r->inherited = true;
		memcpy(e->name, f.name, sizeof(e->name));
		memcpy(e->script_path, f.script_path, sizeof(e->script_path));
		e->script_sha256 = f.script_sha256;
		e->interpreter = e->interpreter || f.interpreter;
		e->starting = f.starting;
	}
}

int reading_open(struct reading *r, uint32_t pid, int pidfd, bool at_exec, struct error *why)
{
	struct evidence *e = &r->evidence;
	struct proc_stat st;
	char name[32];
	snprintf(name, sizeof(name), "/proc/%u", pid);
	r->pidfd = pidfd;
	r->at_exec = at_exec;
	r->proc = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int k = r->proc < 0 ? -errno : process_stat(r->proc, &st);
	if (k < 0)
		return error_errno(why, k, "process %u is not there", pid);
	e->pid = r->key.pid = pid;
	e->start_time = r->key.start_time = st.start_time;
	r->key.image = st.image;
	r->ppid = st.ppid;
	k = take_user(r);
	if (k == -E2BIG)
		return error_set(why, k, "it is in more than %zu groups", ARRAY_LEN(e->groups));
	if (k < 0)
		return error_errno(why, k, "its status cannot be read");
	return 0;
}

int reading_take(
	struct reading *r, struct memory *memory, const struct known *known, struct error *why)
{
	struct evidence *e = &r->evidence;
	int k = take_exe(r, why);
	k = k < 0 ? k : take_maps(r, known->libraries, why);
	if (k < 0)
		return k;
	take_name(r);
	take_start(r, memory, e->pid);
	take_cgroup(r);
	ancestors_take(known->ancestors, r->ppid, e->start_time, e);
	e->netns = namespace_of(r->proc, "ns/net");
	e->mntns = namespace_of(r->proc, "ns/mnt");
	e->userns = namespace_of(r->proc, "ns/user");
	return 0;
}

/* ---- afterwards ---- */

static int check_pidfd(struct reading *r)
{
	char name[64], text[PROC_TEXT_MAX];
	struct stat st;
	struct statfs fs;
	uint32_t pid;
	snprintf(name, sizeof(name), "/proc/self/fdinfo/%d", r->pidfd);
	ssize_t n = read_some(AT_FDCWD, name, text, sizeof(text));
	int k = n < 0 ? (int)n : parse_fdinfo_pid(text, (size_t)n, &pid);
	if (k < 0)
		return k;
	if (pid != r->evidence.pid)
		return -ESRCH;
	if (fstatfs(r->pidfd, &fs) == 0 && fs.f_type == PIDFS_MAGIC_ && fstat(r->pidfd, &st) == 0)
		r->evidence.pidfd_inode = st.st_ino;
	/* Last: while this holds, the number was this process's during all of the above. */
	k = fds_pidfd_alive(r->pidfd);
	return k == 0 ? -ESRCH : k < 0 ? k : 0;
}

static bool is_alive(uint32_t pid, uint64_t start_time)
{
	char name[32];
	struct proc_stat st;
	snprintf(name, sizeof(name), "/proc/%u", pid);
	_cleanup_close_ int proc = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return proc >= 0 && process_stat(proc, &st) == 0 && st.start_time == start_time;
}

/* A start that is not remembered would later be taken for an older one: no evidence then. */
static int remember(struct reading *r, struct memory *memory)
{
	struct memory_facts f = {.interpreter = r->evidence.interpreter,
		.starting = r->evidence.starting,
		.script_sha256 = r->evidence.script_sha256};
	if (r->key.image.stack == 0)
		return r->at_exec ? -EACCES : 0;
	memcpy(f.name, r->evidence.name, sizeof(f.name));
	memcpy(f.script_path, r->evidence.script_path, sizeof(f.script_path));
	int k = memory_put(memory, &r->key, &f, is_alive);
	return r->at_exec ? k : 0;
}

int reading_finish(struct reading *r, struct memory *memory, struct error *why)
{
	struct stat st;
	struct proc_stat now;
	int k = fstatat(r->proc, "exe", &st, 0) < 0 ? -errno : process_stat(r->proc, &now);
	if (k < 0)
		return error_errno(why, k, "process %u ended meanwhile", r->evidence.pid);
	if (st.st_dev != r->exe_st.st_dev || st.st_ino != r->exe_st.st_ino ||
		memcmp(&now.image, &r->key.image, sizeof(now.image)) != 0)
		return error_set(why, -EAGAIN, "process %u started another program meanwhile",
			r->evidence.pid);
	k = check_pidfd(r);
	if (k < 0)
		return error_errno(
			why, k, "process %u is not the one asked about any more", r->evidence.pid);
	if (r->continued && !digest_equal(&r->script_before, &r->evidence.script_sha256)) {
		/* Another script than the one `env` was started by. */
		r->evidence.script_path[0] = '\0';
		memset(&r->evidence.script_sha256, 0, sizeof(r->evidence.script_sha256));
	}
	k = r->at_exec || r->inherited ? remember(r, memory) : 0;
	if (k < 0)
		return error_errno(why, k, "its start cannot be remembered");
	return 0;
}
