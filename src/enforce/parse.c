/*
 * See parse.h. Input: text and messages of the kernel; names in them are anybody's. Nothing here
 * trusts a length in a message beyond the message itself.
 */
#include "enforce/parse.h"

#include <errno.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>

/* ---- /proc/PID/status ---- */

/* The text after "\nKEY:", or NULL. */
static const char *status_field(const char *status, const char *key)
{
	size_t n = strlen(key);
	for (const char *p = status; p; p = strchr(p, '\n') ? strchr(p, '\n') + 1 : NULL)
		if (!strncmp(p, key, n) && p[n] == ':')
			return p + n + 1;
	return NULL;
}

long parse_number(const char *status, const char *key)
{
	const char *f = status_field(status, key);
	long v = f ? strtol(f, NULL, 10) : -1;
	return v < 0 || v > INT32_MAX ? -1 : v;
}

bool parse_signalled(const char *status)
{
	uint64_t v[4] = {0};
	const char *const names[] = {"SigPnd", "ShdPnd", "SigBlk", "SigCgt"};
	for (size_t i = 0; i < ARRAY_LEN(names); i++) {
		const char *f = status_field(status, names[i]);
		v[i] = f ? strtoull(f, NULL, 16) : 0;
	}
	return ((v[0] | v[1]) & ~v[2] & v[3]) != 0;
}

int parse_ids(const char *status, struct target_ids *ret)
{
	const char *u = status_field(status, "Uid"), *g = status_field(status, "Gid");
	const char *groups = status_field(status, "Groups");
	const char *mask = status_field(status, "Umask"), *cap = status_field(status, "CapEff");
	if (!u || !g || !groups || !mask || !cap ||
		sscanf(u, "%*u %u %*u %u", &ret->euid, &ret->uid) != 2 ||
		sscanf(g, "%*u %u %*u %u", &ret->egid, &ret->gid) != 2)
		return -EINVAL;
	ret->umask = (mode_t)strtoul(mask, NULL, 8) & 0777;
	ret->capabilities = strtoull(cap, NULL, 16);
	ret->n_groups = 0;
	while (*groups && *groups != '\n' && ret->n_groups < ARRAY_LEN(ret->groups)) {
		char *end;
		unsigned long v = strtoul(groups, &end, 10);
		if (end == groups || *end == '\0')
			break;
		ret->groups[ret->n_groups++] = (gid_t)v;
		groups = *end == ' ' ? end + 1 : end;
	}
	return 0;
}

/* ---- control messages ---- */

static size_t align8(size_t n)
{
	return (n + 7) & ~(size_t)7;
}

int parse_rights(const char *control, size_t len, int ret[RIGHTS_MAX], size_t *ret_n)
{
	*ret_n = 0;
	for (size_t at = 0; at < len && len - at >= sizeof(struct cmsghdr);) {
		struct cmsghdr c;
		memcpy(&c, control + at, sizeof(c));
		if (c.cmsg_len < sizeof(c) || c.cmsg_len > len - at)
			return -EINVAL;
		size_t n = (c.cmsg_len - sizeof(c)) / sizeof(int);
		if (c.cmsg_level == SOL_SOCKET && c.cmsg_type == SCM_RIGHTS) {
			if (n > RIGHTS_MAX - *ret_n)
				return -ETOOMANYREFS;
			memcpy(ret + *ret_n, control + at + sizeof(c), n * sizeof(int));
			*ret_n += n;
		} else if (c.cmsg_level == SOL_SOCKET && c.cmsg_type != SCM_CREDENTIALS) {
			return -EINVAL;
		}
		at += align8(c.cmsg_len);
	}
	return 0;
}

/* ---- sock_diag ---- */

#define HEAD sizeof(struct nlattr)

static size_t align4(size_t n)
{
	return (n + 3) & ~(size_t)3;
}

/* One attribute of the message, when it is there and as long as it should be. */
static bool attribute_read(const struct nlmsghdr *h, int type, void *ret, size_t len)
{
	const char *at = (const char *)h + (sizeof(*h) + sizeof(struct unix_diag_msg)),
		   *end = (const char *)h + h->nlmsg_len;
	while (at < end && (size_t)(end - at) >= HEAD) {
		const struct nlattr *a = (const void *)at;
		if (a->nla_len < HEAD || a->nla_len > (size_t)(end - at))
			return false;
		if (a->nla_type == type && a->nla_len >= HEAD + len) {
			memcpy(ret, at + HEAD, len);
			return true;
		}
		if (align4(a->nla_len) >= (size_t)(end - at))
			return false;
		at += align4(a->nla_len);
	}
	return false;
}

static bool is_it(const struct nlmsghdr *h, struct socket_wanted *w)
{
	const struct unix_diag_msg *m = NLMSG_DATA(h);
	if (h->nlmsg_len < (sizeof(*h) + sizeof(*m)) || !(w->states & 1u << (m->udiag_state & 31)))
		return false;
	uint32_t peer;
	if (w->peer && (!attribute_read(h, UNIX_DIAG_PEER, &peer, sizeof(peer)) || peer != w->peer))
		return false;
	if (!w->file && !w->peer && m->udiag_ino != w->socket)
		return false;
	if (!attribute_read(h, UNIX_DIAG_VFS, &w->found, sizeof(w->found)))
		return false;
	return !w->file || (w->found.udiag_vfs_ino == w->file->st_ino &&
				   w->found.udiag_vfs_dev >> 20 == major(w->file->st_dev) &&
				   (w->found.udiag_vfs_dev & 0xfffff) == minor(w->file->st_dev));
}

static int error_of(const struct nlmsghdr *h)
{
	struct nlmsgerr e;
	if (h->nlmsg_len < sizeof(*h) + sizeof(e))
		return -EIO;
	memcpy(&e, NLMSG_DATA(h), sizeof(e));
	return e.error;
}

int parse_sockets(const char *buf, size_t len, uint32_t seq, struct socket_wanted *w)
{
	for (size_t at = 0; len - at >= sizeof(struct nlmsghdr);) {
		const struct nlmsghdr *h = (const void *)(buf + at);
		if (h->nlmsg_len < sizeof(*h) || h->nlmsg_len > len - at)
			return -EIO;
		size_t step = align4(h->nlmsg_len);
		at = step < len - at ? at + step : len;
		if (h->nlmsg_seq != seq)
			continue;
		if (h->nlmsg_type == NLMSG_DONE)
			return 0;
		if (h->nlmsg_type == NLMSG_ERROR)
			return error_of(h) == -EBUSY ? -EBUSY : -EIO;
		if (h->nlmsg_type == SOCK_DIAG_BY_FAMILY && is_it(h, w))
			return 1;
	}
	return -EAGAIN;
}
