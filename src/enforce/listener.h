/*
 * Unix sockets that others may connect to by a file: who listens, so that a rule can name the
 * program; and that no descriptors come through them.
 */
#pragma once

#include <sys/stat.h>

#include "enforce/enforce.h"
#include "enforce/path.h"

/* A program is about to listen on a Unix socket, or has bound one for datagrams. */
void listener_note(struct enforce *e, struct request *r);
/*
 * May a program connect there? Who listens is said when it is a process of another tree that is
 * known: 1, and its pidfd (borrowed) for the question; else 0. The text is p's.
 */
size_t listener_question(struct enforce *e, struct path *p, Belay__Question *q, int *ret_fd);
/* Does the tree itself listen there? */
bool listener_own(struct enforce *e, const struct tree *t, const struct stat *file);
void listener_tree_gone(struct enforce *e, uint64_t tree);
/*
 * Descriptors sent to this socket, or to one accepted from it, are refused (EPERM for the sender):
 * a channel is its program's, and is not handed to another tree.
 */
void unix_refuse_rights(int fd);
