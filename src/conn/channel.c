/*
 * One channel: between a program's socket and the frames of its data connection (engine.h).
 *
 * States, as flags: not started → started → {eof: FIN sent} and {fin: FIN received → shut: passed
 * on} → closed. Anything unexpected closes it with a TCP reset for the program and RESET for the
 * other side: only two authenticated FINs with every byte delivered are a clean end.
 */
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "conn/internal.h"

/* Return: false when the channel was closed. */
static bool channel_emit(
	struct engine *e, struct channel *ch, enum frame_type type, const void *body, uint32_t len)
{
	uint8_t *p = carrier_reserve(ch->carrier, len);
	int n = -ENOMEM;
	if (p) {
		if (len)
			memcpy(p + FRAME_HEADER_LEN, body, len);
		n = seal_frame(&ch->send, &e->seal_limits, e->now, type, ch->entry.id, p, len);
	}
	if (n < 0) {
		channel_close(e, ch, FRAME_RESET_NONE, "out of memory or of epochs");
		return false;
	}
	ch->carrier->out_len += (size_t)n;
	return true;
}

void channel_close(struct engine *e, struct channel *ch, enum frame_reset reset, const char *reason)
{
	struct carrier *c = ch->carrier;
	if (reset != FRAME_RESET_NONE && c->up && ch->started) {
		uint8_t why = (uint8_t)reset, *p = carrier_reserve(c, 1);
		if (p) {
			p[FRAME_HEADER_LEN] = why;
			int n = seal_frame(&ch->send, &e->seal_limits, e->now, FRAME_RESET,
				ch->entry.id, p, 1);
			c->out_len += n > 0 ? (size_t)n : 0;
		}
	}
	carrier_unready(c, ch);
	if (c->last == ch)
		c->last = NULL;
	LIST_REMOVE(ch, of_carrier);
	table_remove(e, &ch->entry);
	if (ch->fd >= 0) {
		engine_unwatch(e, ch->fd);
		if (ch->eof && ch->shut)
			close(ch->fd);
		else
			fd_reset(ch->fd);
	}
	ch->fd = -1;
	e->pending -= ch->pend_len;
	e->rekeys += ch->send.epoch;
	if (ch->pend)
		secret_zero(ch->pend, ch->pend_cap);
	free(take_ptr(ch->pend));
	free(take_ptr(ch->far));
	seal_clear(&ch->send);
	seal_clear(&ch->receive);
	/* Nobody knows of a reserve that was not used; that somebody tried to forge it is told. */
	bool told = !ch->silent && (!ch->reserve || reset == FRAME_RESET_TAMPERED);
	reserve_free(ch);
	if (told && !e->quiet)
		e->ops.closed(e->data, ch->entry.id,
			&(struct engine_result){.reason = reason,
				.bytes_sent = ch->bytes_sent,
				.bytes_received = ch->bytes_received,
				.tampered = reset == FRAME_RESET_TAMPERED,
				.complete = ch->eof && ch->shut,
				.leased = ch->leased});
	engine_bury(e, &ch->watch);
	engine_wake(e);
}

static void channel_complete(struct engine *e, struct channel *ch)
{
	if (ch->eof && ch->shut)
		channel_close(e, ch, FRAME_RESET_NONE, "closed");
}

void channel_start(struct engine *e, struct channel *ch)
{
	if (!ch->initiator || ch->started || ch->reserve)
		return;
	ch->started = true;
	ch->last_ms = e->now;
	if (channel_emit(e, ch, FRAME_OPEN, NULL, 0) && ch->readable)
		carrier_ready(ch->carrier, ch);
}

/* ---- the program's bytes ---- */

void channel_pump(struct engine *e, struct channel *ch, uint32_t max)
{
	uint32_t n = ch->credit < max ? ch->credit : max;
	if (ch->datagram) {
		datagram_pump(e, ch, max);
		return;
	}
	if (!ch->readable || ch->eof || !n)
		return; /* a WINDOW or an event brings it back */
	uint8_t *p = carrier_reserve(ch->carrier, n);
	ssize_t r = p ? recv(ch->fd, p + FRAME_HEADER_LEN, n, MSG_DONTWAIT) : -1;
	if (r < 0) {
		ch->readable = false;
		if (p && (errno == EAGAIN || errno == EINTR))
			ch->readable = errno == EINTR;
		else
			channel_close(e, ch, FRAME_RESET_PROGRAM, "reset by the program");
		return;
	}
	if (r == 0) {
		ch->eof = true;
		if (channel_emit(e, ch, FRAME_FIN, NULL, 0))
			channel_complete(e, ch);
		return;
	}
	ch->bulk = r >= (ssize_t)READ_SMALL;
	/* Edge-triggered: a short read has emptied the socket, unless its end came with the same
	 * event. */
	if (r < (ssize_t)n && !ch->hup)
		ch->readable = false;
	ch->credit -= (uint32_t)r;
	ch->bytes_sent += (uint64_t)r;
	ch->last_ms = e->now;
	int len = seal_frame(
		&ch->send, &e->seal_limits, e->now, FRAME_DATA, ch->entry.id, p, (uint32_t)r);
	if (len < 0) {
		channel_close(e, ch, FRAME_RESET_NONE, "the channel's keys are used up");
		return;
	}
	ch->carrier->out_len += (size_t)len;
	if (ch->readable && ch->credit)
		carrier_ready(ch->carrier, ch);
}

/* ---- the peer's bytes ---- */

/* n bytes have left us for the program. Return: false when the channel was closed. */
static bool channel_consumed(struct engine *e, struct channel *ch, uint32_t n)
{
	ch->due += n;
	ch->last_ms = e->now;
	if (ch->due < e->limits.window / 2 || ch->fin)
		return true;
	uint8_t credit[4];
	frame_credit_encode(ch->due, credit);
	ch->granted += ch->due;
	ch->due = 0;
	return channel_emit(e, ch, FRAME_WINDOW, credit, sizeof(credit));
}

static void channel_shut(struct engine *e, struct channel *ch)
{
	if (!ch->fin || ch->pend_len || ch->shut)
		return;
	ch->shut = true;
	shutdown(ch->fd, SHUT_WR);
	channel_complete(e, ch);
}

/* Return: bytes taken, -1 when the channel was closed. */
static ssize_t channel_write(struct engine *e, struct channel *ch, const uint8_t *p, uint32_t len)
{
	ssize_t n = send(ch->fd, p, len, MSG_DONTWAIT | MSG_NOSIGNAL);
	if (n >= 0)
		return n;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	channel_close(e, ch, FRAME_RESET_PROGRAM, "reset by the program");
	return -1;
}

static void channel_hold(struct engine *e, struct channel *ch, const uint8_t *p, uint32_t len)
{
	uint32_t want = ch->pend_len + len; /* at most the window: checked against `granted` */
	if (e->pending + len > ENGINE_PENDING_MAX) {
		channel_close(e, ch, FRAME_RESET_LIMIT, "too much waits for stalled programs");
		return;
	}
	if (ch->pend_at) {
		memmove(ch->pend, ch->pend + ch->pend_at, ch->pend_len);
		ch->pend_at = 0;
	}
	if (want > ch->pend_cap) {
		uint32_t cap = ch->pend_cap ? ch->pend_cap : 4096;
		while (cap < want)
			cap *= 2;
		uint8_t *q = realloc(ch->pend, cap);
		if (!q) {
			channel_close(e, ch, FRAME_RESET_LIMIT, "out of memory");
			return;
		}
		ch->pend = q;
		ch->pend_cap = cap;
	}
	memcpy(ch->pend + ch->pend_len, p, len);
	ch->pend_len = want;
	e->pending += len;
}

static void channel_drain(struct engine *e, struct channel *ch)
{
	ssize_t n = channel_write(e, ch, ch->pend + ch->pend_at, ch->pend_len);
	if (n <= 0)
		return;
	ch->pend_at += (uint32_t)n;
	ch->pend_len -= (uint32_t)n;
	e->pending -= (uint64_t)n;
	if (!ch->pend_len) {
		free(take_ptr(ch->pend));
		ch->pend_at = ch->pend_cap = 0;
	}
	if (channel_consumed(e, ch, (uint32_t)n))
		channel_shut(e, ch);
}

static void channel_data(struct engine *e, struct channel *ch, const uint8_t *p, uint32_t len)
{
	ch->granted -= len;
	ch->bytes_received += len;
	ch->last_ms = e->now;
	uint32_t n = 0;
	if (!ch->pend_len) {
		ssize_t r = channel_write(e, ch, p, len);
		if (r < 0 || !channel_consumed(e, ch, (uint32_t)r))
			return;
		n = (uint32_t)r;
	}
	if (n < len)
		channel_hold(e, ch, p + n, len - n);
}

/* Authentic, but does the state allow it? A peer that breaks the rules loses the channel like a
 * forger. */
static const char *channel_objects(const struct engine *e, const struct channel *ch,
	const struct frame_header *h, const uint8_t *body)
{
	if (h->type == FRAME_OPEN ? ch->started || ch->initiator : !ch->started)
		return h->type == FRAME_OPEN ? "opened twice" : "used before it was opened";
	if (h->type != FRAME_OPEN && h->type != FRAME_RESET &&
		(h->type == FRAME_DATAGRAM) != ch->datagram)
		return "datagrams and a stream in one channel";
	if (h->type == FRAME_DATA && (ch->fin || h->length - FRAME_TAG_LEN > ch->granted))
		return ch->fin ? "data after its end" : "more data than credit";
	if (h->type == FRAME_FIN && ch->fin)
		return "ended twice";
	if (h->type == FRAME_WINDOW && frame_credit_decode(body) > e->limits.window - ch->credit)
		return "more credit than the window";
	return NULL;
}

void channel_frame(
	struct engine *e, struct channel *ch, const struct frame_header *h, uint8_t *frame)
{
	uint8_t *body = frame + FRAME_HEADER_LEN;
	if (seal_open(&ch->receive, h, frame) < 0) {
		channel_close(e, ch, FRAME_RESET_TAMPERED, "tampered: a frame does not open");
		return;
	}
	const char *objection = channel_objects(e, ch, h, body);
	if (objection) {
		channel_close(e, ch, FRAME_RESET_TAMPERED, objection);
		return;
	}
	switch (h->type) {
	case FRAME_OPEN:
		if (ch->reserve && !reserve_open(e, ch))
			return;
		ch->started = true;
		ch->last_ms = e->now;
		if (ch->readable)
			carrier_ready(ch->carrier, ch);
		break;
	case FRAME_DATA:
		channel_data(e, ch, body, h->length - FRAME_TAG_LEN);
		break;
	case FRAME_WINDOW:
		ch->credit += frame_credit_decode(body);
		if (ch->readable)
			carrier_ready(ch->carrier, ch);
		break;
	case FRAME_FIN:
		ch->fin = true;
		channel_shut(e, ch);
		break;
	case FRAME_RESET:
		channel_close(e, ch, FRAME_RESET_NONE, frame_reset_name(body[0]));
		break;
	case FRAME_DATAGRAM:
		datagram_frame(e, ch, body, h->length - FRAME_TAG_LEN);
		break;
	case FRAME_NONE:
	case _FRAME_N:
		break; /* frame_header_decode() lets neither through */
	}
}

void channel_event(struct engine *e, struct channel *ch, uint32_t events)
{
	if (events & EPOLLERR) {
		channel_close(e, ch, FRAME_RESET_PROGRAM, "reset by the program");
		return;
	}
	ch->hup |= (events & (EPOLLRDHUP | EPOLLHUP)) != 0;
	ch->readable |= (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP)) != 0;
	if (ch->readable && ch->started)
		carrier_ready(ch->carrier, ch);
	if ((events & EPOLLOUT) && ch->pend_len)
		channel_drain(e, ch);
}
