/* What enforce reads of /proc/PID/status and of the kernel's list of Unix sockets. Pure. */
#pragma once

#include <linux/unix_diag.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/cleanup.h"

/* What a thread acts with: file-system and effective ids, groups, umask, capabilities. */
struct target_ids {
	uid_t uid, euid;
	gid_t gid, egid;
	mode_t umask;
	uint64_t capabilities;
	gid_t groups[64];
	size_t n_groups;
};

/* The number of a line `KEY:`, or -1. */
long parse_number(const char *status, const char *key);
int parse_ids(const char *status, struct target_ids *ret) _must_check_;
/* A signal with a handler, not blocked, is waiting. */
bool parse_signalled(const char *status);
/*
 * What is looked for: a listener by its file, or a bound socket by its inode or its peer's, whose
 * file is told.
 */
struct socket_wanted {
	uint32_t states;
	const struct stat *file;
	uint32_t socket, peer;
	struct unix_diag_vfs found;
};

#define RIGHTS_MAX 16
/* Descriptor numbers in the control part of a message. -EINVAL, or -ETOOMANYREFS. */
int parse_rights(const char *control, size_t len, int ret[RIGHTS_MAX], size_t *ret_n) _must_check_;

/*
 * One datagram of a dump asked for with this number; buf is aligned for its header. 1: it is there,
 * and w->found is its file; 0: the dump ends; -EAGAIN: more is to come; -EBUSY: an
 * earlier dump is not read to its end; -EIO: the kernel refuses,
 * or says what cannot be.
 */
int parse_sockets(const char *buf, size_t len, uint32_t seq, struct socket_wanted *w);
