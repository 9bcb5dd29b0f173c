/* Which Unix sockets listen in a tree's own network namespace, by the kernel's sock_diag. */
#pragma once

#include <stdint.h>
#include <sys/stat.h>

#include "base/cleanup.h"

/* 1 when a socket of that namespace listens at the file, 0 when not, or -errno. */
int diag_listens(int diag, const struct stat *file) _must_check_;
/*
 * 1: a socket of the tree with that inode is bound to a file, whose device (as the kernel has it:
 * 20 bits of minor number) and inode are told; 0: not so.
 */
int diag_file(int diag, uint64_t socket, uint32_t *ret_dev, uint32_t *ret_ino) _must_check_;
/* The same of the socket that the one with that inode is connected to, made in that namespace too.
 */
int diag_peer_file(int diag, uint64_t socket, uint32_t *ret_dev, uint32_t *ret_ino) _must_check_;
