/* The few lines of /proc that several rooms read. Pure parsers: the text is the kernel's, with a
 * name in it that the process chose. */
#pragma once

#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

/* Field 22 of /proc/PID/stat: start in clock ticks since boot. -EBADMSG if it is not there. */
int proc_stat_start_time(const char *stat, uint64_t *ret) _must_check_;
/* The "Uid:" line of /proc/PID/status: real, effective, saved, file system. */
int proc_status_uids(const char *status, uint32_t ret[4]) _must_check_;
/* Reads and parses them. -ENOENT or -ESRCH when the process is gone. */
int proc_start_time(pid_t pid, uint64_t *ret) _must_check_;
int proc_uids(pid_t pid, uint32_t ret[4]) _must_check_;
