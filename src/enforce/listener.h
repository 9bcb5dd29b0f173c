/*
 * Unix sockets that others may connect to by a file: who listens, so that a rule can name the
 * program; and that no descriptors come through them.
 */
#pragma once

#include <sys/stat.h>

#include "enforce/enforce.h"

/* A program is about to listen on a Unix socket. */
void listener_note(struct enforce *e, struct request *r);
/* The process of another tree that listens on this file; NULL: not known. */
const struct listener *listener_find(struct enforce *e, const struct stat *file);
void listener_tree_gone(struct enforce *e, uint64_t tree);
/*
 * Descriptors sent to this socket, or to one accepted from it, are refused (EPERM for the sender):
 * a channel is its program's, and is not handed to another tree.
 */
void unix_refuse_rights(int fd);
