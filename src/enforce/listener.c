/*
 * Which process listens on which socket file (listener.h). An entry is made from the kernel's list,
 * not from the name the program says, and holds good only while the same process lives and its tree
 * still listens on that very file. Cost: one entry and one pidfd for each listen(2) on a path.
 */
#include "enforce/listener.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/fds.h"
#include "enforce/diag.h"

#ifndef SO_PASSRIGHTS
#define SO_PASSRIGHTS 83 /* linux 6.16 */
#endif

static void listener_clear(struct listener *l)
{
	if (l->tree)
		close(l->pidfd);
	*l = (struct listener){0};
}

static bool alive(const struct listener *l)
{
	return l->tree && fds_pidfd_alive(l->pidfd) == 1;
}

/* The entry of that file, else a free one, else the place whose turn it is. */
static struct listener *listener_place(struct enforce *e, uint32_t dev, uint32_t ino)
{
	struct listener *free = NULL;
	for (size_t i = 0; i < LISTENERS_MAX; i++) {
		struct listener *l = &e->listener[i];
		if (l->tree && l->dev == dev && l->ino == ino)
			return l;
		if (!free && !alive(l))
			free = l;
	}
	return free ? free : &e->listener[e->next_listener++ % LISTENERS_MAX];
}

void listener_note(struct enforce *e, struct request *r)
{
	struct stat st;
	uint32_t dev, ino;
	bool datagram = r->type == SOCK_DGRAM;
	if (fstat(r->sock, &st) < 0 ||
		diag_file(datagram ? e->diag : r->tree->diag, st.st_ino, &dev, &ino) != 1)
		return; /* an abstract name: only its own tree reaches it */
	unix_refuse_rights(r->sock);
	int pidfd = fcntl(r->pidfd, F_DUPFD_CLOEXEC, 3);
	if (pidfd < 0)
		return;
	struct listener *l = listener_place(e, dev, ino);
	listener_clear(l);
	*l = (struct listener){.tree = r->tree->id,
		.pid = r->pid,
		.pidfd = pidfd,
		.dev = dev,
		.ino = ino,
		.socket = datagram ? st.st_ino : 0};
}

/* The same socket: the file's number alone may be another file's by now. */
static bool stands(const struct enforce *e, const struct tree *t, const struct listener *l,
	const struct stat *file)
{
	uint32_t dev, ino;
	if (!l->socket)
		return diag_listens(t->diag, file) == 1;
	return diag_file(e->diag, l->socket, &dev, &ino) == 1 && dev == l->dev && ino == l->ino;
}

/* The entry of this file, if a socket is there still. */
static const struct listener *listener_at(struct enforce *e, const struct stat *file)
{
	uint32_t dev = (uint32_t)(major(file->st_dev) << 20 | minor(file->st_dev));
	for (size_t i = 0; i < LISTENERS_MAX; i++) {
		const struct listener *l = &e->listener[i];
		if (!l->tree || l->dev != dev || l->ino != file->st_ino)
			continue;
		const struct tree *t = tree_find(e, l->tree);
		return t && stands(e, t, l, file) ? l : NULL;
	}
	return NULL;
}

bool listener_own(struct enforce *e, const struct tree *t, const struct stat *file)
{
	if (diag_listens(t->diag, file) == 1)
		return true;
	const struct listener *l = listener_at(e, file);
	return l && l->socket && l->tree == t->id;
}

void listener_tree_gone(struct enforce *e, uint64_t tree)
{
	for (size_t i = 0; i < LISTENERS_MAX; i++)
		if (e->listener[i].tree == tree)
			listener_clear(&e->listener[i]);
}

void unix_refuse_rights(int fd)
{
	int off = 0;
	/* Older kernels have no such thing: docs/caveats.md. */
	(void)!setsockopt(fd, SOL_SOCKET, SO_PASSRIGHTS, &off, sizeof(off));
}

size_t listener_question(struct enforce *e, struct path *p, Belay__Question *q, int *ret_fd)
{
	const struct listener *l = listener_at(e, &p->st);
	belay__question__init(q);
	q->call = BELAY__QUESTION__CALL__CALL_UNIX_CONNECT;
	q->transport = BELAY__TRANSPORT__TRANSPORT_UNIX;
	q->family = AF_UNIX;
	q->unix_path = p->text;
	if (!l || !alive(l))
		return 0;
	q->unix_peer_pid = l->pid;
	q->unix_peer_tree = l->tree;
	*ret_fd = l->pidfd;
	return 1;
}
