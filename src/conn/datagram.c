/*
 * Datagrams: between a program's side, which is a connected UDP socket of the fabric, and the
 * frames of a channel; the plain relay uses the same three calls. Message bounds stay; what finds
 * no room is dropped, as UDP may: before it is sealed it waits in the kernel's buffer of our
 * socket, after it was opened nowhere. So neither a slow program nor a slow node holds up anybody,
 * and a flood costs its sender's share of the data connection.
 *
 * Trust: a datagram that reached the socket before it was connected may be anybody's; so the sender
 * of each is compared. Cost: one recvfrom, one send, no copy.
 */
#include <errno.h>
#include <netinet/in.h>
#include <stdlib.h>

#include "conn/internal.h"

int datagram_far(int fd, struct sockaddr_storage **ret)
{
	struct sockaddr_storage sa = {0};
	socklen_t len = sizeof(sa);
	if (getpeername(fd, (struct sockaddr *)&sa, &len) < 0)
		return -errno;
	*ret = malloc(sizeof(sa));
	if (!*ret)
		return -ENOMEM;
	**ret = sa;
	return 0;
}

static bool same_name(const struct sockaddr_storage *a, const struct sockaddr_storage *b)
{
	struct addr x, y;
	return addr_from_sockaddr(a, sizeof(*a), &x) == 0 &&
	       addr_from_sockaddr(b, sizeof(*b), &y) == 0 && addr_equal(&x, &y);
}

ssize_t datagram_receive(int fd, const struct sockaddr_storage *far, void *buf, size_t len)
{
	struct sockaddr_storage from = {0};
	socklen_t from_len = sizeof(from);
	ssize_t n = recvfrom(fd, buf, len, MSG_DONTWAIT, (struct sockaddr *)&from, &from_len);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	return same_name(&from, far) ? n : -EXDEV;
}

int datagram_send(int fd, const void *buf, size_t len)
{
	if (send(fd, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
		return 0;
	switch (errno) {
	case EAGAIN:
	case EINTR:
	case ENOBUFS:
	case ENOMEM:
	case EMSGSIZE:
		return 0;
	default:
		return -errno;
	}
}

void datagram_pump(struct engine *e, struct channel *ch, uint32_t max)
{
	uint32_t sent = 0;
	for (int i = 0; i < DATAGRAMS_MAX && ch->readable && sent < max; i++) {
		uint8_t *p = carrier_reserve(ch->carrier, FRAME_DATAGRAM_MAX);
		ssize_t n = -ENOMEM;
		if (p)
			n = datagram_receive(
				ch->fd, ch->far, p + FRAME_HEADER_LEN, FRAME_DATAGRAM_MAX);
		if (n == -EXDEV)
			continue;
		if (n == -EAGAIN) {
			ch->readable = false;
			break;
		}
		int len = n < 0 ? (int)n
				: seal_frame(&ch->send, &e->seal_limits, e->now, FRAME_DATAGRAM,
					  ch->entry.id, p, (uint32_t)n);
		if (len < 0) {
			channel_close(e, ch, FRAME_RESET_PROGRAM, "the program's socket is gone");
			return;
		}
		ch->carrier->out_len += (size_t)len;
		ch->bytes_sent += (uint64_t)n;
		ch->last_ms = e->now;
		sent += (uint32_t)len;
	}
	/* More than its share: after everything small. */
	ch->bulk = ch->readable;
	if (ch->readable)
		carrier_ready(ch->carrier, ch);
}

void datagram_frame(struct engine *e, struct channel *ch, const uint8_t *body, uint32_t len)
{
	ch->bytes_received += len;
	ch->last_ms = e->now;
	if (datagram_send(ch->fd, body, len) < 0)
		channel_close(e, ch, FRAME_RESET_PROGRAM, "the program's socket is gone");
}
