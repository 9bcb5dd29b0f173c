/*
 * One data connection: frames in, frames out, and the order in which its channels get their turn.
 * The two carriers of the local peer have no socket: what one puts out the other takes in.
 *
 * Cost: one recv and one send a turn, whatever the number of channels; frames are opened where they
 * were received and sealed where they are sent from.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "conn/internal.h"

void carrier_init(struct carrier *c, struct engine *e, struct peer *p, uint8_t index)
{
	c->engine = e;
	c->peer = p;
	c->index = index;
	c->fd = -1;
	c->backoff_ms = DIAL_FIRST_MS;
	c->watch.kind = WATCH_CARRIER;
	LIST_INIT(&c->channels);
	TAILQ_INIT(&c->small);
	TAILQ_INIT(&c->bulk);
}

/* A network that has gone silent is noticed by the kernel, without a wake-up of ours. */
static void carrier_tune(int fd)
{
	unsigned dead = CARRIER_DEAD_MS;
	int on = 1, idle = 3, every = 2, count = 2;
	fd_tune(fd);
	setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &dead, sizeof(dead));
	setsockopt(fd, SOL_SOCKET, SO_KEEPALIVE, &on, sizeof(on));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPINTVL, &every, sizeof(every));
	setsockopt(fd, IPPROTO_TCP, TCP_KEEPCNT, &count, sizeof(count));
}

void carrier_up(struct carrier *c, int fd)
{
	struct engine *e = c->engine;
	if (c->up)
		carrier_down(c, "replaced by a newer connection", false);
	struct epoll_event ev = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = &c->watch};
	if (!c->in)
		c->in = malloc(IN_CAPACITY);
	if (!c->in || epoll_ctl(e->epoll, EPOLL_CTL_MOD, fd, &ev) < 0) {
		engine_unwatch(e, fd);
		close(fd);
		return;
	}
	carrier_tune(fd);
	c->fd = fd;
	c->up = c->readable = true;
	c->blocked = false;
	c->in_len = c->out_at = c->out_len = 0;
	c->backoff_ms = DIAL_FIRST_MS;
	c->redial_at = 0;
	struct channel *ch, *next;
	for (ch = LIST_FIRST(&c->channels); ch; ch = next) {
		next = LIST_NEXT(ch, of_carrier);
		channel_start(e, ch);
	}
	engine_wake(e);
}

void carrier_down(struct carrier *c, const char *why, bool tampered)
{
	struct engine *e = c->engine;
	bool was_up = c->up;
	c->up = c->readable = false;
	if (c->fd >= 0) {
		engine_unwatch(e, c->fd);
		close(take_fd(&c->fd));
	}
	while (!LIST_EMPTY(&c->channels))
		channel_close(e, LIST_FIRST(&c->channels), FRAME_RESET_NONE, why);
	free(take_ptr(c->in));
	free(take_ptr(c->out));
	c->in_len = c->out_at = c->out_len = c->out_cap = 0;
	if (!was_up || c->peer->retired || e->quiet)
		return;
	if (c->peer->we_dial) {
		c->redial_at = e->now + c->backoff_ms;
		engine_schedule(e, c->redial_at);
	}
	e->ops.data_down(e->data, c->peer->node, why, tampered);
}

/* What the engine frees when the peer goes: no events may be left for it. */
void carrier_release(struct carrier *c)
{
	if (c->proof)
		proof_free(c->engine, c->proof);
	carrier_down(c, "the node was removed", false);
}

/* ---- out ---- */

uint8_t *carrier_reserve(struct carrier *c, uint32_t len)
{
	size_t need = (size_t)len + FRAME_OVERHEAD;
	if (c->out_at && c->out_cap - c->out_len < need) {
		memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
		c->out_len -= c->out_at;
		c->out_at = 0;
	}
	if (c->out_cap - c->out_len < need) {
		size_t cap = c->out_cap ? c->out_cap : 128u * 1024;
		while (cap - c->out_len < need)
			cap *= 2;
		uint8_t *p = realloc(c->out, cap);
		if (!p)
			return NULL;
		c->out = p;
		c->out_cap = cap;
	}
	return c->out + c->out_len;
}

static void carrier_sent(struct carrier *c)
{
	c->out_at = c->out_len = 0;
	if (c->out_cap > OUT_KEEP) {
		free(take_ptr(c->out));
		c->out_cap = 0;
	}
}

static void carrier_input(struct carrier *c, uint8_t *buf, size_t len, size_t *ret_used);

static void carrier_flush(struct carrier *c)
{
	if (c->other) {
		/* The input may grow c->out (credit for the other half): work on what is there now.
		 */
		while (c->out_len) {
			uint8_t *buf = take_ptr(c->out);
			size_t len = c->out_len, cap = c->out_cap, used;
			c->out_len = c->out_cap = 0;
			carrier_input(c->other, buf, len, &used);
			if (c->out || cap > OUT_KEEP) {
				free(buf);
			} else {
				c->out = buf;
				c->out_cap = cap;
			}
		}
		return;
	}
	if (!c->up || c->blocked || c->out_at == c->out_len)
		return;
	ssize_t n = send(
		c->fd, c->out + c->out_at, c->out_len - c->out_at, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n < 0) {
		if (errno == EAGAIN)
			c->blocked = true;
		else if (errno != EINTR)
			carrier_down(c, "the connection to the other node broke", false);
		return;
	}
	c->out_at += (size_t)n;
	if (c->out_at == c->out_len)
		carrier_sent(c);
	else
		c->blocked = true; /* the kernel tells when there is room again */
}

/* ---- in ---- */

static void carrier_input(struct carrier *c, uint8_t *buf, size_t len, size_t *ret_used)
{
	struct engine *e = c->engine;
	struct frame_cursor cur = {.buf = buf, .len = len};
	struct frame_header h;
	uint8_t *frame;
	int r;
	while ((r = frame_next(&cur, &h, &frame)) == 1) {
		struct channel *ch = c->last;
		if (!ch || memcmp(ch->entry.id, h.channel, sizeof(h.channel)) != 0)
			ch = table_find_channel(e, h.channel, c);
		if (!ch) {
			e->unknown_frames++; /* ended here while this was on its way */
			continue;
		}
		c->last = ch;
		channel_frame(e, ch, &h, frame);
	}
	*ret_used = cur.at;
	if (r < 0)
		carrier_down(c, "tampered: the other node's bytes are not frames", true);
}

static void carrier_read(struct carrier *c)
{
	size_t room = IN_CAPACITY - c->in_len, used;
	ssize_t n = recv(c->fd, c->in + c->in_len, room, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR)) {
		c->readable = errno == EINTR;
		return;
	}
	if (n <= 0) {
		carrier_down(c,
			n ? "the connection to the other node broke"
			  : "the other node closed the connection",
			false);
		return;
	}
	if ((size_t)n < room)
		c->readable = false;
	c->in_len += (size_t)n;
	carrier_input(c, c->in, c->in_len, &used);
	if (!c->up)
		return;
	c->in_len -= used;
	if (c->in_len)
		memmove(c->in, c->in + used, c->in_len);
}

/* ---- turns ---- */

void carrier_ready(struct carrier *c, struct channel *ch)
{
	if (ch->queued != QUEUE_NONE)
		return;
	ch->queued = ch->bulk ? QUEUE_BULK : QUEUE_SMALL;
	TAILQ_INSERT_TAIL(ch->bulk ? &c->bulk : &c->small, ch, ready);
}

void carrier_unready(struct carrier *c, struct channel *ch)
{
	if (ch->queued == QUEUE_SMALL)
		TAILQ_REMOVE(&c->small, ch, ready);
	else if (ch->queued == QUEUE_BULK)
		TAILQ_REMOVE(&c->bulk, ch, ready);
	ch->queued = QUEUE_NONE;
}

/* Everyone who waits now, once: who becomes ready again waits for the next turn. */
static void carrier_serve_small(struct carrier *c)
{
	struct channel *ch, *last = TAILQ_LAST(&c->small, channel_queue);
	while ((ch = TAILQ_FIRST(&c->small)) != NULL && c->out_len - c->out_at < OUT_DATA) {
		carrier_unready(c, ch);
		channel_pump(c->engine, ch, READ_SMALL);
		if (ch == last)
			break;
	}
}

/* A record of each in turn, until there is enough for one send. */
static void carrier_serve_bulk(struct carrier *c)
{
	struct channel *ch;
	while ((ch = TAILQ_FIRST(&c->bulk)) != NULL && c->out_len - c->out_at < OUT_BULK) {
		carrier_unready(c, ch);
		channel_pump(c->engine, ch, FRAME_DATA_MAX);
	}
}

void carrier_event(struct carrier *c, uint32_t events)
{
	if (events & (EPOLLIN | EPOLLERR | EPOLLHUP | EPOLLRDHUP))
		c->readable = true;
	if (events & EPOLLOUT)
		c->blocked = false;
}

bool carrier_turn(struct carrier *c)
{
	if (c->up && c->readable && !c->other)
		carrier_read(c);
	if (!c->up)
		return false;
	carrier_serve_small(c);
	carrier_serve_bulk(c);
	carrier_flush(c);
	bool waiting = !TAILQ_EMPTY(&c->small) || !TAILQ_EMPTY(&c->bulk) || c->out_at < c->out_len;
	return c->up && (c->readable || (!c->blocked && waiting));
}
