/*
 * Ancestors (ancestor.h). Input: /proc. A slot belongs to a number; nothing here waits for a
 * process or a file. Cost of a kept one: one poll(2); of another: ten system calls.
 */
#include "attest/ancestor.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "attest/process.h"
#include "base/clock.h"
#include "base/fds.h"

struct kept {
	struct ancestor is;
	uint32_t ppid;
	int pidfd; /* -1: free */
	uint64_t taken_ms;
};

struct ancestors {
	pthread_mutex_t lock;
	struct kept slot[ANCESTORS_KEPT];
};

int ancestors_new(struct ancestors **ret)
{
	struct ancestors *a = calloc(1, sizeof(*a));
	if (!a)
		return -ENOMEM;
	pthread_mutex_init(&a->lock, NULL);
	for (size_t i = 0; i < ANCESTORS_KEPT; i++)
		a->slot[i].pidfd = -1;
	*ret = a;
	return 0;
}

static int look(uint32_t pid, struct kept *k)
{
	char name[32];
	struct proc_stat st;
	struct proc_status status;
	k->pidfd = (int)syscall(SYS_pidfd_open, pid, 0);
	if (k->pidfd < 0)
		return -errno;
	snprintf(name, sizeof(name), "/proc/%u", pid);
	_cleanup_close_ int proc = open(name, O_PATH | O_DIRECTORY | O_CLOEXEC);
	int r = proc < 0 ? -errno : process_stat(proc, &st);
	r = r < 0 ? r : process_status(proc, &status);
	/* Alive after the reading, it is what was read. */
	if (r == 0 && fds_pidfd_alive(k->pidfd) != 1)
		r = -ESRCH;
	if (r < 0)
		return r;
	k->is = (struct ancestor){.pid = pid, .start_time = st.start_time, .uid = status.uid};
	text_scrub(st.comm, strlen(st.comm), k->is.name, sizeof(k->is.name));
	k->ppid = st.ppid;
	k->taken_ms = clock_mono_ms();
	return 0;
}

/* With the lock held. */
static const struct kept *get(struct ancestors *a, uint32_t pid)
{
	struct kept *k = &a->slot[pid % ANCESTORS_KEPT];
	if (k->pidfd >= 0 && k->is.pid == pid && clock_mono_ms() - k->taken_ms < ANCESTOR_KEPT_MS &&
		fds_pidfd_alive(k->pidfd) == 1)
		return k;
	if (k->pidfd >= 0)
		close(take_fd(&k->pidfd));
	if (look(pid, k) == 0)
		return k;
	if (k->pidfd >= 0)
		close(take_fd(&k->pidfd));
	return NULL;
}

void ancestors_take(struct ancestors *a, uint32_t ppid, uint64_t child_start, struct evidence *e)
{
	pthread_mutex_lock(&a->lock);
	while (ppid > 0 && e->n_ancestors < ARRAY_LEN(e->ancestors)) {
		const struct kept *k = get(a, ppid);
		if (!k || k->is.start_time > child_start)
			break;
		e->ancestors[e->n_ancestors++] = k->is;
		ppid = k->ppid;
		child_start = k->is.start_time;
	}
	pthread_mutex_unlock(&a->lock);
}
