/* Which Unix sockets listen in a tree's own network namespace, by the kernel's sock_diag. */
#pragma once

#include <sys/stat.h>

#include "base/cleanup.h"

/* 1 when a socket of that namespace listens at the file, 0 when not, or -errno. */
int diag_listens(int diag, const struct stat *file) _must_check_;
