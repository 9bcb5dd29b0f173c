/*
 * A process's ancestors. Siblings share theirs, and one process is asked about again and again, so
 * each is kept for a second with a pidfd: while that is alive, the number is its own.
 */
#pragma once

#include "identity/evidence.h"

#define ANCESTORS_KEPT 256
#define ANCESTOR_KEPT_MS 1000 /* its user and name may change, and its parent end */

struct ancestors;
int ancestors_new(struct ancestors **ret) _must_check_;
/*
 * Fills e's list, from the parent on. One that ended while we read could have left its number to
 * another; that one would have started after its supposed child, which ends the list.
 */
void ancestors_take(struct ancestors *a, uint32_t ppid, uint64_t child_start, struct evidence *e);
