/*
 * The received, unanswered notifications of all trees, in a memfd that outlives this process: a
 * successor answers what its predecessor had taken on. A slot is filled by the kernel itself
 * (NOTIF_RECV writes into it), so there is no moment at which a notification is ours but not noted.
 */
#pragma once

#include <linux/seccomp.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define JOURNAL_SLOTS 4096

struct journal_slot {
	uint64_t tree;  /* 0: free. Set before NOTIF_RECV, cleared after the answer */
	uint32_t begun; /* a connect that may have connected the socket */
	uint32_t lent;  /* the socket has a flag that is not its program's (base/connect.h) */
	struct seccomp_notif notif;
};

struct journal {
	struct journal_slot *slot; /* JOURNAL_SLOTS of them, shared memory */
	uint32_t free[JOURNAL_SLOTS];
	uint32_t n_free;
};

/*
 * Maps the memfd, giving it its size when it is fresh. Slots a predecessor left are not free; the
 * caller replays them. memfd -1: private memory, nothing survives. -EBADMSG: not a journal.
 */
int journal_open(struct journal *j, int memfd) _must_check_;
/* Index of a zeroed slot that belongs to `tree`, or -ENOBUFS. */
int journal_take(struct journal *j, uint64_t tree) _must_check_;
void journal_release(struct journal *j, uint32_t index);
