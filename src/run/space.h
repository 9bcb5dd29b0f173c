/* The namespaces a bound program lives in, and what is masked there. */
#pragma once

#include "base/error.h"

/*
 * Moves the calling process, which must have one thread, into user, network, IPC and mount
 * namespaces of its own and arranges them. Every one of `masked` (NULL-terminated, paths that are
 * absent are passed over) becomes an empty directory nobody can write.
 */
int space_enter(const char *const *masked, struct error *e) _must_check_;
/* Keeps signals and abstract Unix sockets inside the tree where the kernel can (Landlock ABI 6). */
int space_scope(struct error *e) _must_check_;
/* What root inside the user namespace is left with. Nothing changes for other users. */
int space_drop(struct error *e) _must_check_;
