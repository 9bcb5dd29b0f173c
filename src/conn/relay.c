/*
 * Plain relay between a program's socket and one outside Belay, where policy says `plain` or
 * `publish`: bytes as they are, half close and reset passed on. What one side does not take is
 * held, at most 64 KiB a direction, and that side's source is not read meanwhile.
 *
 * Cost: one recv and one send a piece of up to 64 KiB; no allocation unless a socket is full.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "conn/internal.h"

struct relay_side {
	struct watch watch;
	struct relay *relay;
	int fd;
	bool readable, eof, shut;
	struct sockaddr_storage *far; /* datagrams: whom it is connected to */
	uint8_t *pend;                /* for this side's socket */
	size_t pend_at, pend_len;
	uint64_t bytes; /* read from it */
};

struct relay {
	struct watch watch; /* for the grave only */
	struct entry entry;
	struct relay_side side[2]; /* 0 program, 1 outside */
	bool connecting, datagram;
	uint64_t last_ms, idle_ms;
	uint64_t ask, tell_ms; /* who waits for the dial, and until when; 0: nobody */
	int error;             /* of the dial */
};

static struct relay *entry_relay(struct entry *en)
{
	return (struct relay *)((char *)en - offsetof(struct relay, entry));
}

static void relay_tell(struct engine *e, struct relay *r, int error)
{
	uint64_t ask = r->ask;
	r->ask = 0;
	if (ask && !e->quiet)
		e->ops.opened(e->data, r->entry.id, ask, error);
}

void relay_close(struct engine *e, struct entry *en, const char *reason)
{
	struct relay *r = entry_relay(en);
	bool clean = r->side[0].shut && r->side[1].shut;
	table_remove(e, en);
	relay_tell(e, r, r->error ? r->error : -ECONNABORTED);
	for (int i = 0; i < 2; i++) {
		struct relay_side *s = &r->side[i];
		s->watch.dead = true;
		if (s->fd >= 0)
			engine_unwatch(e, s->fd);
		if (s->fd >= 0 && clean)
			close(s->fd);
		else if (s->fd >= 0)
			fd_reset(s->fd);
		s->fd = -1;
		free(take_ptr(s->pend));
		free(take_ptr(s->far));
	}
	if (!e->quiet)
		e->ops.closed(e->data, en->id,
			&(struct engine_result){.reason = reason,
				.bytes_sent = r->side[0].bytes,
				.bytes_received = r->side[1].bytes});
	engine_bury(e, &r->watch);
	engine_wake(e);
}

/* Return: 0, or negative: that socket is broken. */
static int side_write(struct relay_side *to, const uint8_t *p, size_t len)
{
	ssize_t n = send(to->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0 && errno != EAGAIN && errno != EINTR)
		return -EPIPE;
	size_t sent = n > 0 ? (size_t)n : 0;
	if (sent == len)
		return 0;
	to->pend = malloc(len - sent);
	if (!to->pend)
		return -ENOMEM;
	memcpy(to->pend, p + sent, len - sent);
	to->pend_at = 0;
	to->pend_len = len - sent;
	return 0;
}

static int side_drain(struct relay_side *to)
{
	ssize_t n = send(to->fd, to->pend + to->pend_at, to->pend_len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -EPIPE;
	to->pend_at += (size_t)n;
	to->pend_len -= (size_t)n;
	if (!to->pend_len)
		free(take_ptr(to->pend));
	return 0;
}

/* Each whole, or dropped where there is no room. */
static int relay_pump_datagrams(struct engine *e, struct relay *r, int from)
{
	struct relay_side *s = &r->side[from];
	for (int i = 0; i < DATAGRAMS_MAX && s->readable; i++) {
		ssize_t n = datagram_receive(s->fd, s->far, e->relay_buffer, RELAY_BUFFER);
		s->readable = n != -EAGAIN;
		if (n == -EAGAIN || n == -EXDEV)
			continue;
		if (n < 0)
			return (int)n;
		r->last_ms = e->now;
		s->bytes += (uint64_t)n;
		int x = datagram_send(r->side[!from].fd, e->relay_buffer, (size_t)n);
		if (x < 0)
			return x;
	}
	return 0;
}

/* From one side to the other, as far as it goes. Return: negative when the relay is over. */
static int relay_pump(struct engine *e, struct relay *r, int from)
{
	struct relay_side *s = &r->side[from], *to = &r->side[!from];
	if (r->datagram)
		return relay_pump_datagrams(e, r, from);
	for (int i = 0; i < ROUNDS_MAX && s->readable && !s->eof && !to->pend_len; i++) {
		ssize_t n = recv(s->fd, e->relay_buffer, RELAY_BUFFER, MSG_DONTWAIT);
		if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
			s->readable = errno == EINTR;
			continue;
		}
		if (n < 0)
			return -errno;
		r->last_ms = e->now;
		if (n == 0) {
			s->eof = true;
		} else {
			s->bytes += (uint64_t)n;
			if (side_write(to, e->relay_buffer, (size_t)n) < 0)
				return -EPIPE;
		}
	}
	if (s->eof && !to->pend_len && !to->shut) {
		to->shut = true;
		shutdown(to->fd, SHUT_WR);
	}
	return 0;
}

/* Level of what is left after ROUNDS_MAX: ask the kernel again, so that others get their turn
 * first. */
static void side_rearm(struct engine *e, struct relay_side *s)
{
	struct epoll_event ev = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = &s->watch};
	(void)epoll_ctl(e->epoll, EPOLL_CTL_MOD, s->fd, &ev);
}

void relay_event(struct engine *e, struct watch *w, uint32_t events)
{
	struct relay_side *s = (struct relay_side *)w;
	struct relay *r = s->relay;
	if (r->connecting) {
		if (s == &r->side[0])
			s->readable = true; /* kept for later */
		if (s == &r->side[0] ? !(events & EPOLLERR) : !(events & (EPOLLOUT | EPOLLERR)))
			return;
		int err = 0;
		socklen_t len = sizeof(err);
		getsockopt(s->fd, SOL_SOCKET, SO_ERROR, &err, &len);
		if (err || s == &r->side[0]) {
			r->error = -err;
			relay_close(e, &r->entry, err ? strerror(err) : "reset");
			return;
		}
		r->connecting = false;
		relay_tell(e, r, 0);
	}
	if (events & EPOLLERR) {
		relay_close(e, &r->entry, "reset");
		return;
	}
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP))
		s->readable = true;
	if ((events & EPOLLOUT) && s->pend_len && side_drain(s) < 0) {
		relay_close(e, &r->entry, "reset");
		return;
	}
	for (int i = 0; i < 2; i++)
		if (relay_pump(e, r, i) < 0) {
			relay_close(e, &r->entry, "reset");
			return;
		}
	if (r->side[0].shut && r->side[1].shut) {
		relay_close(e, &r->entry, "closed");
		return;
	}
	for (int i = 0; i < 2; i++)
		if (r->side[i].readable && !r->side[i].eof && !r->side[!i].pend_len)
			side_rearm(e, &r->side[i]);
}

uint64_t relay_tick(struct engine *e, struct entry *en)
{
	struct relay *r = entry_relay(en);
	uint64_t idle = r->idle_ms ? r->last_ms + r->idle_ms : UINT64_MAX;
	if (idle <= e->now) {
		relay_close(e, en, "idle");
		return UINT64_MAX;
	}
	if (r->ask && r->tell_ms <= e->now)
		relay_tell(e, r, 0);
	return r->ask && r->tell_ms < idle ? r->tell_ms : idle;
}

void relay_flow(struct engine *e, struct entry *en, struct engine_flow *f)
{
	(void)e;
	struct relay *r = entry_relay(en);
	uint64_t now = clock_mono_ms();
	f->bytes_sent = r->side[0].bytes;
	f->bytes_received = r->side[1].bytes;
	f->idle_ms = now > r->last_ms ? now - r->last_ms : 0;
}

static int relay_dial(const struct addr *to, bool datagram)
{
	struct sockaddr_storage sa;
	socklen_t len;
	int family = to->ip_len == 4 ? AF_INET : AF_INET6;
	int r = addr_to_sockaddr(to, family, &sa, &len);
	if (r < 0)
		return r;
	int type = datagram ? SOCK_DGRAM : SOCK_STREAM;
	int fd = socket(family, type | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, len) < 0 && errno != EINPROGRESS) {
		r = -errno;
		close(fd);
		return r;
	}
	return fd;
}

int engine_relay_add(struct engine *e, const struct engine_relay *in, int fds[2])
{
	e->now = clock_mono_ms();
	bool dial = fds[1] < 0;
	int r = table_find(e, in->id) ? -EEXIST : 0;
	struct relay *n = r == 0 ? calloc(1, sizeof(*n)) : NULL;
	if (r == 0 && !n)
		r = -ENOMEM;
	if (r == 0 && dial) {
		fds[1] = in->to ? relay_dial(in->to, in->datagram) : -EINVAL;
		r = fds[1] < 0 ? fds[1] : 0;
	}
	if (r == 0) {
		memcpy(n->entry.id, in->id, FRAME_CHANNEL_LEN);
		n->entry.relay = true;
		n->datagram = in->datagram;
		n->connecting = dial && !in->datagram;
		n->last_ms = e->now;
		n->idle_ms = in->idle_ms;
		r = table_add(e, &n->entry);
	}
	for (int i = 0; i < 2 && r == 0; i++) {
		n->side[i].relay = n;
		n->side[i].fd = fds[i];
		fd_tune(fds[i]);
		r = in->datagram ? datagram_far(fds[i], &n->side[i].far) : 0;
		if (r == 0)
			r = engine_watch(e, fds[i], &n->side[i].watch, WATCH_RELAY);
		if (r < 0)
			table_remove(e, &n->entry);
	}
	if (r < 0) {
		for (int i = 0; i < 2; i++)
			if (fds[i] >= 0)
				fd_reset(fds[i]);
		for (int i = 0; n && i < 2; i++)
			free(n->side[i].far);
		free(n);
	} else if (in->idle_ms) {
		engine_schedule(e, e->now + in->idle_ms);
	}
	fds[0] = fds[1] = -1;
	return r;
}

bool engine_relay_wait(
	struct engine *e, const uint8_t id[FRAME_CHANNEL_LEN], uint64_t ask, uint32_t wait_ms)
{
	struct entry *en = table_find(e, id);
	struct relay *r = en && en->relay ? entry_relay(en) : NULL;
	if (!r || !r->connecting || !wait_ms)
		return false;
	r->ask = ask;
	r->tell_ms = e->now + wait_ms;
	engine_schedule(e, r->tell_ms);
	return true;
}
