/*
 * Executable mappings (maps.h). Input: the kernel's list; paths in it were chosen by whoever mapped
 * them. The kernel's query (6.11) gives executable mappings only; older kernels have the text.
 * Cost: one query a mapping, one stat a library; of those not known yet a walk besides.
 */
#include "attest/maps.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "attest/trust.h"
#include "base/fds.h"

/* The kernel's query, for headers older than it (linux/fs.h). */
struct maps_query {
	uint64_t size, flags, addr;
	uint64_t start, end, vma_flags, page_size, offset, inode;
	uint32_t major, minor, name_size, build_id_size;
	uint64_t name_addr, build_id_addr;
};
_Static_assert(sizeof(struct maps_query) == 104, "layout of struct procmap_query");
#define MAPS_QUERY _IOWR('f', 17, struct maps_query)
#define MAPS_QUERY_EXECUTABLE 0x04
#define MAPS_QUERY_NEXT 0x10

static const char *const library_dirs[] = {
#define LIBRARY_DIR(path) path,
#include "attest/library_dirs.def"
#undef LIBRARY_DIR
};

void maps_result_done(struct maps_result *r)
{
	for (size_t i = 0; i < r->n_foreign; i++)
		if (r->foreign[i].fd >= 0)
			close(r->foreign[i].fd);
	r->n_foreign = 0;
}

/* ---- the list ---- */

static int each_query(int maps, bool executable, maps_fn fn, void *ctx)
{
	char name[PATH_MAX];
	uint64_t addr = 0;
	for (unsigned i = 0; i < MAPS_MAX; i++) {
		struct maps_query q = {.size = sizeof(q),
			.flags = MAPS_QUERY_NEXT | (executable ? MAPS_QUERY_EXECUTABLE : 0),
			.addr = addr,
			.name_size = sizeof(name),
			.name_addr = (uint64_t)(uintptr_t)name};
		if (ioctl(maps, MAPS_QUERY, &q) < 0)
			return errno == ENOENT ? 0 : -errno;
		struct mapping m = {.start = q.start,
			.end = q.end,
			.executable = (q.vma_flags & MAPS_QUERY_EXECUTABLE) != 0,
			.major = q.major,
			.minor = q.minor,
			.inode = q.inode,
			.path = q.name_size ? name : ""};
		int r = fn(ctx, &m);
		if (r < 0)
			return r;
		if (q.end <= addr)
			return -EBADMSG;
		addr = q.end;
	}
	return -E2BIG;
}

static int each_text(int maps, bool executable, maps_fn fn, void *ctx)
{
	char path[64];
	_cleanup_free_ char *text = NULL;
	size_t len;
	/* By our descriptor: the process it was opened for, whatever has become of its number. */
	snprintf(path, sizeof(path), "/proc/self/fd/%d", maps);
	int r = fds_read_file(AT_FDCWD, path, MAPS_TEXT_MAX, &text, &len);
	if (r < 0)
		return r;
	char *p = text;
	struct mapping m;
	while ((r = parse_maps_next(&p, text + len, &m)) > 0) {
		if (executable && !m.executable)
			continue;
		r = fn(ctx, &m);
		if (r < 0)
			return r;
	}
	return r;
}

int maps_each(int maps, bool executable, bool text, maps_fn fn, void *ctx)
{
	int r = text ? -ENOTTY : each_query(maps, executable, fn, ctx);
	return r == -ENOTTY ? each_text(maps, executable, fn, ctx) : r;
}

/* ---- identity of a mapped file ---- */

struct id {
	uint32_t major, minor;
	uint64_t inode;
	const void *at; /* when looking for our own mapping */
	bool found;
};

static int own_mapping(void *ctx, const struct mapping *m)
{
	struct id *id = ctx;
	uint64_t at = (uint64_t)(uintptr_t)id->at;
	if (at < m->start || at >= m->end)
		return 0;
	id->major = m->major;
	id->minor = m->minor;
	id->inode = m->inode;
	id->found = true;
	return 0;
}

/*
 * Some file systems (btrfs, overlayfs) show another device or inode in stat than for a mapping.
 * What a mapping of this very file looks like is found out by mapping it: execute permission is not
 * needed, only the looks.
 */
static bool mapped_like(int fd, const struct mapping *m)
{
	char path[64];
	struct id id = {0};
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	_cleanup_close_ int file = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
	_cleanup_close_ int maps = open("/proc/self/maps", O_RDONLY | O_CLOEXEC);
	if (file < 0 || maps < 0)
		return false;
	void *p = mmap(NULL, 1, PROT_READ, MAP_PRIVATE, file, 0);
	if (p == MAP_FAILED)
		return false;
	id.at = p;
	int r = maps_each(maps, false, false, own_mapping, &id);
	munmap(p, 1);
	return r == 0 && id.found && id.major == m->major && id.minor == m->minor &&
	       id.inode == m->inode;
}

static bool is_mapped(int fd, const struct stat *st, const struct mapping *m)
{
	if (st->st_dev == makedev(m->major, m->minor) && st->st_ino == m->inode)
		return true;
	/* Same inode number or same device only: worth a closer look; else surely another file. */
	return (st->st_ino == m->inode || major(st->st_dev) == 0) && mapped_like(fd, m);
}

/* ---- judging ---- */

struct judge {
	int proc, exe;
	const struct stat *exe_st;
	dev_t proc_dev;
	int root;
	char dir[PATH_MAX]; /* the last directory of libraries walked to, during this judgement only
			     */
	int dir_fd;         /* -1: it is not trusted */
	struct libraries *known;
	struct maps_result *ret;
};

static void judge_done(struct judge *j)
{
	if (j->dir_fd >= 0)
		close(j->dir_fd);
	if (j->root >= 0)
		close(j->root);
}

/* Of a deleted file, replaced by a newer one perhaps, the kernel gives the path it had. */
static bool in_library_dir(const char *path)
{
	for (size_t i = 0; i < ARRAY_LEN(library_dirs); i++) {
		size_t n = strlen(library_dirs[i]);
		if (strncmp(path, library_dirs[i], n) == 0 && path[n] == '/')
			return true;
	}
	return false;
}

/* The trusted directory of path, opened; remembered for the next library of the same. */
static int judge_dir(struct judge *j, const char *path, size_t len)
{
	if (len < sizeof(j->dir) && strncmp(j->dir, path, len) == 0 && j->dir[len] == '\0')
		return j->dir_fd;
	if (j->dir_fd >= 0)
		close(j->dir_fd);
	j->dir_fd = -1;
	j->dir[0] = '\0';
	if (len == 0 || len >= sizeof(j->dir))
		return -1;
	memcpy(j->dir, path, len);
	j->dir[len] = '\0';
	struct stat st;
	int fd = trust_walk(j->root, j->dir, j->proc_dev);
	if (fd >= 0 && fstat(fd, &st) == 0 && trust_stat(&st) && S_ISDIR(st.st_mode))
		j->dir_fd = fd;
	else if (fd >= 0)
		close(fd);
	return j->dir_fd;
}

static bool is_file(
	int dir, const char *name, const struct stat *st, const struct mapping *m, int *ret_fd)
{
	struct stat again;
	_cleanup_close_ int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &again) < 0 || again.st_dev != st->st_dev ||
		again.st_ino != st->st_ino || !is_mapped(fd, &again, m))
		return false;
	*ret_fd = take_fd(&fd);
	return true;
}

/* Is what is mapped the file at path, and can nobody governed write it? */
static bool trusted_file(struct judge *j, const char *path, const struct mapping *m, int *ret_fd)
{
	struct stat st;
	const char *slash = strrchr(path, '/');
	int dir = slash ? judge_dir(j, path, (size_t)(slash - path)) : -1;
	if (dir < 0 || fstatat(dir, slash + 1, &st, AT_SYMLINK_NOFOLLOW) < 0 ||
		!S_ISREG(st.st_mode) || !trust_stat(&st))
		return false;
	return is_file(dir, slash + 1, &st, m, ret_fd);
}

/* The mapped file by any way there is, for hashing; -1 if it is gone or another one is in its
 * place. */
static int foreign_file(struct judge *j, const struct mapping *m)
{
	char link[64];
	struct stat st;
	snprintf(link, sizeof(link), "map_files/%lx-%lx", (unsigned long)m->start,
		(unsigned long)m->end);
	/* The kernel's own link, for those it permits: right even for deleted files. */
	int fd = openat(j->proc, link, O_PATH | O_CLOEXEC);
	if (fd >= 0)
		return fd;
	_cleanup_close_ int root = openat(j->proc, "root", O_PATH | O_DIRECTORY | O_CLOEXEC);
	int from[] = {j->root, root};
	for (size_t i = 0; i < ARRAY_LEN(from) && m->path[0] == '/'; i++) {
		_cleanup_close_ int found =
			openat(from[i], m->path + 1, O_PATH | O_NOFOLLOW | O_CLOEXEC);
		if (found >= 0 && fstat(found, &st) == 0 && S_ISREG(st.st_mode) &&
			is_mapped(found, &st, m))
			return take_fd(&found);
	}
	return -1;
}

static int judge_foreign(struct judge *j, const struct mapping *m, bool settled)
{
	struct maps_result *r = j->ret;
	uint64_t dev = (uint64_t)m->major << 32 | m->minor;
	for (size_t i = 0; i < r->n_foreign; i++)
		if (r->foreign[i].dev == dev && r->foreign[i].ino == m->inode)
			return 0;
	if (r->n_foreign == MAPS_FOREIGN_MAX)
		return -E2BIG;
	struct maps_foreign *f = &r->foreign[r->n_foreign++];
	*f = (struct maps_foreign){.dev = dev, .ino = m->inode, .settled = settled};
	f->fd = foreign_file(j, m);
	text_scrub_path(m->path, strlen(m->path), f->path, sizeof(f->path));
	return 0;
}

static bool kernel_page(const char *name)
{
	/* Names in brackets are the kernel's: a file's begins with '/', one given by prctl with
	 * "[anon". */
	static const char *const pages[] = {"[vdso]", "[vsyscall]", "[uprobes]", "[sigpage]"};
	for (size_t i = 0; i < ARRAY_LEN(pages); i++)
		if (strcmp(name, pages[i]) == 0)
			return true;
	return false;
}

static int judge_mapping(void *ctx, const struct mapping *m)
{
	struct judge *j = ctx;
	if (m->inode == 0 && m->major == 0 && m->minor == 0) {
		if (!kernel_page(m->path))
			j->ret->anonymous = true;
		return 0;
	}
	if (is_mapped(j->exe, j->exe_st, m))
		return 0;
	bool installed = in_library_dir(m->path);
	if (installed && library_known(j->known, m))
		return 0;
	_cleanup_close_ int fd = -1;
	bool trusted = trusted_file(j, m->path, m, &fd);
	if (!trusted || !installed)
		return judge_foreign(j, m, trusted);
	library_note(j->known, m, take_fd(&fd));
	return 0;
}

int maps_judge(int proc, int exe, const struct stat *exe_st, bool text, struct libraries *known,
	struct maps_result *ret)
{
	struct stat st;
	_cleanup_(judge_done) struct judge j = {.proc = proc,
		.exe = exe,
		.exe_st = exe_st,
		.root = -1,
		.dir_fd = -1,
		.known = known,
		.ret = ret};
	memset(ret, 0, sizeof(*ret));
	_cleanup_close_ int maps = openat(proc, "maps", O_RDONLY | O_CLOEXEC);
	if (maps < 0 || fstat(proc, &st) < 0)
		return -errno;
	j.proc_dev = st.st_dev;
	j.root = open("/", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (j.root < 0)
		return -errno;
	int r = maps_each(maps, true, text, judge_mapping, &j);
	if (r < 0)
		maps_result_done(ret);
	return r;
}
