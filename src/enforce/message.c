/*
 * See message.h. Input: the memory of a hostile program, read once; every length is bounded here.
 */
#include "enforce/message.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>

#include "enforce/target.h"

#define CONTROL_MAX 512

static int parts_read(pid_t tid, const struct msghdr *h, struct message *m)
{
	m->n_parts = h->msg_iovlen;
	if (m->n_parts > PARTS_MAX)
		return -EMSGSIZE;
	m->control = (uintptr_t)h->msg_control;
	m->control_len = h->msg_control ? h->msg_controllen : 0;
	return m->n_parts ? target_read(tid, (uintptr_t)h->msg_iov, m->part,
				    m->n_parts * sizeof(m->part[0]))
			  : 0;
}

int message_read(const struct request *r, struct message *m)
{
	const __u64 *a = r->n.data.args;
	bool to = r->n.data.nr == __NR_sendto;
	uint64_t name = a[4];
	socklen_t len = (socklen_t)a[5];
	struct msghdr h;
	*m = (struct message){.flags = (int)a[r->n.data.nr == __NR_sendmsg ? 2 : 3]};
	int bad = to ? 0 : target_read((pid_t)r->n.pid, a[1], &h, sizeof(h));
	if (bad)
		return bad;
	if (to) {
		m->part[0] = (struct iovec){(void *)(uintptr_t)a[1], a[2]};
		m->n_parts = 1;
	} else {
		name = (uintptr_t)h.msg_name;
		len = h.msg_namelen;
		bad = parts_read((pid_t)r->n.pid, &h, m);
	}
	if (bad || !name || (!to && !len))
		return bad;
	if (len <= offsetof(struct sockaddr_un, sun_path) || len > sizeof(m->to))
		return -EINVAL;
	m->to_len = len;
	bad = target_read((pid_t)r->n.pid, name, &m->to, len);
	return bad ? bad : m->to.sun_family == AF_UNIX ? 0 : -EINVAL;
}

int message_peer(const struct request *r, struct message *m)
{
	m->to_len = sizeof(m->to);
	if (getpeername(r->sock, (struct sockaddr *)&m->to, &m->to_len) < 0)
		return -ENOTCONN;
	return m->to_len > offsetof(struct sockaddr_un, sun_path) ? 0 : -ENOTCONN;
}

int message_data(pid_t tid, const struct message *m, uint8_t data[DATAGRAM_MAX], size_t *ret_len)
{
	size_t at = 0;
	for (size_t i = 0; i < m->n_parts; i++) {
		size_t len = m->part[i].iov_len;
		if (len > DATAGRAM_MAX - at)
			return -EMSGSIZE;
		if (len && target_read(tid, (uintptr_t)m->part[i].iov_base, data + at, len) < 0)
			return -EFAULT;
		at += len;
	}
	*ret_len = at;
	return 0;
}

int message_rights(pid_t tid, const struct message *m, int fds[RIGHTS_MAX], size_t *ret_n)
{
	_Alignas(struct cmsghdr) char control[CONTROL_MAX];
	int number[RIGHTS_MAX];
	size_t n = 0;
	*ret_n = 0;
	if (!m->control_len)
		return 0;
	if (m->control_len > sizeof(control))
		return -ENOBUFS;
	int bad = target_read(tid, m->control, control, m->control_len);
	if (!bad)
		bad = parse_rights(control, m->control_len, number, &n);
	for (size_t i = 0; !bad && i < n; i++) {
		int fd = target_fd(tid, number[i]);
		if (fd < 0)
			bad = fd;
		else
			fds[(*ret_n)++] = fd;
	}
	return bad;
}
