/*
 * News for the guard, together (news.h). In one message what was opened comes before what has
 * ended, and a message goes before either list is full: so no end overtakes its beginning.
 *
 * Cost: one message and one timer for all that happens within NEWS_MS; no allocation.
 */
#include "conn/news.h"

#include <stdio.h>
#include <string.h>

static void news_due(uv_timer_t *t)
{
	news_flush(t->data);
}

int news_init(
	struct news *n, uv_loop_t *loop, void (*tell)(void *data, Belay__ConnNews *m), void *data)
{
	n->tell = tell;
	n->data = data;
	n->timer.data = n;
	return uv_timer_init(loop, &n->timer);
}

static void news_wait(struct news *n)
{
	if (n->n_used == NEWS_MAX || n->n_closed == NEWS_MAX) {
		news_flush(n);
	} else if (!uv_is_active((uv_handle_t *)&n->timer)) {
		uv_update_time(n->timer.loop);
		uv_timer_start(&n->timer, news_due, NEWS_MS, 0);
	}
}

void news_used(struct news *n, const uint8_t id[FRAME_CHANNEL_LEN], const struct addr *local)
{
	struct news_used *u = &n->used[n->n_used++];
	memcpy(u->id, id, sizeof(u->id));
	u->local = *local;
	news_wait(n);
}

bool news_closed(struct news *n, const uint8_t id[FRAME_CHANNEL_LEN], const struct engine_result *r)
{
	if (r->tampered) {
		news_flush(n);
		return false;
	}
	struct news_closed *c = &n->closed[n->n_closed++];
	memcpy(c->id, id, sizeof(c->id));
	snprintf(c->reason, sizeof(c->reason), "%s", r->reason);
	c->result = *r;
	news_wait(n);
	return true;
}

static ProtobufCBinaryData bytes(const uint8_t *p, size_t len)
{
	return (ProtobufCBinaryData){.len = len, .data = (uint8_t *)(uintptr_t)p};
}

void news_flush(struct news *n)
{
	Belay__ConnNews m = BELAY__CONN_NEWS__INIT;
	Belay__ConnUsed used[NEWS_MAX], *used_list[NEWS_MAX];
	Belay__ConnClosed closed[NEWS_MAX], *closed_list[NEWS_MAX];
	Belay__Addr local[NEWS_MAX];
	uv_timer_stop(&n->timer);
	for (size_t i = 0; i < n->n_used; i++) {
		const struct news_used *u = &n->used[i];
		belay__addr__init(&local[i]);
		local[i].ip = bytes(u->local.ip, u->local.ip_len);
		local[i].port = u->local.port;
		belay__conn_used__init(&used[i]);
		used[i].channel = bytes(u->id, sizeof(u->id));
		used[i].local = &local[i];
		used_list[i] = &used[i];
	}
	for (size_t i = 0; i < n->n_closed; i++) {
		const struct news_closed *c = &n->closed[i];
		belay__conn_closed__init(&closed[i]);
		closed[i].channel = bytes(c->id, sizeof(c->id));
		closed[i].reason = (char *)(uintptr_t)c->reason;
		closed[i].bytes_sent = c->result.bytes_sent;
		closed[i].bytes_received = c->result.bytes_received;
		closed[i].complete = c->result.complete;
		closed_list[i] = &closed[i];
	}
	m.n_used = n->n_used;
	m.used = used_list;
	m.n_closed = n->n_closed;
	m.closed = closed_list;
	if (m.n_used || m.n_closed)
		n->tell(n->data, &m);
	n->n_used = n->n_closed = 0;
}

void news_drop(struct news *n)
{
	uv_timer_stop(&n->timer);
	n->n_used = n->n_closed = 0;
}
