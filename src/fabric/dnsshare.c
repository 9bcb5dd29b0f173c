/*
 * Who asks for names has a share (dns.h): of what there is, each asker may use as much as it leaves
 * to others. Alone that is a half; with n who want all they can get, 1/(n+1) each. No asker is
 * known before it asks, nor after the second or the question is over.
 *
 * An asker is the mark of its socket, which the guard gives to a principal and the kernel tells: of
 * each datagram (SO_RCVMARK), of a connection's far end (sock_diag). A program cannot set it.
 */
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "fabric/dns.h"

#ifndef SO_RCVMARK
#define SO_RCVMARK 75 /* linux 5.19 */
#endif

bool dns_rate(struct dns *d, uint32_t asker)
{
	uint64_t now = clock_mono_ms() / 1000;
	size_t i = 0;
	if (now != d->second) {
		d->second = now;
		d->in_second = 0;
		d->n_askers = 0;
	}
	while (i < d->n_askers && d->askers[i].mark != asker)
		i++;
	if (i == DNS_ASKERS_MAX)
		return false;
	if (i == d->n_askers)
		d->askers[d->n_askers++] = (struct dns_asker){.mark = asker};
	if (d->askers[i].n >= DNS_PER_SECOND - d->in_second)
		return false;
	d->in_second++;
	d->askers[i].n++;
	return true;
}

struct dns_slot *dns_slot_take(struct dns *d, bool tcp, bool v6, uint32_t asker)
{
	struct dns_slot *found = NULL;
	size_t idle = 0, own = 0;
	for (size_t i = 0; i < DNS_SLOTS; i++) {
		struct dns_slot *s = &d->slots[i];
		if (s->fd < 0 || s->tcp != tcp || s->v6 != v6)
			continue;
		own += s->busy && s->asker == asker;
		idle += !s->busy;
		if (!s->busy)
			found = s;
	}
	if (!found || own >= idle)
		return NULL;
	found->busy = true;
	found->asker = asker;
	return found;
}

uint32_t *dns_client_take(struct dns *d, uint32_t asker)
{
	uint32_t *found = NULL;
	size_t idle = 0, own = 0;
	for (size_t i = 0; i < DNS_CLIENTS_MAX; i++) {
		own += d->clients[i] == asker;
		idle += !d->clients[i];
		if (!d->clients[i])
			found = &d->clients[i];
	}
	if (!asker || !found || own >= idle)
		return NULL;
	*found = asker;
	return found;
}

int dns_tell_mark(int fd)
{
	int one = 1;
	return setsockopt(fd, SOL_SOCKET, SO_RCVMARK, &one, sizeof(one));
}

ssize_t dns_receive(int fd, void *buf, size_t len, struct sockaddr_storage *from,
	socklen_t *ret_from_len, uint32_t *ret_asker)
{
	char control[CMSG_SPACE(sizeof(uint32_t))] __attribute__((aligned(8))) = {0};
	struct iovec iov = {.iov_base = buf, .iov_len = len};
	struct msghdr m = {.msg_name = from,
		.msg_namelen = sizeof(*from),
		.msg_iov = &iov,
		.msg_iovlen = 1,
		.msg_control = control,
		.msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT);
	*ret_from_len = m.msg_namelen;
	*ret_asker = 0; /* nobody told: all such share one share */
	for (struct cmsghdr *c = n < 0 ? NULL : CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_SOCKET && c->cmsg_type == SO_MARK)
			memcpy(ret_asker, CMSG_DATA(c), sizeof(*ret_asker));
	return n;
}
