/*
 * The engine: descriptors, turns, the channel key table, time (engine.h). The own epoll set hangs
 * in libuv's by its descriptor: one event there is any number here, and all of them share the reads
 * and writes of a turn.
 *
 * Time costs nothing while nothing is due: one timer stands at the earliest deadline there is.
 */
#include "conn/engine.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sodium.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "conn/internal.h"
#include "crypto/random.h"

const struct engine_limits engine_limits_default = {
	.window = 1024u * 1024,
	.rekey_bytes = 16ull << 30,
	.rekey_frames = 1u << 22,
	.rekey_ms = 3600u * 1000,
	.open_ms = 5000,
	.proof_ms = 3000,
};

/* ---- descriptors ---- */

int engine_watch(struct engine *e, int fd, struct watch *w, enum watch_kind kind)
{
	w->kind = kind;
	struct epoll_event ev = {
		.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = w};
	return epoll_ctl(e->epoll, EPOLL_CTL_ADD, fd, &ev) < 0 ? -errno : 0;
}

/* Before each close: another process may still hold the file, and then close() would leave it in
 * the set. */
void engine_unwatch(struct engine *e, int fd)
{
	(void)epoll_ctl(e->epoll, EPOLL_CTL_DEL, fd, NULL);
}

/* Events of this turn may still name w: its memory goes when the turn is over. */
void engine_bury(struct engine *e, struct watch *w)
{
	w->dead = true;
	STAILQ_INSERT_TAIL(&e->graves, w, grave);
}

static void engine_sweep(struct engine *e)
{
	while (!STAILQ_EMPTY(&e->graves)) {
		struct watch *w = STAILQ_FIRST(&e->graves);
		STAILQ_REMOVE_HEAD(&e->graves, grave);
		free(w); /* first member of what it watches */
	}
}

void fd_reset(int fd)
{
	struct linger l = {.l_onoff = 1};
	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

void fd_tune(int fd)
{
	int on = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
}

/* ---- the table ---- */

static size_t table_bucket(const struct engine *e, const uint8_t *id)
{
	uint64_t h; /* another node chooses ids: keyed, so that it cannot choose the bucket */
	crypto_shorthash((uint8_t *)&h, id, FRAME_CHANNEL_LEN, e->table_key);
	return h & (e->table_size - 1);
}

struct entry *table_find(struct engine *e, const uint8_t *id)
{
	struct entry *en;
	LIST_FOREACH (en, &e->table[table_bucket(e, id)], hash)
		if (memcmp(en->id, id, FRAME_CHANNEL_LEN) == 0)
			return en;
	return NULL;
}

struct channel *entry_channel(struct entry *en)
{
	return !en || en->relay ? NULL
				: (struct channel *)((char *)en - offsetof(struct channel, entry));
}

struct channel *table_find_channel(struct engine *e, const uint8_t *id, const struct carrier *c)
{
	struct entry *en;
	LIST_FOREACH (en, &e->table[table_bucket(e, id)], hash) {
		struct channel *ch = entry_channel(en);
		if (ch && ch->carrier == c && memcmp(en->id, id, FRAME_CHANNEL_LEN) == 0)
			return ch;
	}
	return NULL;
}

static int table_grow(struct engine *e)
{
	struct entry_list *old = e->table;
	size_t n = e->table_size;
	e->table = calloc(n ? 2 * n : TABLE_MIN, sizeof(*e->table));
	if (!e->table) {
		e->table = old;
		return -ENOMEM;
	}
	e->table_size = n ? 2 * n : TABLE_MIN;
	for (size_t i = 0; i < n; i++)
		while (!LIST_EMPTY(&old[i])) {
			struct entry *en = LIST_FIRST(&old[i]);
			LIST_REMOVE(en, hash);
			LIST_INSERT_HEAD(&e->table[table_bucket(e, en->id)], en, hash);
		}
	free(old);
	return 0;
}

int table_add(struct engine *e, struct entry *en)
{
	if (e->n_entries >= ENGINE_CHANNELS_MAX)
		return -ENOBUFS;
	if (e->n_entries >= e->table_size && table_grow(e) < 0)
		return -ENOMEM;
	LIST_INSERT_HEAD(&e->table[table_bucket(e, en->id)], en, hash);
	e->n_entries++;
	return 0;
}

void table_remove(struct engine *e, struct entry *en)
{
	LIST_REMOVE(en, hash);
	e->n_entries--;
}

/* ---- channels ---- */

void engine_accept(struct engine *e, int fd)
{
	e->now = clock_mono_ms();
	proof_accept(e, fd);
}

int channel_new(struct engine *e, const struct engine_channel *in, struct carrier *c,
	bool initiator, int *fd, struct reserve *reserve)
{
	struct channel *ch = calloc(1, sizeof(*ch));
	if (!ch)
		return -ENOMEM;
	memcpy(ch->entry.id, in->id, FRAME_CHANNEL_LEN);
	ch->carrier = c;
	ch->initiator = initiator;
	ch->credit = ch->granted = e->limits.window;
	ch->idle_ms = in->idle_ms;
	ch->last_ms = e->now;
	ch->fd = *fd;
	ch->datagram = in->datagram;
	int r = in->datagram ? datagram_far(*fd, &ch->far) : 0;
	if (r == 0)
		r = seal_init(
			&ch->send, initiator == in->initiator ? &in->send : &in->receive, e->now);
	if (r == 0)
		r = seal_init(&ch->receive, initiator == in->initiator ? &in->receive : &in->send,
			e->now);
	if (r == 0)
		r = table_add(e, &ch->entry);
	if (r == 0 && !reserve) {
		r = engine_watch(e, *fd, &ch->watch, WATCH_CHANNEL);
		if (r < 0)
			table_remove(e, &ch->entry);
	}
	if (r < 0) {
		seal_clear(&ch->send);
		seal_clear(&ch->receive);
		free(ch->far);
		free(ch);
		return r;
	}
	ch->reserve = reserve;
	if (!reserve)
		fd_tune(ch->fd);
	*fd = -1;
	LIST_INSERT_HEAD(&c->channels, ch, of_carrier);
	engine_schedule(e, e->now + e->limits.open_ms);
	if (ch->idle_ms && !reserve)
		engine_schedule(e, e->now + ch->idle_ms);
	return 0;
}

/* The two halves of a channel within this node find each other over the local peer's carriers. */
static int channel_add_local(struct engine *e, const struct engine_channel *in, int fds[2])
{
	if (!e->local) {
		struct peer *p = peer_new(e, "", "");
		if (!p)
			return -ENOMEM;
		e->local = p;
		for (int i = 0; i < 2; i++) {
			p->carriers[i].other = &p->carriers[!i];
			p->carriers[i].up = true;
		}
	}
	int r = channel_new(e, in, &e->local->carriers[1], false, &fds[1], NULL);
	if (r < 0)
		return r;
	struct channel *answering = LIST_FIRST(&e->local->carriers[1].channels);
	answering->silent = true;
	r = channel_new(e, in, &e->local->carriers[0], true, &fds[0], NULL);
	if (r < 0)
		channel_close(e, answering, FRAME_RESET_NONE, "");
	else
		channel_start(e, LIST_FIRST(&e->local->carriers[0].channels));
	return r;
}

int engine_channel_add(struct engine *e, const struct engine_channel *in, int fds[2])
{
	e->now = clock_mono_ms();
	bool local = !in->node || !*in->node;
	struct peer *p = local ? NULL : peer_find(e, in->node);
	int r = 0;
	if (table_find(e, in->id))
		r = -EEXIST; /* written once */
	else if (!local && !p)
		r = -EHOSTUNREACH;
	else if (local && (fds[1] < 0 || in->datagram))
		r = -EINVAL;
	else if (local)
		r = channel_add_local(e, in, fds);
	else {
		struct carrier *c = &p->carriers[in->id[0] % ENGINE_CARRIERS];
		r = channel_new(e, in, c, in->initiator, &fds[0], NULL);
		if (r == 0 && c->up)
			channel_start(e, LIST_FIRST(&c->channels));
	}
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			fd_reset(take_fd(&fds[i]));
	engine_wake(e);
	return r;
}

void engine_end(struct engine *e, const uint8_t id[FRAME_CHANNEL_LEN], const char *reason)
{
	e->now = clock_mono_ms();
	struct entry *en;
	while ((en = table_find(e, id)) != NULL) { /* a local channel has two */
		if (en->relay)
			relay_close(e, en, reason);
		else
			channel_close(e, entry_channel(en), FRAME_RESET_ENDED, reason);
	}
	engine_wake(e);
}

void engine_flows(struct engine *e, void (*fn)(void *ctx, const struct engine_flow *f), void *ctx)
{
	uint64_t now = clock_mono_ms();
	for (size_t i = 0; i < e->table_size; i++) {
		struct entry *en;
		LIST_FOREACH (en, &e->table[i], hash) {
			struct engine_flow f = {.id = en->id};
			struct channel *ch = entry_channel(en);
			if (ch && (ch->silent || ch->reserve))
				continue;
			if (!ch) {
				relay_flow(e, en, &f);
			} else {
				f.bytes_sent = ch->bytes_sent;
				f.bytes_received = ch->bytes_received;
				f.idle_ms = now > ch->last_ms ? now - ch->last_ms : 0;
			}
			fn(ctx, &f);
		}
	}
}

void engine_counts(const struct engine *e, struct engine_counts *ret)
{
	*ret = (struct engine_counts){.channels = e->n_entries,
		.proofs = e->n_proofs,
		.pending = e->pending,
		.unknown_frames = e->unknown_frames,
		.rekeys = e->rekeys};
	const struct peer *p;
	LIST_FOREACH (p, &e->peers, link) {
		if (p == e->local)
			continue;
		ret->peers++;
		for (size_t i = 0; i < ENGINE_CARRIERS; i++)
			ret->carriers_up += p->carriers[i].up;
	}
}

/* ---- turns ---- */

static void engine_event(struct engine *e, struct watch *w, uint32_t events)
{
	if (w->dead)
		return;
	switch (w->kind) {
	case WATCH_CHANNEL:
		channel_event(e, (struct channel *)w, events);
		break;
	case WATCH_CARRIER:
		carrier_event((struct carrier *)w, events);
		break;
	case WATCH_PROOF:
		proof_event(e, (struct proof *)w, events);
		break;
	case WATCH_RELAY:
		relay_event(e, w, events);
		break;
	}
}

static bool engine_turn(struct engine *e)
{
	struct peer *p, *next;
	bool more = false;
	for (p = LIST_FIRST(&e->peers); p; p = next) {
		next = LIST_NEXT(p, link);
		for (size_t i = 0; i < ENGINE_CARRIERS; i++)
			more |= carrier_turn(&p->carriers[i]);
		if (p->retired && !peer_used(p))
			peer_free(e, p);
	}
	return more;
}

static void engine_idle(uv_idle_t *i);

static void engine_run(struct engine *e)
{
	struct epoll_event ev[EVENTS_MAX];
	bool more = false;
	for (int round = 0; round < ROUNDS_MAX; round++) {
		int n = epoll_wait(e->epoll, ev, EVENTS_MAX, 0);
		e->now = clock_mono_ms();
		for (int i = 0; i < n; i++)
			engine_event(e, ev[i].data.ptr, ev[i].events);
		more = engine_turn(e);
		engine_sweep(e);
		if (n < EVENTS_MAX && !more)
			break;
	}
	/* Work is left: come back at once, but let the arrows speak in between. */
	if (more && !uv_is_active((uv_handle_t *)e->idle))
		uv_idle_start(e->idle, engine_idle);
	else if (!more && uv_is_active((uv_handle_t *)e->idle))
		uv_idle_stop(e->idle);
}

static void engine_idle(uv_idle_t *i)
{
	engine_run(i->data);
}

static void engine_polled(uv_poll_t *p, int status, int events)
{
	(void)status;
	(void)events;
	engine_run(p->data);
}

/* An order has made work: a turn follows before the loop sleeps. */
void engine_wake(struct engine *e)
{
	if (!e->quiet && !uv_is_active((uv_handle_t *)e->idle))
		uv_idle_start(e->idle, engine_idle);
}

/* ---- time ---- */

static uint64_t channel_tick(struct engine *e, struct channel *ch, uint64_t next)
{
	uint64_t open = ch->started ? UINT64_MAX : ch->last_ms + e->limits.open_ms;
	uint64_t idle = ch->idle_ms && !ch->reserve ? ch->last_ms + ch->idle_ms : UINT64_MAX;
	if (open <= e->now) {
		channel_close(e, ch, FRAME_RESET_NONE, "no data connection to the other node");
		return next;
	}
	if (idle <= e->now) {
		channel_close(e, ch, FRAME_RESET_IDLE, "idle");
		return next;
	}
	open = open < idle ? open : idle;
	return open < next ? open : next;
}

static uint64_t table_tick(struct engine *e, uint64_t next)
{
	for (size_t i = 0; i < e->table_size; i++) {
		struct entry *en = LIST_FIRST(&e->table[i]), *after;
		for (; en; en = after) {
			after = LIST_NEXT(en, hash);
			struct channel *ch = entry_channel(en);
			if (ch) {
				next = channel_tick(e, ch, next);
				continue;
			}
			uint64_t at = relay_tick(e, en);
			next = at < next ? at : next;
		}
	}
	return next;
}

static void engine_tick(uv_timer_t *t)
{
	struct engine *e = t->data;
	e->timer_at = 0;
	e->now = clock_mono_ms();
	uint64_t next = table_tick(e, proofs_tick(e, UINT64_MAX));
	struct peer *p;
	LIST_FOREACH (p, &e->peers, link)
		for (size_t i = 0; i < ENGINE_CARRIERS; i++) {
			struct carrier *c = &p->carriers[i];
			if (c->redial_at && c->redial_at <= e->now && !p->retired)
				proof_dial(c);
			if (c->redial_at && c->redial_at < next && !p->retired)
				next = c->redial_at;
		}
	if (next != UINT64_MAX)
		engine_schedule(e, next);
	engine_wake(e);
}

void engine_schedule(struct engine *e, uint64_t at)
{
	if (e->quiet || (e->timer_at && e->timer_at <= at))
		return;
	e->timer_at = at;
	uint64_t now = clock_mono_ms();
	uv_update_time(e->loop);
	uv_timer_start(e->timer, engine_tick, at > now ? at - now : 0, 0);
}

/* ---- life ---- */

static void handle_free(uv_handle_t *h)
{
	free(h);
}

struct engine *engine_free(struct engine *e)
{
	if (!e)
		return NULL;
	e->quiet = true;
	e->now = clock_mono_ms();
	proofs_drop(e);
	for (size_t i = 0; i < e->table_size; i++)
		while (!LIST_EMPTY(&e->table[i])) {
			struct entry *en = LIST_FIRST(&e->table[i]);
			if (en->relay)
				relay_close(e, en, "");
			else
				channel_close(e, entry_channel(en), FRAME_RESET_NONE, "");
		}
	while (!LIST_EMPTY(&e->peers))
		peer_free(e, LIST_FIRST(&e->peers));
	engine_sweep(e);
	uv_handle_t *handles[] = {
		(uv_handle_t *)e->poll, (uv_handle_t *)e->idle, (uv_handle_t *)e->timer};
	for (size_t i = 0; i < ARRAY_LEN(handles); i++)
		if (handles[i])
			uv_close(handles[i], handle_free);
	if (e->epoll >= 0)
		close(e->epoll);
	free(e->table);
	free(e->relay_buffer);
	free(e);
	return NULL;
}

int engine_new(uv_loop_t *loop, const struct engine_ops *ops, void *data,
	const struct engine_limits *limits, struct engine **ret)
{
	struct engine *e = calloc(1, sizeof(*e));
	if (!e)
		return -ENOMEM;
	e->loop = loop;
	e->ops = *ops;
	e->data = data;
	e->limits = limits ? *limits : engine_limits_default;
	e->seal_limits = (struct seal_limits){.bytes = e->limits.rekey_bytes,
		.frames = e->limits.rekey_frames,
		.ms = e->limits.rekey_ms};
	random_bytes(e->table_key, sizeof(e->table_key));
	LIST_INIT(&e->peers);
	LIST_INIT(&e->proofs);
	STAILQ_INIT(&e->graves);
	e->now = clock_mono_ms();
	e->epoll = epoll_create1(EPOLL_CLOEXEC);
	uv_poll_t *poll = calloc(1, sizeof(*poll));
	uv_idle_t *idle = calloc(1, sizeof(*idle));
	uv_timer_t *timer = calloc(1, sizeof(*timer));
	e->relay_buffer = malloc(RELAY_BUFFER);
	int r = e->epoll < 0 || !poll || !idle || !timer || !e->relay_buffer ? -ENOMEM
									     : table_grow(e);
	if (r == 0)
		r = uv_poll_init(loop, poll, e->epoll);
	if (r < 0) {
		free(poll);
		free(idle);
		free(timer);
		engine_free(e);
		return r;
	}
	(void)uv_idle_init(loop, idle); /* these two cannot fail */
	(void)uv_timer_init(loop, timer);
	e->poll = poll;
	e->idle = idle;
	e->timer = timer;
	poll->data = idle->data = timer->data = e;
	(void)uv_poll_start(poll, UV_READABLE, engine_polled);
	*ret = e;
	return 0;
}
