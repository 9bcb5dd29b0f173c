/*
 * Descriptors: close-on-exec at birth, passed with SCM_RIGHTS, counted on receipt.
 * All functions return 0 (or a count) or -errno and leave no descriptor behind on failure.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

#define FDS_PASS_MAX 64 /* descriptors in one message of ours; the kernel's own limit is 253 */

/* One message with its descriptors, MSG_NOSIGNAL. The descriptors stay the caller's. */
int fds_send(int sock, const void *buf, size_t len, const int *fds, size_t n_fds,
	int flags) _must_check_;
/*
 * One message into buf; *ret_n_fds descriptors into fds (room for FDS_PASS_MAX). A truncated
 * message or too many descriptors is -EMSGSIZE with every received descriptor closed. Return:
 * bytes, 0 at end.
 */
ssize_t fds_recv(
	int sock, void *buf, size_t len, int *fds, size_t *ret_n_fds, int flags) _must_check_;

int fds_write_all(int fd, const void *buf, size_t len) _must_check_;
/* Reads at most max bytes; -EFBIG if the file holds more. *ret is NUL-terminated, the caller frees.
 */
int fds_read_file(
	int dirfd, const char *path, size_t max, char **ret, size_t *ret_len) _must_check_;
int fds_nonblock(int fd) _must_check_;
/* A sealed, read-only memfd holding a copy of buf. Return: descriptor or -errno. */
int fds_memfd(const char *name, const void *buf, size_t len) _must_check_;
/* Maps a sealed memfd read-only after checking its seals and size. munmap by the caller. */
int fds_map(int memfd, size_t max, const void **ret, size_t *ret_len) _must_check_;
/* 1 while the process behind the pidfd lives, 0 once it has exited, -errno. */
int fds_pidfd_alive(int pidfd) _must_check_;
