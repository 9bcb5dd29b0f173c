/*
 * Unix sockets that a new image inherits, judged while it stands before its first instruction.
 *
 * A connection made under Belay to a socket file outside the tree is asked about again, as if the
 * new image made it, and shut down when policy refuses it: for all who hold it, as a TCP connection
 * ends for all. Its file is found by the peer's name and must be the very file the kernel says the
 * peer is bound to; when it is not (bound by a relative name, removed, replaced), nobody can say
 * what policy says of it, and the connection ends. Free are pairs, abstract names, listeners of the
 * tree, and sockets that were not made in the tree's network namespace: what the user of the run
 * hands over (standard streams), and what the program accepted from others, who were judged.
 *
 * A datagram socket sends to any path without a question: an inherited one only receives from now.
 *
 * Input: sockets of a hostile program, the kernel's list of the tree's. Cost: two system calls for
 * each Unix socket at an exec; for each connection to a file some ten, a dump of the tree's Unix
 * sockets and a question.
 */
#include <errno.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/discard.h"
#include "enforce/diag.h"
#include "enforce/enforce.h"
#include "enforce/listener.h"
#include "enforce/path.h"
#include "enforce/target.h"

void inherit_forget(struct exec *x)
{
	for (uint32_t i = 0; i < x->n_unix; i++)
		fds_close_foreign(x->unix_sock[i]);
	x->n_unix = x->at_unix = 0;
	x->allowed = false;
}

/* The path the socket is connected to; false: to none. */
static bool peer_path(int fd, char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1])
{
	struct sockaddr_un sa = {0};
	socklen_t len = sizeof(sa);
	if (getpeername(fd, (struct sockaddr *)&sa, &len) < 0 || sa.sun_family != AF_UNIX ||
		len <= offsetof(struct sockaddr_un, sun_path))
		return false;
	memcpy(path, sa.sun_path, sizeof(sa.sun_path));
	path[sizeof(sa.sun_path)] = '\0';
	return path[0];
}

static uint64_t inode_of(int fd)
{
	struct stat st;
	return fstat(fd, &st) < 0 ? 0 : st.st_ino;
}

static bool take(void *ctx, int fd)
{
	struct exec *x = ctx;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
	uint64_t own = x->tree->diag < 0 ? 0 : sock_cookie_netns(x->tree->diag);
	if (sock_domain(fd) != AF_UNIX)
		return true;
	if (sock_int(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM) {
		(void)shutdown(fd, SHUT_WR);
		return true;
	}
	if ((own && sock_cookie_netns(fd) != own) || !peer_path(fd, path))
		return true;
	for (uint32_t i = 0; i < x->n_unix; i++)
		if (inode_of(x->unix_sock[i]) == inode_of(fd))
			return true;
	int copy = x->n_unix < EXEC_UNIX_MAX ? fcntl(fd, F_DUPFD_CLOEXEC, 3) : -1;
	if (copy < 0)
		(void)shutdown(fd, SHUT_RDWR);
	else
		x->unix_sock[x->n_unix++] = copy;
	return true;
}

/* 1: asked; 0: free; -errno: what it leads to cannot be said, or is nobody's to have. */
static int judge(struct enforce *e, struct exec *x, int sock)
{
	static struct path p;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path) + 1];
	uint32_t dev, ino;
	if (!peer_path(sock, path))
		return 0; /* disconnected meanwhile */
	_cleanup_close_ int file = path_find(e, x->pid, path);
	p.fd = file;
	int bad = file < 0 ? file : path_socket(e, x->tree, x->pid, &p);
	if (bad)
		return bad;
	if (diag_peer_file(x->tree->diag, inode_of(sock), &dev, &ino) != 1 ||
		ino != (uint32_t)p.st.st_ino ||
		dev != (uint32_t)(major(p.st.st_dev) << 20 | minor(p.st.st_dev)))
		return -ESTALE;
	if (diag_listens(x->tree->diag, &p.st) == 1)
		return 0;
	Belay__Question q;
	int fds[2] = {x->pidfd};
	size_t n = listener_question(e, &p, &q, &fds[1]);
	question_exec(e, x, &q, fds, 1 + n);
	return 1;
}

static void next(struct enforce *e, struct exec *x)
{
	for (; x->at_unix < x->n_unix; x->at_unix++) {
		int sock = x->unix_sock[x->at_unix], r = judge(e, x, sock);
		if (r > 0)
			return; /* the answer goes on from here */
		if (r < 0) {
			tree_notice(x->tree, "ended: an inherited connection to a Unix socket "
					     "whose file cannot be "
					     "told (try absolute paths)");
			(void)shutdown(sock, SHUT_RDWR);
		}
	}
	exec_release(e, x, 0);
}

void inherit_answered(struct enforce *e, struct exec *x, int error)
{
	if (error)
		(void)shutdown(x->unix_sock[x->at_unix], SHUT_RDWR);
	x->at_unix++;
	next(e, x);
}

void inherit_start(struct enforce *e, struct exec *x)
{
	x->allowed = true;
	if (target_sockets(x->pid, take, x))
		next(e, x);
	else
		exec_kill(e, x); /* not all could be looked at, and the image would have the rest */
}
