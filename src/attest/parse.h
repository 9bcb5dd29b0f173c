/*
 * Parsers of what the kernel prints about a process. Pure: text in, struct out. The kernel made the
 * text, but a process chose parts of it (its name, its files' paths, its cgroup's name, its stack),
 * so nothing is believed beyond the format: comm may hold ')' and spaces, paths may hold "
 * (deleted)".
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define COMM_MAX 64 /* 15 bytes for tasks of people, more for kernel workers */

/*
 * Addresses the kernel chose when the image started and every fork of it shares; only PR_SET_MM,
 * which bound programs may not call, changes them. Tells forks of one image from others of the same
 * file.
 */
struct image_key {
	uint64_t code, stack, arguments;
};

struct proc_stat {
	uint32_t ppid;
	uint64_t start_time;
	struct image_key image;
	char comm[COMM_MAX];
};
/* /proc/PID/stat. -EBADMSG. */
int parse_stat(const char *text, size_t len, struct proc_stat *ret) _must_check_;

struct proc_status {
	uint32_t uid, gid; /* effective */
	uint32_t groups[128];
	size_t n_groups;
};
/* /proc/PID/status. -EBADMSG; -E2BIG with more groups than fit. */
int parse_status(const char *text, size_t len, struct proc_status *ret) _must_check_;

/* "Pid:" of a pidfd's fdinfo; -ESRCH when the process has been reaped. */
int parse_fdinfo_pid(const char *text, size_t len, uint32_t *ret) _must_check_;

/* /proc/PID/cgroup: the path, of the unified hierarchy or else the service manager's; points into
 * text. */
int parse_cgroup(const char *text, size_t len, const char **ret, size_t *ret_len) _must_check_;
/* The service manager's unit: the first component that is not a slice. What a unit delegates is
 * below it. */
bool cgroup_unit(const char *path, size_t len, const char **ret, size_t *ret_len);

struct mapping {
	uint64_t start, end;
	bool executable;
	uint32_t major, minor;
	uint64_t inode;   /* 0 with device 0: no file */
	const char *path; /* points into the text, NUL-terminated by the parser; escapes undone */
};
/* One line of /proc/PID/maps at *p, which it may write to. 1: *ret set, 0: at the end, -EBADMSG. */
int parse_maps_next(char **p, char *end, struct mapping *ret) _must_check_;

/* Address of AT_EXECFN in a 64-bit auxiliary vector. -ENOENT. */
int parse_auxv_execfn(const void *auxv, size_t len, uint64_t *ret) _must_check_;

#define SHEBANG_MAX 256 /* what the kernel reads of the line */
#define SHEBANG_WORDS_MAX 8
struct shebang {
	char interpreter[SHEBANG_MAX];
	/*
	 * When that is `env`: what it puts in front of the script's name, the command it looks for
	 * first. None where it is told anything else: options, assignments, quotes (of "-S" only
	 * plain words are understood).
	 */
	size_t n_words;
	char words[SHEBANG_MAX]; /* one after the other, each with its NUL */
};
/* A "#!" line, as the kernel reads one. -ENOENT: no script; -EBADMSG. */
int parse_shebang(const char *text, size_t len, struct shebang *ret) _must_check_;
