/*
 * Accepting: who connected, as the kernel recorded it, then the descriptor goes to its taker. Not
 * one byte is read. Input: anybody's connections; each uid has a rate, and while the taker does not
 * keep up nothing is accepted at all. Cost of a control connection: accept, two getsockopt, one
 * sendmsg.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/syscall.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/log.h"
#include "base/proc.h"
#include "component.pb-c.h"
#include "dispatcher/dispatcher.h"

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77
#endif

/*
 * The process behind the connection. Kernels before 6.5 cannot say, so the number is turned into a
 * pidfd, and the uids it has now must be those the connection was made with (docs/caveats.md: a
 * number reused by the same user).
 */
static int peer_pidfd(int fd, const struct ucred *who)
{
	int pidfd = -1;
	socklen_t len = sizeof(pidfd);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERPIDFD, &pidfd, &len) == 0)
		return pidfd;
	if (errno != ENOPROTOOPT)
		return -errno;
	_cleanup_close_ int opened = (int)syscall(SYS_pidfd_open, who->pid, 0);
	uint32_t uids[4];
	if (opened < 0)
		return -errno;
	int r = proc_uids(who->pid, uids);
	if (r < 0)
		return r;
	if (fds_pidfd_alive(opened) != 1 || uids[1] != who->uid)
		return -ESRCH;
	return take_fd(&opened);
}

static int pass(struct peer *to, const Belay__Connection *body, const int *fds, size_t n_fds)
{
	Belay__ToComponent m = BELAY__TO_COMPONENT__INIT;
	m.body_case = BELAY__TO_COMPONENT__BODY_CONNECTION;
	m.connection = (Belay__Connection *)(uintptr_t)body;
	return ipc_send(&to->chan, &m.base, fds, n_fds);
}

static void accept_control(struct dispatcher *d, int fd)
{
	Belay__Connection c = BELAY__CONNECTION__INIT;
	struct ucred who;
	socklen_t len = sizeof(who);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0 || who.pid <= 0)
		return;
	if (!rate_take(&d->rate, who.uid, clock_mono_ms() + 1)) {
		log_peer("uid %u connects too often", who.uid);
		return;
	}
	_cleanup_close_ int pidfd = peer_pidfd(fd, &who);
	if (pidfd < 0)
		return;
	c.kind = BELAY__CONNECTION_KIND__CONNECTION_CONTROL;
	c.pid = (uint32_t)who.pid;
	c.uid = who.uid;
	c.gid = who.gid;
	int fds[] = {fd, pidfd};
	if (pass(&d->peer[ROLE_GUARD], &c, fds, 2) < 0)
		log_peer("a connection of uid %u could not be passed to the guard", who.uid);
}

static void accept_tcp(struct listener *l, struct peer *to, int fd)
{
	static const Belay__ConnectionKind kinds[] = {
		[LISTENER_LINK] = BELAY__CONNECTION_KIND__CONNECTION_LINK,
		[LISTENER_DATA] = BELAY__CONNECTION_KIND__CONNECTION_DATA,
		[LISTENER_PUBLISHED] = BELAY__CONNECTION_KIND__CONNECTION_PUBLISHED};
	Belay__Connection c = BELAY__CONNECTION__INIT;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	struct addr remote;
	char text[ADDR_TEXT_MAX];
	if (getpeername(fd, (struct sockaddr *)&ss, &len) < 0 ||
		addr_from_sockaddr(&ss, len, &remote) < 0)
		return;
	addr_format(&remote, true, text);
	c.kind = kinds[l->kind];
	c.remote = text;
	c.published = l->id;
	if (pass(to, &c, &fd, 1) < 0)
		log_peer("a connection from %s could not be passed to %s", text,
			role_name(to->role));
}

void accept_ready(struct listener *l)
{
	struct dispatcher *d = l->dispatcher;
	struct peer *to = listener_taker(l);
	for (int i = 0; i < ACCEPT_BATCH; i++) {
		if (!ipc_chan_open(&to->chan) || to->chan.queued > ACCEPT_QUEUE_MAX)
			break;
		int fd = accept4(l->fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
		if (fd < 0 && (errno == EMFILE || errno == ENFILE || errno == ENOBUFS ||
				      errno == ENOMEM)) {
			log_peer("cannot accept: %s", strerror(errno));
			uv_poll_stop(&l->poll);
			listeners_pause(d);
			return;
		}
		if (fd < 0)
			return;
		if (l->kind == LISTENER_CONTROL)
			accept_control(d, fd);
		else
			accept_tcp(l, to, fd);
		/* Refused, it closes here, with what may be in its queue already. */
		(void)fds_discard(fd);
	}
	if (to->chan.queued > ACCEPT_QUEUE_MAX || !ipc_chan_open(&to->chan)) {
		listeners_update(d);
	}
}
