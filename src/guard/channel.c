/*
 * The channel table: every connection that was allowed, from the decision to the audited end.
 *
 * A channel is found by its id (ours, random) and by its two names; both hashes are keyed. Our own
 * ends are ordered and then waited for, since only the fabric's last count has all bytes; it ends
 * at the order's answer, however that comes.
 *
 * Cost: an entry is some 600 bytes here and 1 KiB of state table; subjects are shared.
 */
#include "guard/channel.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/auditing.h"
#include "guard/datagram.h"
#include "guard/idle.h"
#include "guard/judge.h"
#include "guard/limit.h"
#include "guard/pb.h"
#include "guard/relook.h"
#include "guard/share.h"
#include "guard/state.h"

#define BUCKETS 8192u

struct channels {
	LIST_HEAD(, channel) by_id[BUCKETS], by_name[BUCKETS];
	TAILQ_HEAD(, channel) list;
	size_t n;
	struct ended ended[ENDED_MAX];
	size_t next_ended, n_ended;
};

int channels_init(struct guard *g)
{
	g->channels = calloc(1, sizeof(*g->channels));
	if (!g->channels)
		return -ENOMEM;
	TAILQ_INIT(&g->channels->list);
	return 0;
}

static size_t hash(const struct guard *g, const void *p, size_t len)
{
	uint8_t out[crypto_shorthash_BYTES];
	uint64_t h;
	crypto_shorthash(out, p, len, g->hash_key);
	memcpy(&h, out, sizeof(h));
	return h % BUCKETS;
}

static size_t hash_names(
	const struct guard *g, Belay__Transport t, const struct addr *a, const struct addr *b)
{
	uint8_t text[1 + 2 * 19];
	memset(text, 0, sizeof(text));
	text[0] = (uint8_t)t;
	memcpy(text + 1, a->ip, a->ip_len);
	memcpy(text + 17, &a->port, 2);
	memcpy(text + 20, b->ip, b->ip_len);
	memcpy(text + 36, &b->port, 2);
	return hash(g, text, sizeof(text));
}

/* Why a channel ends, when there is no memory to keep the reason. */
static char ending_untold[] = "ended";

static void channel_unlink(struct guard *g, struct channel *c)
{
	LIST_REMOVE(c, by_id);
	LIST_REMOVE(c, by_name);
	TAILQ_REMOVE(&g->channels->list, c, link);
	g->channels->n--;
	limit_drop(g, c->limit_rule);
	share_drop(g, SHARE_CHANNELS, c->who);
	subject_unref(c->from);
	subject_unref(c->to);
	if (c->why_ending != ending_untold)
		free(c->why_ending);
	free(c);
}

void channels_deinit(struct guard *g)
{
	while (g->channels && !TAILQ_EMPTY(&g->channels->list))
		channel_unlink(g, TAILQ_FIRST(&g->channels->list));
	free(g->channels);
	g->channels = NULL;
}

size_t channels_count(const struct guard *g)
{
	return g->channels->n;
}

struct channel *channel_first(struct guard *g)
{
	return TAILQ_FIRST(&g->channels->list);
}

struct channel *channel_next(struct channel *c)
{
	return TAILQ_NEXT(c, link);
}

int channel_new_id(uint8_t ret[CHANNEL_ID_LEN])
{
	randombytes_buf(ret, CHANNEL_ID_LEN);
	return 0;
}

struct channel *channel_find(struct guard *g, const uint8_t id[CHANNEL_ID_LEN])
{
	struct channel *c;
	LIST_FOREACH (c, &g->channels->by_id[hash(g, id, CHANNEL_ID_LEN)], by_id)
		if (!memcmp(c->id, id, CHANNEL_ID_LEN))
			return c;
	return NULL;
}

struct channel *channel_find_names(
	struct guard *g, Belay__Transport t, const struct addr *a, const struct addr *b)
{
	struct channel *c;
	LIST_FOREACH (c, &g->channels->by_name[hash_names(g, t, a, b)], by_name)
		if (c->transport == t && addr_equal(&c->a, a) && addr_equal(&c->b, b))
			return c;
	return NULL;
}

int channel_restore(struct guard *g, const struct channel *template, struct channel **ret)
{
	if (g->channels->n >= CHANNELS_MAX)
		return -ENOBUFS;
	if (channel_find(g, template->id))
		return -EEXIST;
	struct channel *c = malloc(sizeof(*c));
	if (!c)
		return -ENOMEM;
	*c = *template;
	c->who = c->from && !c->from->node[0] && c->tree ? share_tree(g, c->tree)
							 : share_subject(g, c->from);
	share_add(g, SHARE_CHANNELS, c->who);
	subject_ref(c->from);
	subject_ref(c->to);
	LIST_INSERT_HEAD(&g->channels->by_id[hash(g, c->id, CHANNEL_ID_LEN)], c, by_id);
	LIST_INSERT_HEAD(
		&g->channels->by_name[hash_names(g, c->transport, &c->a, &c->b)], c, by_name);
	TAILQ_INSERT_TAIL(&g->channels->list, c, link);
	g->channels->n++;
	limit_add(g, c->limit_rule);
	idle_watch(g, c);
	relook_watch(g);
	*ret = c;
	return 0;
}

int channel_log(struct guard *g, const struct channel *c)
{
	int r = auditing_channel_start(g, c);
	if (r == 0)
		state_table_set_logged(g->state, c->slot);
	return r;
}

int channel_start(struct guard *g, const struct channel *template, struct channel **ret)
{
	struct channel c = *template;
	c.started_ms = clock_mono_ms();
	c.started_wall_ms = clock_wall_ms();
	c.stats_ms = c.started_ms;
	c.slot = state_put_channel(g, &c);
	if (c.slot < 0)
		return c.slot;
	int r = channel_log(g, &c);
	if (r == 0)
		r = channel_restore(g, &c, ret);
	if (r < 0)
		state_drop(g, c.slot);
	return r;
}

/* ---- the end ---- */

static void end_fill(char name[NAME_MAX_LEN], char user[USER_MAX_LEN], char node[NAME_MAX_LEN],
	uint32_t *pid, uint32_t *uid, const struct subject *s)
{
	if (!s)
		return;
	snprintf(name, NAME_MAX_LEN, "%s", subject_name(s));
	snprintf(user, USER_MAX_LEN, "%s", s->user);
	snprintf(node, NAME_MAX_LEN, "%s", s->node);
	*pid = s->evidence->pid;
	*uid = s->evidence->uid;
}

static void ended_add(struct guard *g, const struct channel *c, const char *reason)
{
	struct channels *t = g->channels;
	struct ended *e = &t->ended[t->next_ended];
	memset(e, 0, sizeof(*e));
	memcpy(e->id, c->id, sizeof(e->id));
	e->copy = *c;
	e->copy.from = e->copy.to = NULL;
	e->copy.why_ending = NULL;
	end_fill(e->from, e->from_user, e->from_node, &e->from_pid, &e->from_uid, c->from);
	end_fill(e->to, e->to_user, e->to_node, &e->to_pid, &e->to_uid, c->to);
	e->ended_ms = clock_mono_ms();
	snprintf(e->reason, sizeof(e->reason), "%s", reason);
	t->next_ended = (t->next_ended + 1) % ENDED_MAX;
	if (t->n_ended < ENDED_MAX)
		t->n_ended++;
}

const struct ended *channel_ended_get(struct guard *g, size_t i)
{
	struct channels *t = g->channels;
	return i < t->n_ended ? &t->ended[(t->next_ended + ENDED_MAX - 1 - i) % ENDED_MAX] : NULL;
}

void channel_ended(struct guard *g, struct channel *c, const char *reason)
{
	if (c->why_ending)
		reason = c->why_ending;
	auditing_channel_end(g, c, reason);
	datagram_ended(g, c);
	ended_add(g, c, reason);
	state_drop(g, c->slot);
	channel_unlink(g, c);
}

static void destroyed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)error, (void)fds, (void)n_fds;
	uint8_t *id = ctx;
	struct channel *c = channel_find(g, id);
	const Belay__FromFabric *m = reply;
	if (c && m && m->n_flows)
		channel_count(c, m->flows[0]->bytes_a_to_b, m->flows[0]->bytes_b_to_a, 0);
	if (c && c->why_ending)
		channel_ended(g, c, c->why_ending);
	free(id);
}

/* Orders the end of the sockets; *ret_waiting: destroyed() will come. */
static void destroy_sockets(struct guard *g, const struct channel *c, bool *ret_waiting)
{
	Belay__FabricDestroy d = BELAY__FABRIC_DESTROY__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr a = pb_addr(&c->a), b = pb_addr(&c->b), dialed = pb_addr(&c->dialed);
	m.body_case = BELAY__TO_FABRIC__BODY_DESTROY;
	m.destroy = &d;
	d.b = &b;
	if (c->dialed.ip_len) {
		d.a = &dialed;
		if (arrow_order(g, &m, "end the dialed side of a channel") < 0)
			log_error("cannot order the end of a channel's dialed side");
	}
	d.a = &a;
	uint8_t *id = malloc(CHANNEL_ID_LEN);
	if (id)
		memcpy(id, c->id, CHANNEL_ID_LEN);
	/* Not sent again by the arrow: restore_fabric_up() ends whatever has no channel. */
	*ret_waiting =
		id && arrow_call(g, ROLE_FABRIC, &m.base, NULL, 0, 0, destroyed, id, NULL) == 0;
	if (!*ret_waiting)
		free(id);
}

void channel_end(struct guard *g, struct channel *c, const char *reason)
{
	if (c->why_ending)
		return;
	c->why_ending = reason[0] ? strdup(reason) : NULL;
	if (!c->why_ending)
		c->why_ending = ending_untold;
	/* First our successor: whatever happens from here on, this channel is not to be restored.
	 */
	state_drop(g, c->slot);
	c->slot = -1;
	bool told = false;
	if (c->via != CHANNEL_DIRECT && arrow_up(g, ROLE_CONN)) {
		Belay__ConnEnd e = BELAY__CONN_END__INIT;
		Belay__ToConn m = BELAY__TO_CONN__INIT;
		e.channel = pb_bytes(c->id, sizeof(c->id));
		e.reason = pb_text(reason);
		m.body_case = BELAY__TO_CONN__BODY_END;
		m.end = &e;
		told = arrow_send(g, ROLE_CONN, &m.base, NULL, 0) >= 0;
		if (!told)
			log_error("cannot order conn to end a channel");
	}
	if (c->via == CHANNEL_REMOTE)
		remote_channel_ended(g, c, reason);
	/* Of datagrams: the program's socket has other destinations, ours is conn's, which tells
	 * its last count if it holds the channel. */
	bool waiting = told && c->held;
	if (c->transport == BELAY__TRANSPORT__TRANSPORT_TCP)
		destroy_sockets(g, c, &waiting);
	if (!waiting)
		channel_ended(g, c, reason);
}

void channel_socket_gone(
	struct guard *g, const struct addr *a, const struct addr *b, uint64_t ab, uint64_t ba)
{
	struct channel *c = channel_find_names(g, BELAY__TRANSPORT__TRANSPORT_TCP, a, b);
	/* Through conn, the end is conn's to tell: it has what is still on its way. */
	if (!c || (c->via != CHANNEL_DIRECT && !c->why_ending))
		return;
	if (c->late) { /* of an earlier socket */
		c->late--;
		return;
	}
	channel_count(c, ab, ba, 0);
	channel_ended(g, c, "closed");
}

/* ---- judging again ---- */

void channel_question(const struct channel *c, const struct subject *from, const struct subject *to,
	struct endpoint_question *q)
{
	*q = (struct endpoint_question){.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = c->transport,
		.from = from,
		.to = to,
		.address = &c->b,
		.to_node = to ? to->node : NULL,
		.outside = c->via == CHANNEL_PLAIN,
		.dns = c->dns};
	if (c->published) {
		q->operation = BELAY__OPERATION__OP_PUBLISH;
		q->from = to;
		q->to = NULL;
		q->to_node = NULL;
		q->outside = false;
	}
}

int channel_adopt(struct guard *g, struct channel *c, bool accepting, struct subject *s)
{
	struct subject **end = accepting ? &c->to : &c->from;
	struct subject *old = *end;
	*end = subject_ref(s);
	int slot = state_put_channel(g, c);
	if (slot < 0) {
		subject_unref(*end);
		*end = old;
		return slot;
	}
	subject_unref(old);
	state_table_set_logged(g->state, slot);
	state_drop(g, c->slot);
	c->slot = slot;
	return 0;
}

struct channel *channel_find_dialed(
	struct guard *g, const struct addr *dialed, const struct addr *b)
{
	struct channel *c;
	TAILQ_FOREACH (c, &g->channels->list, link)
		if (c->dialed.ip_len && addr_equal(&c->dialed, dialed) && addr_equal(&c->b, b))
			return c;
	return NULL;
}

static bool holds(struct guard *g, struct channel *c, struct verdict *v)
{
	struct endpoint_question q;
	judge_subject(g, &c->from);
	judge_subject(g, &c->to);
	channel_question(c, c->from, c->to, &q);
	decide_ask(g, &q, v);
	/* A channel in the clear does not satisfy a rule that has come to want encryption. */
	return v->allow && !(c->via == CHANNEL_DIRECT && !c->dns &&
				   v->protection == BELAY__PROTECTION__PROTECTION_ENCRYPT);
}

void channel_judge_one(struct guard *g, struct channel *c, const char *reason)
{
	struct verdict v;
	if (c->why_ending)
		return;
	if (!holds(g, c, &v)) {
		channel_end(g, c, v.allow ? "policy: wants encryption" : reason);
		return;
	}
	limit_drop(g, c->limit_rule);
	snprintf(c->rule, sizeof(c->rule), "%s", v.rule);
	snprintf(c->limit_rule, sizeof(c->limit_rule), "%s", v.limit_rule);
	limit_add(g, c->limit_rule);
	c->idle_limit_ms = datagram_idle(c->transport, v.idle_ms);
	idle_watch(g, c);
}

void channel_judge(struct guard *g, const char *reason)
{
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		channel_judge_one(g, c, reason);
	}
}

void channel_end_listener(struct guard *g, const struct bind *b, const char *reason)
{
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		bool there = c->transport == b->transport && c->b.port == b->addr.port &&
			     (addr_is_any(&b->addr) || addr_same_ip(&c->b, &b->addr));
		if (there && c->to && !c->to->node[0] && c->to->principal == b->subject->principal)
			channel_end(g, c, reason);
	}
}

/* ---- counts ---- */

void channel_count(struct channel *c, uint64_t ab, uint64_t ba, uint64_t idle_ms)
{
	/* A socket that is gone may count less than it did: never go back. */
	c->bytes_ab = ab > c->bytes_ab ? ab : c->bytes_ab;
	c->bytes_ba = ba > c->bytes_ba ? ba : c->bytes_ba;
	c->idle_ms = idle_ms;
	c->stats_ms = clock_mono_ms();
}

void channel_flow(struct guard *g, const struct addr *a, const struct addr *b, uint64_t ab,
	uint64_t ba, uint64_t idle_ms)
{
	struct channel *c = channel_find_names(g, BELAY__TRANSPORT__TRANSPORT_TCP, a, b);
	if (c && c->via == CHANNEL_DIRECT)
		channel_count(c, ab, ba, idle_ms);
}
