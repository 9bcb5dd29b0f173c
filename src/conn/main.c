/*
 * belay-conn: the only process that reads peers' bytes and holds channel keys. This file is its
 * arrow to the guard and its life; the work is the engine's (engine.h).
 *
 * Trust: the guard's orders are obeyed, but each is checked for its shape; one that is not what the
 * schema says ends the arrow. It decides nothing, opens no file, dials only what the guard named,
 * and what it holds ends with it: a successor starts with an empty key table.
 *
 * Cost: a message each way for a channel's start, one for its end; none while data flows.
 */
#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "component.pb-c.h"
#include "conn.pb-c.h"
#include "conn/engine.h"
#include "conn/news.h"
#include "conn/reserve.h"
#include "ipc/component.h"
#include "sandbox/sandbox.h"

#define RESERVE_MAX FDS_PASS_MAX /* channels in one order */
#define STATS_BATCH 400          /* flows in one message: far below IPC_MSG_MAX */

struct conn {
	struct component component;
	struct ipc_chan guard;
	struct engine *engine;
	struct news news;
};

static void conn_tell(struct conn *c, Belay__FromConn *m)
{
	/* Without a guard nobody can be told; its successor asks what there is (ConnStats). */
	if (ipc_chan_open(&c->guard) && ipc_send(&c->guard, &m->base, NULL, 0) < 0)
		log_warn("the guard does not read");
}

static ProtobufCBinaryData id_data(const uint8_t *id)
{
	return (ProtobufCBinaryData){.len = FRAME_CHANNEL_LEN, .data = (uint8_t *)(uintptr_t)id};
}

/* ---- what the engine reports ---- */

static void on_closed(
	void *data, const uint8_t id[FRAME_CHANNEL_LEN], const struct engine_result *r)
{
	struct conn *c = data;
	if (r->leased && news_closed(&c->news, id, r))
		return;
	Belay__ConnClosed closed = BELAY__CONN_CLOSED__INIT;
	closed.channel = id_data(id);
	closed.reason = (char *)(uintptr_t)r->reason;
	closed.bytes_sent = r->bytes_sent;
	closed.bytes_received = r->bytes_received;
	closed.tampered = r->tampered;
	closed.complete = r->complete;
	Belay__FromConn m = BELAY__FROM_CONN__INIT;
	m.body_case = BELAY__FROM_CONN__BODY_CLOSED;
	m.closed = &closed;
	conn_tell(c, &m);
}

static void on_used(void *data, const uint8_t id[FRAME_CHANNEL_LEN], const struct addr *local)
{
	struct conn *c = data;
	news_used(&c->news, id, local);
}

static void on_news(void *data, Belay__ConnNews *news)
{
	Belay__FromConn m = BELAY__FROM_CONN__INIT;
	m.body_case = BELAY__FROM_CONN__BODY_NEWS;
	m.news = news;
	conn_tell(data, &m);
}

static void on_data_down(void *data, const char *node, const char *why, bool tampered)
{
	Belay__ConnDataDown down = BELAY__CONN_DATA_DOWN__INIT;
	down.node = (char *)(uintptr_t)node;
	down.why = (char *)(uintptr_t)why;
	down.tampered = tampered;
	Belay__FromConn m = BELAY__FROM_CONN__INIT;
	m.body_case = BELAY__FROM_CONN__BODY_DATA_DOWN;
	m.data_down = &down;
	conn_tell(data, &m);
}

/* ---- what the guard orders ---- */

static int take_addr(const Belay__Addr *in, struct addr *ret)
{
	if (!in || (in->ip.len != 4 && in->ip.len != 16) || in->port == 0 || in->port > UINT16_MAX)
		return -EBADMSG;
	*ret = (struct addr){.ip_len = (uint8_t)in->ip.len, .port = (uint16_t)in->port};
	memcpy(ret->ip, in->ip.data, in->ip.len);
	return 0;
}

static int order_peer(struct conn *c, const Belay__ConnPeer *m)
{
	struct engine_peer p = {
		.node = m->node, .self = m->self, .secret = m->secret.data, .we_dial = m->we_dial};
	if (m->secret.len != SECRET_LEN || !*m->node || !*m->self ||
		(m->we_dial && take_addr(m->data, &p.data) < 0))
		return -EBADMSG;
	int r = engine_peer_set(c->engine, &p);
	if (r < 0)
		log_error("cannot hold data connections to node %s: %s", m->node, strerror(-r));
	return 0;
}

static void answer_opened(struct conn *c, uint64_t id, const uint8_t *channel, int error)
{
	Belay__ConnOpened opened = BELAY__CONN_OPENED__INIT;
	opened.channel = id_data(channel);
	opened.error = error;
	Belay__FromConn m = BELAY__FROM_CONN__INIT;
	m.id = id;
	m.body_case = BELAY__FROM_CONN__BODY_OPENED;
	m.opened = &opened;
	conn_tell(c, &m);
}

static void on_opened(void *data, const uint8_t id[FRAME_CHANNEL_LEN], uint64_t ask, int error)
{
	answer_opened(data, ask, id, error);
}

static int order_channel(
	struct conn *c, uint64_t id, const Belay__ConnChannel *m, int *fds, size_t n_fds)
{
	bool local = !*m->node;
	if (m->channel.len != FRAME_CHANNEL_LEN || m->send_key.len != SECRET_LEN ||
		m->receive_key.len != SECRET_LEN || n_fds != (local ? 2u : 1u))
		return -EBADMSG;
	struct engine_channel in = {.node = m->node,
		.initiator = m->initiator,
		.datagram = m->transport == BELAY__TRANSPORT__TRANSPORT_UDP,
		.idle_ms = m->idle_ms};
	memcpy(in.id, m->channel.data, sizeof(in.id));
	memcpy(in.send.bytes, m->send_key.data, SECRET_LEN);
	memcpy(in.receive.bytes, m->receive_key.data, SECRET_LEN);
	int own[2] = {take_fd(&fds[0]), local ? take_fd(&fds[1]) : -1};
	int r = engine_channel_add(c->engine, &in, own);
	secret_clear(&in.send);
	secret_clear(&in.receive);
	answer_opened(c, id, in.id, r);
	return 0;
}

static int order_relay(
	struct conn *c, uint64_t id, const Belay__ConnRelay *m, int *fds, size_t n_fds)
{
	struct addr to = {0};
	if (m->channel.len != FRAME_CHANNEL_LEN || n_fds < 1 || n_fds > 2 ||
		(n_fds == 1 && take_addr(m->destination, &to) < 0))
		return -EBADMSG;
	int own[2] = {take_fd(&fds[0]), n_fds == 2 ? take_fd(&fds[1]) : -1};
	struct engine_relay in = {.to = n_fds == 1 ? &to : NULL,
		.datagram = m->transport == BELAY__TRANSPORT__TRANSPORT_UDP,
		.idle_ms = m->idle_ms};
	memcpy(in.id, m->channel.data, sizeof(in.id));
	int r = engine_relay_add(c->engine, &in, own);
	if (r < 0 || !engine_relay_wait(c->engine, m->channel.data, id, m->wait_ms))
		answer_opened(c, id, m->channel.data, r);
	return 0;
}

/* ---- channels in advance ---- */

static int reserve_one(struct conn *c, const Belay__ConnReserve *m, const Belay__ConnReserved *in,
	const struct addr *to, int *fd)
{
	struct engine_channel one = {
		.node = m->node, .initiator = m->initiator, .idle_ms = m->idle_ms};
	memcpy(one.id, in->channel.data, sizeof(one.id));
	memcpy(one.send.bytes, in->send_key.data, SECRET_LEN);
	memcpy(one.receive.bytes, in->receive_key.data, SECRET_LEN);
	int own = fd ? take_fd(fd) : -1;
	int r = engine_reserve_add(c->engine, &one, m->lease, to, &own);
	secret_clear(&one.send);
	secret_clear(&one.receive);
	return r;
}

static int order_reserve(
	struct conn *c, uint64_t id, const Belay__ConnReserve *m, int *fds, size_t n_fds)
{
	struct addr to = {0};
	int r = 0;
	if (!*m->node || !m->lease || !m->n_channel || m->n_channel > RESERVE_MAX ||
		n_fds != (m->initiator ? 0 : m->n_channel) ||
		(!m->initiator && take_addr(m->destination, &to) < 0))
		return -EBADMSG;
	for (size_t i = 0; i < m->n_channel; i++)
		if (m->channel[i]->channel.len != FRAME_CHANNEL_LEN ||
			m->channel[i]->send_key.len != SECRET_LEN ||
			m->channel[i]->receive_key.len != SECRET_LEN)
			return -EBADMSG;
	for (size_t i = 0; i < m->n_channel && r == 0; i++)
		r = reserve_one(c, m, m->channel[i], &to, n_fds ? &fds[i] : NULL);
	if (r < 0)
		engine_reserve_end(c->engine, m->lease);
	answer_opened(c, id, m->channel[0]->channel.data, r);
	return 0;
}

static int order_take(struct conn *c, const Belay__ConnTake *m, int *fds, size_t n_fds)
{
	if (m->channel.len != FRAME_CHANNEL_LEN || n_fds != 1)
		return -EBADMSG;
	engine_reserve_take(c->engine, m->channel.data, &fds[0]);
	return 0;
}

static int order_reserve_end(struct conn *c, uint64_t id, const Belay__ConnReserveEnd *m)
{
	Belay__ConnReserveEnded ended = BELAY__CONN_RESERVE_ENDED__INIT;
	Belay__FromConn out = BELAY__FROM_CONN__INIT;
	if (!m->lease)
		return -EBADMSG;
	engine_reserve_end(c->engine, m->lease);
	news_flush(&c->news);
	ended.lease = m->lease;
	out.id = id;
	out.body_case = BELAY__FROM_CONN__BODY_RESERVE_ENDED;
	out.reserve_ended = &ended;
	conn_tell(c, &out);
	return 0;
}

/* ---- counts ---- */

struct stats {
	struct conn *conn;
	uint64_t id;
	size_t n;
	Belay__ConnFlow flow[STATS_BATCH];
	Belay__ConnFlow *list[STATS_BATCH];
};

static void stats_send(struct stats *s, bool more)
{
	Belay__ConnStatsReply reply = BELAY__CONN_STATS_REPLY__INIT;
	reply.n_flow = s->n;
	reply.flow = s->list;
	reply.more = more;
	Belay__FromConn m = BELAY__FROM_CONN__INIT;
	m.id = s->id;
	m.body_case = BELAY__FROM_CONN__BODY_STATS;
	m.stats = &reply;
	conn_tell(s->conn, &m);
	s->n = 0;
}

static void stats_flow(void *ctx, const struct engine_flow *f)
{
	struct stats *s = ctx;
	Belay__ConnFlow *out = &s->flow[s->n];
	belay__conn_flow__init(out);
	out->channel = id_data(f->id);
	out->bytes_sent = f->bytes_sent;
	out->bytes_received = f->bytes_received;
	out->idle_ms = f->idle_ms;
	s->list[s->n++] = out;
	if (s->n == STATS_BATCH)
		stats_send(s, true);
}

static int order_stats(struct conn *c, uint64_t id)
{
	static struct stats s;
	s = (struct stats){.conn = c, .id = id};
	engine_flows(c->engine, stats_flow, &s);
	stats_send(&s, false);
	return 0;
}

static int order(struct conn *c, const Belay__ToConn *m, int *fds, size_t n_fds)
{
	switch (m->body_case) {
	case BELAY__TO_CONN__BODY_PEER:
		return n_fds ? -EBADMSG : order_peer(c, m->peer);
	case BELAY__TO_CONN__BODY_CHANNEL:
		return order_channel(c, m->id, m->channel, fds, n_fds);
	case BELAY__TO_CONN__BODY_RELAY:
		return order_relay(c, m->id, m->relay, fds, n_fds);
	case BELAY__TO_CONN__BODY_END:
		if (n_fds || m->end->channel.len != FRAME_CHANNEL_LEN)
			return -EBADMSG;
		engine_end(c->engine, m->end->channel.data,
			*m->end->reason ? m->end->reason : "ended");
		return 0;
	case BELAY__TO_CONN__BODY_STATS:
		return n_fds ? -EBADMSG : order_stats(c, m->id);
	case BELAY__TO_CONN__BODY_RESERVE:
		return order_reserve(c, m->id, m->reserve, fds, n_fds);
	case BELAY__TO_CONN__BODY_TAKE:
		return order_take(c, m->take, fds, n_fds);
	case BELAY__TO_CONN__BODY_RESERVE_END:
		return n_fds ? -EBADMSG : order_reserve_end(c, m->id, m->reserve_end);
	case BELAY__TO_CONN__BODY_PEER_DOWN:
		if (n_fds)
			return -EBADMSG;
		engine_peer_drop(c->engine, m->peer_down->node, "the node was removed");
		return 0;
	default:
		return -EBADMSG;
	}
}

static int on_order(struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	Belay__ToConn *m = ipc_unpack(&belay__to_conn__descriptor, buf, len);
	if (!m)
		return -EBADMSG;
	int r = order(chan->data, m, fds, n_fds);
	/* Keys were in it; the unpacked copies are erased before their memory goes. */
	if (m->body_case == BELAY__TO_CONN__BODY_CHANNEL) {
		secret_zero(m->channel->send_key.data, m->channel->send_key.len);
		secret_zero(m->channel->receive_key.data, m->channel->receive_key.len);
	} else if (m->body_case == BELAY__TO_CONN__BODY_RESERVE) {
		for (size_t i = 0; i < m->reserve->n_channel; i++) {
			Belay__ConnReserved *one = m->reserve->channel[i];
			secret_zero(one->send_key.data, one->send_key.len);
			secret_zero(one->receive_key.data, one->receive_key.len);
		}
	} else if (m->body_case == BELAY__TO_CONN__BODY_PEER) {
		secret_zero(m->peer->secret.data, m->peer->secret.len);
	}
	ipc_free(m);
	return r;
}

/* The guard is gone: channels live on, nothing new comes until its successor's arrow. */
static void on_guard_closed(struct ipc_chan *chan, int reason)
{
	struct conn *c = chan->data;
	engine_reserve_end(c->engine, 0); /* nobody could be told of what they open */
	log_info("the guard's arrow closed: %s", strerror(-reason));
}

/* ---- life ---- */

static int on_arrow(struct component *comp, enum role peer, int fd)
{
	struct conn *c = comp->data;
	if (peer != ROLE_GUARD) {
		close(fd);
		return -EBADMSG;
	}
	ipc_chan_deinit(&c->guard);
	engine_reserve_end(c->engine, 0);
	news_drop(&c->news);
	return ipc_chan_init(&c->guard, &comp->loop, fd, on_order, on_guard_closed, c);
}

static int on_connection(struct component *comp, const Belay__Connection *m, int *fds, size_t n_fds)
{
	struct conn *c = comp->data;
	(void)n_fds;
	if (m->kind != BELAY__CONNECTION_KIND__CONNECTION_DATA)
		return -EBADMSG;
	engine_accept(c->engine, take_fd(&fds[0]));
	return 0;
}

/*
 * Bytes that arrive interrupt no program on a busy core: they wait until it pauses, and by then
 * there are more, which share this turn's system calls. On an idle core nothing changes. A kernel
 * that refuses costs only the batches.
 */
static void let_programs_finish(void)
{
	struct sched_param none = {0};
	if (sched_setscheduler(0, SCHED_BATCH, &none) < 0)
		log_info("cannot leave wake-up preemption: %s", strerror(errno));
}

static int conn_open(struct conn *c, int argc, char **argv, struct error *e)
{
	static const struct component_ops ops = {
		.on_arrow = on_arrow, .on_connection = on_connection};
	static const struct engine_ops reports = {.closed = on_closed,
		.used = on_used,
		.opened = on_opened,
		.data_down = on_data_down};
	int r = component_open(&c->component, argc, argv, &ops, c, e);
	if (r < 0)
		return r;
	if (c->component.heritage.role != ROLE_CONN)
		return error_set(
			e, -EINVAL, "started as %s", role_name(c->component.heritage.role));
	r = engine_new(&c->component.loop, &reports, c, NULL, &c->engine);
	if (r < 0)
		return error_errno(e, r, "cannot make the engine");
	r = news_init(&c->news, &c->component.loop, on_news, c);
	if (r < 0)
		return error_errno(e, r, "cannot make a timer");
	let_programs_finish();
	return sandbox_enter(SANDBOX_CONN, NULL, e);
}

int main(int argc, char **argv)
{
	static struct conn c;
	struct error e = ERROR_INIT;
	if (conn_open(&c, argc, argv, &e) < 0) {
		fprintf(stderr, "belay-conn: %s\n", e.text);
		return 1;
	}
	int r = component_run(&c.component);
	engine_free(c.engine); /* keys are erased also at an orderly end */
	return r;
}
