/*
 * See journal.h. Input: the memfd's content, written by a predecessor that may have died anywhere;
 * only its shape is checked here, each notification is checked with the kernel before it is used.
 * The lowest free slots are used first, so that few pages are ever touched. No allocation and no
 * system call after journal_open().
 */
#include "enforce/journal.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define JOURNAL_MAGIC 0x314c4e524a59424cu
#define JOURNAL_HEAD 64 /* the slots start on a cache line of their own */
#define JOURNAL_BYTES (JOURNAL_HEAD + JOURNAL_SLOTS * sizeof(struct journal_slot))

struct head {
	uint64_t magic;
	uint32_t slots, slot_size;
};

static int journal_map(int memfd, void **ret)
{
	struct stat st;
	if (memfd >= 0) {
		if (fstat(memfd, &st) < 0)
			return -errno;
		if (st.st_size < (off_t)JOURNAL_BYTES && ftruncate(memfd, (off_t)JOURNAL_BYTES) < 0)
			return -errno;
	}
	*ret = mmap(NULL, JOURNAL_BYTES, PROT_READ | PROT_WRITE,
		memfd >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, memfd, 0);
	return *ret == MAP_FAILED ? -errno : 0;
}

int journal_open(struct journal *j, int memfd)
{
	void *map;
	int r = journal_map(memfd, &map);
	if (r < 0)
		return r;
	struct head want = {JOURNAL_MAGIC, JOURNAL_SLOTS, sizeof(struct journal_slot)}, *h = map;
	if (!h->magic)
		*h = want;
	if (memcmp(h, &want, sizeof(want)))
		return -EBADMSG;
	j->slot = (struct journal_slot *)(void *)((char *)map + JOURNAL_HEAD);
	j->n_free = 0;
	for (uint32_t i = JOURNAL_SLOTS; i-- > 0;)
		if (!j->slot[i].tree)
			j->free[j->n_free++] = i;
	return 0;
}

int journal_take(struct journal *j, uint64_t tree)
{
	if (!j->n_free || !tree)
		return -ENOBUFS;
	uint32_t i = j->free[--j->n_free];
	j->slot[i].lent = j->slot[i].begun = 0;
	memset(&j->slot[i].notif, 0, sizeof(j->slot[i].notif));
	__atomic_store_n(&j->slot[i].tree, tree, __ATOMIC_RELEASE);
	return (int)i;
}

void journal_release(struct journal *j, uint32_t index)
{
	if (!j->slot[index].tree)
		return;
	__atomic_store_n(&j->slot[index].tree, 0, __ATOMIC_RELEASE);
	j->free[j->n_free++] = index;
}
