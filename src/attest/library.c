/*
 * The table of installed libraries (library.h), least recently used last. It takes files of the
 * system's own library directories only, so the look with the lock held does not wait. Cost: a scan
 * and one fstat(2) a mapping.
 */
#include "attest/library.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/queue.h>
#include <sys/stat.h>
#include <unistd.h>

#include "attest/trust.h"

struct library {
	TAILQ_ENTRY(library) link;
	uint32_t major, minor;
	uint64_t inode;
	int fd;
};

TAILQ_HEAD(library_list, library);

struct libraries {
	pthread_mutex_t lock;
	struct library_list list;
	size_t n;
};

int libraries_new(struct libraries **ret)
{
	struct libraries *l = calloc(1, sizeof(*l));
	if (!l)
		return -ENOMEM;
	pthread_mutex_init(&l->lock, NULL);
	TAILQ_INIT(&l->list);
	*ret = l;
	return 0;
}

static struct library *find(const struct libraries *l, const struct mapping *m)
{
	struct library *f;
	TAILQ_FOREACH (f, &l->list, link)
		if (f->inode == m->inode && f->major == m->major && f->minor == m->minor)
			return f;
	return NULL;
}

static void forget(struct libraries *l, struct library *f)
{
	TAILQ_REMOVE(&l->list, f, link);
	l->n--;
	close(f->fd);
	free(f);
}

bool library_known(struct libraries *l, const struct mapping *m)
{
	struct stat st;
	pthread_mutex_lock(&l->lock);
	struct library *f = find(l, m);
	bool good = f && fstat(f->fd, &st) == 0 && trust_stat(&st);
	if (good) {
		TAILQ_REMOVE(&l->list, f, link);
		TAILQ_INSERT_HEAD(&l->list, f, link);
	} else if (f) {
		forget(l, f);
	}
	pthread_mutex_unlock(&l->lock);
	return good;
}

void library_note(struct libraries *l, const struct mapping *m, int fd)
{
	struct library *f = calloc(1, sizeof(*f));
	if (!f) {
		close(fd);
		return;
	}
	*f = (struct library){.major = m->major, .minor = m->minor, .inode = m->inode, .fd = fd};
	pthread_mutex_lock(&l->lock);
	struct library *older = find(l, m);
	if (older)
		forget(l, older);
	while (l->n >= LIBRARIES_MAX)
		forget(l, TAILQ_LAST(&l->list, library_list));
	TAILQ_INSERT_HEAD(&l->list, f, link);
	l->n++;
	pthread_mutex_unlock(&l->lock);
}
