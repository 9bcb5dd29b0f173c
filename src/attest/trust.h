/*
 * Files nobody governed can write: root's, not writable by group or others, in directories likewise
 * up to the root. A POSIX access list that lets somebody write shows as the group's write bit, so
 * mode bits suffice. In a private instance that includes "this uid can neither write nor chmod it",
 * unless the uid is root.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>
#include <sys/types.h>

#include "base/cleanup.h"

#define TRUST_LINKS_MAX 16 /* symbolic links on one walk */
#define TRUST_DEPTH_MAX 64 /* directories deep */

/* A stat of a trusted file or directory. */
bool trust_stat(const struct stat *st);
/*
 * Opens path (O_PATH) below the directory root, following symbolic links, when every directory and
 * link on the way is trusted; what it names need not be. Nothing of a proc file system is followed.
 * proc_dev: its device. Return: descriptor, -EPERM when a step is not trusted, -errno.
 */
int trust_walk(int root, const char *path, dev_t proc_dev) _must_check_;
