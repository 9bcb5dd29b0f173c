/*
 * Looking at the thread that made a trapped call. Everything read is the word of a program that may
 * be hostile, and good only when call_valid() holds *afterwards*.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "enforce/parse.h"

#define SO_NETNS_COOKIE_ 71 /* linux 5.14 */

/* Process id and pidfd (borrowed, valid until the next call) of the thread. */
int target_process(pid_t tid, pid_t *ret_pid, int *ret_pidfd) _must_check_;
/* A duplicate of the thread's descriptor; the caller closes. */
int target_fd(pid_t tid, int fd) _must_check_;
/* Exactly len bytes, or -EFAULT. */
int target_read(pid_t tid, uint64_t address, void *buf, size_t len) _must_check_;
/* Text of at most max - 1 bytes; -ENAMETOOLONG when it is longer. */
int target_read_text(pid_t tid, uint64_t address, char *text, size_t max) _must_check_;
int target_write(pid_t tid, uint64_t address, const void *buf, size_t len) _must_check_;
/* A signal with a handler, not blocked, is waiting for the thread. */
int target_signalled(pid_t tid) _must_check_;
/* A descriptor of /proc/TID/WHAT, opened with these flags. */
int target_magic(pid_t tid, const char *what, int flags) _must_check_;
int target_ids(pid_t tid, struct target_ids *ret) _must_check_;

/*
 * Calls fn with a duplicate of each socket of a process that stands still, until it returns false.
 * False: not all could be looked at.
 */
bool target_sockets(pid_t pid, bool (*fn)(void *ctx, int fd), void *ctx);

int target_init(void) _must_check_;

int sock_int(int fd, int level, int option);
int sock_domain(int fd);
uint64_t sock_cookie_netns(int fd);

/*
 * Between these two a system call that blocks, because the program changed its descriptor's flags
 * behind our back, is cut short with EINTR after WATCHDOG_MS: nobody stops this process.
 */
#define WATCHDOG_MS 10
void watchdog_start(void);
void watchdog_stop(void);
