/*
 * A successor's beginning: the state table is read into ours, everything unseen; then the fabric
 * says which sockets exist. What exists and is recorded is ours again; what exists without a record
 * was never allowed, or its end was already decided: it is destroyed. What is recorded but gone has
 * ended. Questions are answered only after that, so that nothing is judged against half a table.
 *
 * The same happens when a fresh fabric process takes over the namespace from a dead one.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/grant.h"
#include "guard/job.h"
#include "guard/judge.h"
#include "guard/lease.h"
#include "guard/pb.h"
#include "guard/policies.h"
#include "guard/publish.h"
#include "guard/state.h"
#include "guard/tree.h"
#include "state.pb-c.h"

/* ---- reading the table ---- */

/* Takes the evidence out of the record, whose memory is the same kind. */
static struct subject *subject_load(struct guard *g, Belay__StateSubject *m)
{
	if (!m || !m->evidence)
		return NULL;
	return subject_restored(g, take_ptr(m->evidence), m->node, m->programs, m->n_programs,
		m->groups, m->n_groups, m->user, m->principal);
}

static int bind_load(struct guard *g, const Belay__StateBind *m, int slot)
{
	struct bind b = {.transport = m->transport,
		.v6only = m->v6only,
		.listening = m->listening,
		.unseen = true,
		.inode = m->inode,
		.tree = m->tree,
		.pid = m->pid,
		.publish = m->publish,
		.chosen = m->chosen,
		.slot = slot};
	if (pb_addr_read(m->addr, &b.addr) < 0 || !b.addr.ip_len)
		return -EBADMSG;
	snprintf(b.rule, sizeof(b.rule), "%s", m->rule);
	b.subject = subject_load(g, m->subject);
	int r = b.subject && bind_insert(g, &b) ? 0 : -ENOMEM;
	subject_unref(b.subject);
	return r;
}

/* Its subjects are the caller's to let go. */
static int channel_read(struct guard *g, const Belay__StateChannel *m, int slot, struct channel *c)
{
	*c = (struct channel){.via = (enum channel_via)m->via,
		.transport = m->transport,
		.protection = m->protection,
		.initiator = m->initiator,
		.dns = m->dns,
		.published = m->published,
		.unseen = true,
		.mark = m->mark,
		.tree = m->tree,
		.started_ms = m->started_ms,
		.started_wall_ms = m->started_wall_ms,
		.idle_limit_ms = m->idle_limit_ms,
		.stats_ms = clock_mono_ms(),
		.slot = slot};
	if (m->id.len != CHANNEL_ID_LEN || m->via > CHANNEL_PLAIN ||
		pb_addr_read(m->a, &c->a) < 0 || pb_addr_read(m->b, &c->b) < 0 ||
		pb_addr_read(m->dialed, &c->dialed) < 0)
		return -EBADMSG;
	memcpy(c->id, m->id.data, CHANNEL_ID_LEN);
	snprintf(c->rule, sizeof(c->rule), "%s", m->rule);
	snprintf(c->limit_rule, sizeof(c->limit_rule), "%s", m->limit_rule);
	c->from = subject_load(g, m->from);
	c->to = subject_load(g, m->to);
	return (c->from || c->published) && (c->to || !m->to) ? 0 : -ENOMEM;
}

static int channel_load(struct guard *g, const Belay__StateChannel *m, int slot)
{
	struct channel c, *ret;
	int r = channel_read(g, m, slot, &c);
	if (r == 0)
		r = channel_restore(g, &c, &ret);
	/* Our predecessor died between its two records. */
	if (r == 0 && !state_table_logged(g->state, slot) && channel_log(g, ret) < 0)
		log_error("cannot log a channel that was found");
	subject_unref(c.from);
	subject_unref(c.to);
	return r;
}

static int lease_load(struct guard *g, const Belay__StateLease *m, int slot)
{
	struct channel c = {0};
	int r = m->channel ? channel_read(g, m->channel, slot, &c) : -EBADMSG;
	c.unseen = false;
	if (r == 0)
		r = lease_restore(g, m->lease, m->generation, &c, slot);
	subject_unref(c.from);
	subject_unref(c.to);
	return r;
}

static int record_load(struct guard *g, Belay__StateRecord *m, int slot)
{
	switch (m->body_case) {
	case BELAY__STATE_RECORD__BODY_TREE:
		return tree_restore(g, m->tree->tree, m->tree->pid, m->tree->uid, m->tree->as,
			m->tree->ran, slot);
	case BELAY__STATE_RECORD__BODY_BIND:
		return bind_load(g, m->bind, slot);
	case BELAY__STATE_RECORD__BODY_CHANNEL:
		return channel_load(g, m->channel, slot);
	case BELAY__STATE_RECORD__BODY_LEASE:
		return lease_load(g, m->lease, slot);
	case BELAY__STATE_RECORD__BODY__NOT_SET:
	case _BELAY__STATE_RECORD__BODY__CASE_IS_INT_SIZE:
	default:
		return -EBADMSG;
	}
}

int restore_load(struct guard *g)
{
	size_t n = 0, bad = 0;
	for (int slot = 1; slot < state_table_slots(g->state); slot++) {
		const void *p;
		size_t len = state_table_get(g->state, slot, &p);
		if (!len)
			continue;
		Belay__StateRecord *m = ipc_unpack(&belay__state_record__descriptor, p, len);
		int r = m ? record_load(g, m, slot) : -EBADMSG;
		ipc_free(m);
		n++;
		if (r == 0)
			continue;
		bad++;
		state_drop(g, slot);
		if (r == -ENOMEM)
			return r;
	}
	if (bad)
		log_error("%zu of %zu records of the state table were unusable; what they told of "
			  "ends",
			bad, n);
	return 0;
}

/* ---- holding it against the fabric ---- */

static void flow_destroy(struct guard *g, const Belay__FabricFlow *f)
{
	Belay__FabricDestroy d = BELAY__FABRIC_DESTROY__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	d.a = f->a;
	d.b = f->b && f->b->ip.len ? f->b : NULL;
	d.transport = f->transport;
	m.body_case = BELAY__TO_FABRIC__BODY_DESTROY;
	m.destroy = &d;
	if (arrow_call_setup(g, ROLE_FABRIC, &m.base, 0, NULL, NULL) < 0)
		log_error("cannot order the end of an unknown socket");
}

static void flow_seen(struct guard *g, const Belay__FabricFlow *f)
{
	struct addr a, b;
	if (pb_addr_read(f->a, &a) < 0 || pb_addr_read(f->b, &b) < 0 || !a.ip_len)
		return;
	if (f->transport == BELAY__TRANSPORT__TRANSPORT_UDP && !bind_by_inode(g, f->inode) &&
		!bind_unseen_at(g, f->transport, &a))
		return; /* a client's, or conn's: without grants and entry it is nobody's danger */
	if (!b.ip_len) {
		struct bind *l = bind_by_inode(g, f->inode);
		if (!l)
			l = bind_unseen_at(g, f->transport, &a);
		if (l) {
			l->unseen = l->pending = false;
			l->inode = f->inode ? f->inode : l->inode;
		} else {
			flow_destroy(g, f);
		}
		return;
	}
	struct channel *c = channel_find_names(g, BELAY__TRANSPORT__TRANSPORT_TCP, &a, &b);
	if (!c)
		c = channel_find_names(g, BELAY__TRANSPORT__TRANSPORT_TCP, &b, &a);
	if (!c)
		c = channel_find_dialed(g, &a, &b);
	if (!c)
		c = channel_find_dialed(g, &b, &a);
	if (c && !c->why_ending)
		c->unseen = false;
	else if (!c)
		flow_destroy(g, f);
}

static void bind_lost(struct guard *g, struct bind *b, const void *x)
{
	(void)x;
	if (b->unseen)
		bind_drop(g, b);
}

static void restore_done(struct guard *g)
{
	bind_each(g, bind_lost, NULL);
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		/* The fabric does not know which datagrams belong together; conn does. */
		if (c->unseen && c->transport == BELAY__TRANSPORT__TRANSPORT_TCP)
			channel_ended(g, c, "lost");
	}
	bool first = !g->restored;
	/* Our predecessor may have died between changing the facts and ending what they refuse. */
	if (first)
		judge_all(g, "policy");
	g->restored = true;
	arrow_set_ready(g, ROLE_FABRIC);
	if (first) {
		publish_again(g);
		jobs_release(g);
	}
	g->dumping = false;
	if (g->dump_again)
		restore_again(g);
}

static void dumped(struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)ctx, (void)fds, (void)n_fds;
	const Belay__FromFabric *m = reply;
	if (error || m->error) {
		call_done(g, ROLE_FABRIC);
		g->dumping = false;
		/* The arrow is gone, or this fabric cannot tell: it is no use to us. */
		if (!error)
			arrow_surprise(g, ROLE_FABRIC, "it cannot say which sockets exist");
		return;
	}
	for (size_t i = 0; i < m->n_flows; i++)
		flow_seen(g, m->flows[i]);
	if (m->more)
		return;
	call_done(g, ROLE_FABRIC);
	restore_done(g);
}

static void bind_unsee(struct guard *g, struct bind *b, const void *x)
{
	(void)g, (void)x;
	if (!b->pending)
		b->unseen = true;
}

int restore_config(struct guard *g)
{
	Belay__FabricConfig o = BELAY__FABRIC_CONFIG__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr addr[NODE_ADDRESSES_MAX], *addr_ptr[NODE_ADDRESSES_MAX];
	Belay__Addr res[ARRAY_LEN(g->resolvers)], *res_ptr[ARRAY_LEN(g->resolvers)];
	for (size_t i = 0; i < g->n_addresses; i++) {
		addr[i] = pb_addr(&g->addresses[i]);
		addr_ptr[i] = &addr[i];
	}
	for (size_t i = 0; i < g->n_resolvers; i++) {
		res[i] = pb_addr(&g->resolvers[i]);
		res_ptr[i] = &res[i];
	}
	o.n_addresses = g->n_addresses;
	o.addresses = addr_ptr;
	o.n_resolvers = g->n_resolvers;
	o.resolvers = res_ptr;
	/* Whether names may be asked for is judged at each query; the relay itself is always there.
	 */
	o.dns = g->n_resolvers > 0;
	m.body_case = BELAY__TO_FABRIC__BODY_CONFIG;
	m.config = &o;
	return arrow_call_setup(g, ROLE_FABRIC, &m.base, 0, NULL, NULL);
}

static int dump_order(struct guard *g)
{
	Belay__FabricDump o = BELAY__FABRIC_DUMP__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	bind_each(g, bind_unsee, NULL);
	for (struct channel *c = channel_first(g); c; c = channel_next(c)) {
		c->unseen = true;
		c->late = 0;
	}
	m.body_case = BELAY__TO_FABRIC__BODY_DUMP;
	m.dump = &o;
	g->dump_again = false;
	int r = arrow_call_setup(g, ROLE_FABRIC, &m.base, CALL_STREAM, dumped, NULL);
	g->dumping = r == 0;
	return r;
}

void restore_fabric_up(struct guard *g)
{
	if (restore_config(g) < 0 || dump_order(g) < 0)
		log_warn("cannot set up the fabric's arrow");
}

/* One dump at a time: two would each take for lost what the other has yet to name. */
void restore_again(struct guard *g)
{
	if (g->dumping)
		g->dump_again = true;
	else if (dump_order(g) < 0)
		arrow_surprise(g, ROLE_FABRIC, "it cannot say which sockets exist");
}

/* ---- conn ---- */

static void conn_held(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)ctx, (void)fds, (void)n_fds;
	const Belay__FromConn *m = reply;
	bool ok = !error && m->body_case == BELAY__FROM_CONN__BODY_STATS;
	for (size_t i = 0; ok && i < m->stats->n_flow; i++) {
		const Belay__ConnFlow *f = m->stats->flow[i];
		struct channel *c =
			f->channel.len == CHANNEL_ID_LEN ? channel_find(g, f->channel.data) : NULL;
		if (c) {
			c->held = true;
			continue;
		}
		Belay__ConnEnd e = BELAY__CONN_END__INIT;
		Belay__ToConn out = BELAY__TO_CONN__INIT;
		e.channel = f->channel;
		e.reason = pb_text("the guard does not know it");
		out.body_case = BELAY__TO_CONN__BODY_END;
		out.end = &e;
		if (arrow_send(g, ROLE_CONN, &out.base, NULL, 0) < 0)
			log_error("cannot order conn to end an unknown channel");
	}
	if (ok && m->stats->more)
		return;
	call_done(g, ROLE_CONN);
	struct channel *c = channel_first(g), *next;
	for (; c && ok; c = next) {
		next = channel_next(c);
		if (c->via != CHANNEL_DIRECT && !c->held)
			channel_end(g, c, "conn was restarted");
	}
	if (ok)
		arrow_set_ready(g, ROLE_CONN);
}

void restore_conn_up(struct guard *g)
{
	Belay__ConnStats o = BELAY__CONN_STATS__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	for (struct channel *c = channel_first(g); c; c = channel_next(c))
		c->held = false;
	m.body_case = BELAY__TO_CONN__BODY_STATS;
	m.stats = &o;
	if (arrow_call_setup(g, ROLE_CONN, &m.base, CALL_STREAM, conn_held, NULL) < 0)
		log_warn("cannot set up conn's arrow");
}
