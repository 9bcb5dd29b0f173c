/*
 * UDP sockets of programs, for datagrams the kernel saw and no call of which was trapped (sendmsg):
 * whose is it? It is the one's it was made for, as long as that process still has it under the same
 * number; then the question is asked that its sendto would have asked, in its name. The datagram is
 * lost; the next one passes if the answer is yes.
 *
 * A socket that an exec handed to another image has two masters, one of whom could have the other's
 * right to a destination taken: it is not known any more. Nor are the sockets of a predecessor.
 *
 * Input: the guard's word, and a process that may be hostile: what is under that number is looked
 * at first. Cost: a fixed table; three system calls for each UDP socket a program makes.
 */
#include <errno.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/discard.h"
#include "enforce/enforce.h"
#include "enforce/target.h"

static uint64_t socket_inode(int fd)
{
	struct stat st;
	return fstat(fd, &st) == 0 && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

void sockets_note(struct enforce *e, const struct request *r, int fd, int number)
{
	pid_t pid;
	int pidfd;
	uint64_t inode = socket_inode(fd);
	if (!inode || target_process((pid_t)r->n.pid, &pid, &pidfd) < 0)
		return;
	e->udp[e->next_udp] = (struct udp_socket){inode, r->tree->id, pid, number};
	e->next_udp = (e->next_udp + 1) % UDP_SOCKETS_MAX;
}

static struct udp_socket *find(struct enforce *e, uint64_t inode)
{
	for (size_t i = 0; inode && i < UDP_SOCKETS_MAX; i++)
		if (e->udp[i].inode == inode)
			return &e->udp[i];
	return NULL;
}

void sockets_inherited(struct enforce *e, int fd)
{
	struct udp_socket *s = find(e, socket_inode(fd));
	if (s)
		*s = (struct udp_socket){0};
}

void sockets_want(struct enforce *e, uint64_t inode, const Belay__Addr *to)
{
	struct udp_socket *s = find(e, inode);
	struct tree *t = s ? tree_find(e, s->tree) : NULL;
	pid_t pid;
	int pidfd;
	if (!t || target_process(s->pid, &pid, &pidfd) < 0 || pid != s->pid)
		return;
	int fd = target_fd(pid, s->fd);
	if (fd < 0)
		return;
	if (socket_inode(fd) == inode && sock_cookie_netns(fd) == e->cookie) {
		Belay__Question q = BELAY__QUESTION__INIT;
		int fds[] = {pidfd, fd};
		q.call = BELAY__QUESTION__CALL__CALL_DATAGRAM;
		q.tree = t->id;
		q.pid = (uint32_t)pid;
		q.address = (Belay__Addr *)(uintptr_t)to;
		q.transport = BELAY__TRANSPORT__TRANSPORT_UDP;
		q.family = (uint32_t)sock_domain(fd);
		question_wanted(e, &q, fds);
	}
	fds_close_foreign(fd);
}
