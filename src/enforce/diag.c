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
#include <sys/sysmacros.h>

#define DIAG_BUF 16384
#define DIAG_MESSAGES_MAX 4096 /* received for one question */
#define STATE_LISTEN 10

#define HEAD sizeof(struct nlattr)

static size_t align4(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

static bool is_it(const struct nlmsghdr *h, const struct stat *file)
{
	const struct unix_diag_msg *m = NLMSG_DATA(h);
	if (h->nlmsg_len < (sizeof(*h) + sizeof(*m)) || m->udiag_state != STATE_LISTEN)
		return false;
	const char *at = (const char *)h + (sizeof(*h) + sizeof(*m)),
		   *end = (const char *)h + h->nlmsg_len;
	while ((size_t)(end - at) >= sizeof(struct nlattr)) {
		const struct nlattr *a = (const void *)at;
		const struct unix_diag_vfs *v = (const void *)(at + HEAD);
		if (a->nla_len < HEAD || a->nla_len > (size_t)(end - at))
			return false;
		if (a->nla_type == UNIX_DIAG_VFS && a->nla_len >= HEAD + sizeof(*v))
			return v->udiag_vfs_ino == file->st_ino &&
			       v->udiag_vfs_dev >> 20 == major(file->st_dev) &&
			       (v->udiag_vfs_dev & 0xfffff) == minor(file->st_dev);
		if (align4(a->nla_len) >= (size_t)(end - at))
			return false;
		at += align4(a->nla_len);
	}
	return false;
}

static int diag_ask(int diag, uint32_t seq)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req q;
	} m = {{sizeof(m), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, seq, 0},
		{.sdiag_family = AF_UNIX,
			.udiag_states = 1u << STATE_LISTEN,
			.udiag_show = UDIAG_SHOW_VFS}};
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	ssize_t n = sendto(
		diag, &m, sizeof(m), MSG_DONTWAIT, (struct sockaddr *)&kernel, sizeof(kernel));
	return n < 0 ? -errno : 0;
}

/* 1 found, 0 end of dump, -EAGAIN more to come. */
static int diag_scan(const char *buf, size_t len, uint32_t seq, const struct stat *file)
{
	size_t left = len;
	const struct nlmsghdr *h = (const void *)buf;
	for (; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
		if (h->nlmsg_seq != seq)
			continue;
		if (h->nlmsg_type == NLMSG_DONE)
			return 0;
		if (h->nlmsg_type == NLMSG_ERROR)
			return -EIO;
		if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY && is_it(h, file))
			return 1;
	}
	return -EAGAIN;
}

int diag_listens(int diag, const struct stat *file)
{
	static uint32_t seq;
	static _Alignas(struct nlmsghdr) char buf[DIAG_BUF];
	if (diag < 0 || file->st_ino > UINT32_MAX)
		return 0;
	/* A dump that was left half read is finished first: its messages carry an older number. */
	int r = diag_ask(diag, ++seq);
	for (int i = 0; i < DIAG_MESSAGES_MAX; i++) {
		struct sockaddr_nl from = {0};
		socklen_t from_len = sizeof(from);
		ssize_t n = recvfrom(
			diag, buf, sizeof(buf), MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
		if (n < 0 && errno == EAGAIN && r == -EBUSY) {
			r = diag_ask(diag, seq);
			if (r < 0)
				return r;
			continue;
		}
		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		if (from.nl_pid)
			continue;
		int found = diag_scan(buf, (size_t)n, seq, file);
		if (found != -EAGAIN)
			return found;
	}
	return -E2BIG;
}
