/*
 * The book of leases (lease.h). One writer and one reader for each word. Input: the other side's
 * stores; an index is always taken modulo the table's size, so none leads outside it. No system
 * call after lease_book_map().
 */
#include "ipc/lease.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOK_MAGIC 0x3153454c59424cu
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

int lease_book_make(void)
{
	_cleanup_close_ int fd = memfd_create("belay-leases", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	uint64_t magic = BOOK_MAGIC;
	if (fd < 0 || ftruncate(fd, sizeof(struct lease_book)) < 0 ||
		fcntl(fd, F_ADD_SEALS, SEALS) < 0)
		return -errno;
	if (pwrite(fd, &magic, sizeof(magic), 0) != sizeof(magic))
		return -EIO;
	return take_fd(&fd);
}

int lease_book_map(int fd, struct lease_book **ret)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	int seals = fcntl(fd, F_GET_SEALS);
	if (st.st_size != sizeof(struct lease_book) || seals < 0 || (seals & SEALS) != SEALS)
		return -EBADMSG;
	struct lease_book *b = mmap(NULL, sizeof(*b), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (b == MAP_FAILED)
		return -errno;
	if (b->magic != BOOK_MAGIC) {
		munmap(b, sizeof(*b));
		return -EBADMSG;
	}
	*ret = b;
	return 0;
}

void lease_book_unmap(struct lease_book *b)
{
	if (b)
		munmap(b, sizeof(*b));
}

bool lease_holds(const struct lease_book *b, uint32_t lease, uint32_t generation)
{
	return generation && lease < LEASE_BOOK_MAX &&
	       atomic_load_explicit(&b->holds[lease], memory_order_acquire) == generation;
}

bool lease_use_room(const struct lease_book *b)
{
	uint32_t tail = atomic_load_explicit(&b->tail, memory_order_acquire);
	return atomic_load_explicit(&b->head, memory_order_relaxed) - tail < LEASE_USES_MAX;
}

void lease_use_put(struct lease_book *b, const struct lease_use *u)
{
	uint32_t head = atomic_load_explicit(&b->head, memory_order_relaxed);
	b->use[head % LEASE_USES_MAX] = *u;
	atomic_store_explicit(&b->head, head + 1, memory_order_release);
}

uint32_t lease_uses(const struct lease_book *b)
{
	return atomic_load_explicit(&b->head, memory_order_acquire) -
	       atomic_load_explicit(&b->tail, memory_order_relaxed);
}

void lease_use_get(const struct lease_book *b, struct lease_use *ret)
{
	uint32_t tail = atomic_load_explicit(&b->tail, memory_order_relaxed);
	*ret = b->use[tail % LEASE_USES_MAX];
}

void lease_use_done(struct lease_book *b, uint32_t n)
{
	atomic_fetch_add_explicit(&b->tail, n, memory_order_release);
}
