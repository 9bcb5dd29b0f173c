/*
 * See diag.h. Input: the kernel's dump; a message from anybody else on that socket is dropped.
 * The kernel tells 32 bits of an inode number: a file with a longer one is not found, and policy
 * decides. Cost: one sendto(2) and a recvmsg(2) per some 200 listening sockets of the tree.
 */
#include "enforce/diag.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

#include "enforce/parse.h"

#define DIAG_BUF 16384
#define DIAG_MESSAGES_MAX 4096 /* received for one question */
#define STATE_CONNECTED 1      /* also of a datagram socket that another one is connected to */
#define STATE_CLOSE 7          /* bound, not listening yet */
#define STATE_LISTEN 10

static int diag_ask(int diag, uint32_t seq, uint32_t states)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req q;
	} m = {{sizeof(m), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, seq, 0},
		{.sdiag_family = AF_UNIX,
			.udiag_states = states,
			.udiag_show = UDIAG_SHOW_VFS | UDIAG_SHOW_PEER}};
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	ssize_t n = sendto(
		diag, &m, sizeof(m), MSG_DONTWAIT, (struct sockaddr *)&kernel, sizeof(kernel));
	return n < 0 ? -errno : 0;
}

static int diag_search(int diag, struct socket_wanted *w)
{
	static uint32_t seq;
	static _Alignas(struct nlmsghdr) char buf[DIAG_BUF];
	bool busy = false;
	int r = diag_ask(diag, ++seq, w->states);
	for (int i = 0; i < DIAG_MESSAGES_MAX && r >= 0; i++) {
		struct sockaddr_nl from = {0};
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(
			diag, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
		if (n < 0 && errno == EAGAIN && busy) {
			busy = false;
			r = diag_ask(diag, ++seq, w->states);
			continue;
		}
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		if (from.nl_pid)
			continue;
		/* A dump that was left half read is read to its end first: its messages carry an
		 * older number. */
		int found = parse_sockets(buf, (size_t)n, seq, w);
		if (found == -EBUSY)
			busy = true;
		else if (found != -EAGAIN)
			return found;
	}
	return r < 0 ? r : -E2BIG;
}

int diag_listens(int diag, const struct stat *file)
{
	struct socket_wanted w = {.states = 1u << STATE_LISTEN, .file = file};
	return diag < 0 || file->st_ino > UINT32_MAX ? 0 : diag_search(diag, &w);
}

static int diag_told(
	int diag, uint64_t socket, struct socket_wanted *w, uint32_t *ret_dev, uint32_t *ret_ino)
{
	int r = diag < 0 || !socket || socket > UINT32_MAX ? 0 : diag_search(diag, w);
	*ret_dev = w->found.udiag_vfs_dev;
	*ret_ino = w->found.udiag_vfs_ino;
	return r;
}

int diag_file(int diag, uint64_t socket, uint32_t *ret_dev, uint32_t *ret_ino)
{
	struct socket_wanted w = {
		.states = 1u << STATE_CLOSE | 1u << STATE_LISTEN | 1u << STATE_CONNECTED,
		.socket = (uint32_t)socket};
	return diag_told(diag, socket, &w, ret_dev, ret_ino);
}

int diag_peer_file(int diag, uint64_t socket, uint32_t *ret_dev, uint32_t *ret_ino)
{
	struct socket_wanted w = {.states = 1u << STATE_CONNECTED, .peer = (uint32_t)socket};
	return diag_told(diag, socket, &w, ret_dev, ret_ino);
}
