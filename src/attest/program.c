/*
 * Interpreters and scripts (program.h). Input: a file and a process anybody may have started; of
 * its memory only what the kernel itself wrote at exec is read, while it is stopped.
 */
#include "attest/program.h"

#include <errno.h>
#include <fcntl.h>
#include <fnmatch.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "attest/parse.h"
#include "attest/trust.h"
#include "base/fds.h"

#define AUXV_MAX 4096

static const char *const interpreters[] = {
#define INTERPRETER(pattern) pattern,
#include "attest/interpreters.def"
#undef INTERPRETER
};

/* Loaders as executables name them; distributions keep these paths for compatibility. */
static const char *const loaders[] = {
#if defined(__x86_64__)
	"/lib64/ld-linux-x86-64.so.2",
	"/lib/ld-linux.so.2",
	"/lib/ld-musl-x86_64.so.1",
#elif defined(__aarch64__)
	"/lib/ld-linux-aarch64.so.1",
	"/lib/ld-musl-aarch64.so.1",
#endif
};

bool program_is_interpreter(const char *path, const struct stat *st)
{
	const char *base = strrchr(path, '/');
	base = base ? base + 1 : path;
	for (size_t i = 0; i < ARRAY_LEN(interpreters); i++)
		if (fnmatch(interpreters[i], base, 0) == 0)
			return true;
	for (size_t i = 0; i < ARRAY_LEN(loaders); i++) {
		struct stat l;
		if (stat(loaders[i], &l) == 0 && l.st_dev == st->st_dev && l.st_ino == st->st_ino)
			return true;
	}
	return false;
}

int program_look(int fd, struct program_facts *ret)
{
	char head[4] = {0};
	ssize_t n = pread(fd, head, sizeof(head), 0);
	if (n < 0)
		return -errno;
	ret->elf = memcmp(head, "\177ELF", 4) == 0;
	ret->script = head[0] == '#' && head[1] == '!';
	return 0;
}

/* ---- scripts ---- */

/* Text of a stopped process, NUL-terminated or cut; the length read. */
static ssize_t memory_read(uint32_t pid, uint64_t at, char *ret, size_t size)
{
	/* Up to the end of the page first: the stack may end there. */
	size_t done = 0;
	while (done < size) {
		size_t page = 4096 - (at + done) % 4096,
		       want = size - done < page ? size - done : page;
		struct iovec to = {ret + done, want}, from = {(void *)(uintptr_t)(at + done), want};
		ssize_t n = process_vm_readv((pid_t)pid, &to, 1, &from, 1, 0);
		if (n <= 0)
			return done ? (ssize_t)done : n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	return (ssize_t)done;
}

/* The name the kernel was asked to execute: it wrote it to the top of the new stack. */
static int exec_name(int proc, uint32_t pid, char *ret, size_t size)
{
	_cleanup_free_ char *auxv = NULL;
	size_t len;
	uint64_t at;
	int r = fds_read_file(proc, "auxv", AUXV_MAX, &auxv, &len);
	r = r < 0 ? r : parse_auxv_execfn(auxv, len, &at);
	ssize_t n = r < 0 ? r : memory_read(pid, at, ret, size);
	if (n < 0)
		return (int)n;
	return memchr(ret, '\0', (size_t)n) ? 0 : -ENAMETOOLONG;
}

/* Relative to where the process stands; where that is, is only believed if the walk from the root
 * is. */
static int absolute(int proc, const char *name, char *ret, size_t size)
{
	ssize_t n = 0;
	bool relative = name[0] != '/';
	if (relative) {
		n = readlinkat(proc, "cwd", ret, size);
		if (n < 0)
			return -errno;
	}
	int k = snprintf(ret + n, size - (size_t)n, "%s%s", relative ? "/" : "", name);
	return k < 0 || (size_t)k >= size - (size_t)n ? -ENAMETOOLONG : 0;
}

static int open_for_reading(int path_fd)
{
	char self[64];
	snprintf(self, sizeof(self), "/proc/self/fd/%d", path_fd);
	int fd = open(self, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

static int read_shebang(int file, struct shebang *ret)
{
	char head[SHEBANG_MAX];
	_cleanup_close_ int fd = open_for_reading(file);
	if (fd < 0)
		return fd;
	ssize_t n = pread(fd, head, sizeof(head), 0);
	return n < 0 ? -errno : parse_shebang(head, (size_t)n, ret);
}

/* Does the file's "#!" line name, in the process's root, the executable that runs? */
static int interpreted_by(
	int root, const struct shebang *b, dev_t proc_dev, const struct stat *exe_st)
{
	struct stat st;
	_cleanup_close_ int fd = trust_walk(root, b->interpreter, proc_dev);
	if (fd < 0 || fstat(fd, &st) < 0)
		return fd < 0 ? fd : -errno;
	return st.st_dev == exe_st->st_dev && st.st_ino == exe_st->st_ino ? 0 : -ENOENT;
}

/* A script nobody governed can write, at an absolute path of the process's root. */
static int script_open(
	int root, const char *path, dev_t proc_dev, struct stat *ret_st, struct shebang *ret)
{
	_cleanup_close_ int file = trust_walk(root, path, proc_dev);
	if (file < 0)
		return -ENOENT;
	if (fstat(file, ret_st) < 0)
		return -errno;
	if (!S_ISREG(ret_st->st_mode) || !trust_stat(ret_st) || read_shebang(file, ret) < 0)
		return -ENOENT;
	return take_fd(&file);
}

static int open_root(int proc, dev_t *ret_proc_dev)
{
	struct stat st;
	if (fstat(proc, &st) < 0)
		return -errno;
	*ret_proc_dev = st.st_dev;
	int root = openat(proc, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	return root < 0 ? -errno : root;
}

int script_find(int proc, uint32_t pid, const struct stat *exe_st, struct script *ret)
{
	char name[PATH_MAX];
	struct stat st;
	struct shebang b;
	dev_t proc_dev = 0;
	int r = exec_name(proc, pid, name, sizeof(name));
	r = r < 0 ? r : absolute(proc, name, ret->path, sizeof(ret->path));
	if (r < 0)
		return r;
	_cleanup_close_ int root = open_root(proc, &proc_dev);
	if (root < 0)
		return root;
	_cleanup_close_ int file = script_open(root, ret->path, proc_dev, &st, &b);
	if (file < 0)
		return file;
	bool itself = st.st_dev == exe_st->st_dev && st.st_ino == exe_st->st_ino;
	if (itself || interpreted_by(root, &b, proc_dev, exe_st) < 0)
		return -ENOENT;
	ret->starting = b.n_words && trust_stat(exe_st);
	return ret->fd = take_fd(&file);
}

int script_continued(
	int proc, uint32_t pid, uint64_t arguments, const char *path, struct script *ret)
{
	char given[SHEBANG_MAX + PATH_MAX];
	struct stat st;
	struct shebang b;
	dev_t proc_dev = 0;
	_cleanup_close_ int root = open_root(proc, &proc_dev);
	if (root < 0)
		return root;
	_cleanup_close_ int file = script_open(root, path, proc_dev, &st, &b);
	if (file < 0)
		return file;
	ssize_t n = memory_read(pid, arguments, given, sizeof(given));
	if (n < 0)
		return (int)n;
	/* The words of the line, then the script as it was named to the kernel. */
	size_t len = 0;
	for (size_t i = 0; i < b.n_words; i++)
		len += strlen(b.words + len) + 1;
	if (len == 0 || (size_t)n <= len || memcmp(given, b.words, len) != 0 ||
		!memchr(given + len, '\0', (size_t)n - len))
		return -ENOENT;
	int r = absolute(proc, given + len, ret->path, sizeof(ret->path));
	if (r < 0 || strcmp(ret->path, path) != 0)
		return -ENOENT;
	ret->starting = false;
	return ret->fd = take_fd(&file);
}
