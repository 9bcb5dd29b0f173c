/*
 * The file of a Unix socket, as the program that names it would find it: held by descriptor, and
 * told by where it is in the end.
 */
#pragma once

#include <limits.h>
#include <sys/stat.h>

#include "enforce/enforce.h"

/*
 * Acting with a caller's permissions, on a host, where this process has a uid of its own. Reset
 * always, also when set failed.
 */
struct actor {
	bool changed;
	uid_t uid;
	gid_t gid;
};
int actor_set(const struct enforce *e, pid_t tid, struct actor *a) _must_check_;
void actor_reset(const struct actor *a);

#define PATH_JUDGED_MAX 256 /* with its NUL: what a rule can name and a question can hold */
struct path {
	int fd; /* O_PATH, borrowed */
	struct stat st;
	char text[PATH_MAX];
};

/* Opens it with O_PATH; -EAGAIN when the kernel would have to wait for a file system. */
int path_find(const struct enforce *e, pid_t tid, const char *path) _must_check_;
/* From a directory of the caller's, or below a root of its. */
int path_find_at(const struct enforce *e, pid_t tid, int base, const char *path) _must_check_;
/* Fills st and text of p->fd; -EACCES in a file system that a program serves. */
int path_where(struct tree *t, pid_t tid, struct path *p) _must_check_;
/* Is it on a file system that this process sees as well? */
bool path_shared(int fd);
/* The same of a socket. -ECONNREFUSED: no socket; -EACCES: one that is nobody's business. */
int path_socket(const struct enforce *e, struct tree *t, pid_t tid, struct path *p) _must_check_;
