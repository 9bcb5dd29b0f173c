/*
 * Walking to a file over directories nobody governed can write (trust.h). Input: paths a process
 * chose. The kernel opens each component; the text is only taken apart. Cost: two system calls a
 * component.
 */
#include "attest/trust.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/vfs.h>
#include <unistd.h>

bool trust_stat(const struct stat *st)
{
	return st->st_uid == 0 && (st->st_mode & (S_IWGRP | S_IWOTH)) == 0;
}

struct walk {
	int root;
	int dirs[TRUST_DEPTH_MAX]; /* from the root to where we stand: what ".." leads back to */
	size_t n;
	dev_t proc_dev, root_dev;
	unsigned links;
	char rest[PATH_MAX]; /* what is still to be walked */
};

static void walk_done(struct walk *w)
{
	while (w->n)
		close(w->dirs[--w->n]);
}

/* The last one is what was walked to, whatever it is. */
static int walk_here(const struct walk *w)
{
	return w->dirs[w->n - 1];
}

static int walk_to_root(struct walk *w)
{
	int fd = openat(w->root, ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	walk_done(w);
	w->dirs[w->n++] = fd;
	return 0;
}

/* Where we stand must be a trusted directory before anything in it is looked up. */
static int walk_check(const struct walk *w)
{
	struct stat st;
	if (fstat(walk_here(w), &st) < 0)
		return -errno;
	if (!S_ISDIR(st.st_mode))
		return -ENOTDIR;
	return trust_stat(&st) && st.st_dev != w->proc_dev ? 0 : -EPERM;
}

/* Puts the target of the link in front of the rest. */
static int walk_link(struct walk *w, int link)
{
	char text[PATH_MAX];
	if (++w->links > TRUST_LINKS_MAX)
		return -ELOOP;
	ssize_t n = readlinkat(link, "", text, sizeof(text));
	if (n < 0)
		return -errno;
	size_t rest = strlen(w->rest);
	if ((size_t)n + 1 + rest >= sizeof(w->rest))
		return -ENAMETOOLONG;
	memmove(w->rest + n + 1, w->rest, rest + 1);
	memcpy(w->rest, text, (size_t)n);
	w->rest[n] = '/';
	return text[0] == '/' ? walk_to_root(w) : 0;
}

/* Takes the next component off the rest: 1, 0 when there is none. */
static int walk_component(struct walk *w, char *ret)
{
	char *p = w->rest + strspn(w->rest, "/");
	size_t n = strcspn(p, "/");
	if (n > NAME_MAX)
		return -ENAMETOOLONG;
	if (!n)
		return 0;
	memcpy(ret, p, n);
	ret[n] = '\0';
	memmove(w->rest, p + n, strlen(p + n) + 1);
	return 1;
}

/*
 * A program that serves a file system says of its files whatever it likes, also that root owns
 * them, and users may mount such over a directory of theirs. What the root itself lies on was its
 * owner's choice.
 */
static bool served_by_program(const struct walk *w, int fd, const struct stat *st)
{
	struct statfs fs;
	return st->st_dev != w->root_dev && (fstatfs(fd, &fs) < 0 || fs.f_type == FUSE_SUPER_MAGIC);
}

static int walk_step(struct walk *w, const char *name)
{
	struct stat st;
	int r = walk_check(w);
	if (r < 0)
		return r;
	/* Up is where we came down, and nowhere from the root; directories nobody governed can
	 * write do not move meanwhile. */
	if (strcmp(name, "..") == 0) {
		if (w->n > 1)
			close(w->dirs[--w->n]);
		return 0;
	}
	if (strcmp(name, ".") == 0)
		return 0;
	_cleanup_close_ int fd = openat(walk_here(w), name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (served_by_program(w, fd, &st))
		return -EPERM;
	if (S_ISLNK(st.st_mode))
		return walk_link(w, fd);
	if (w->n == TRUST_DEPTH_MAX)
		return -ENAMETOOLONG;
	w->dirs[w->n++] = take_fd(&fd);
	return 0;
}

int trust_walk(int root, const char *path, dev_t proc_dev)
{
	_cleanup_(walk_done) struct walk w = {.root = root, .proc_dev = proc_dev};
	size_t n = strlen(path);
	if (path[0] != '/' || n >= sizeof(w.rest))
		return -EINVAL;
	memcpy(w.rest, path, n + 1);
	struct stat st;
	int r = walk_to_root(&w);
	if (r == 0 && fstat(walk_here(&w), &st) == 0)
		w.root_dev = st.st_dev;
	char name[NAME_MAX + 1];
	while (r == 0 && (r = walk_component(&w, name)) > 0)
		r = walk_step(&w, name);
	return r < 0 ? r : w.dirs[--w.n];
}
