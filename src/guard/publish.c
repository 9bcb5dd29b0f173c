/*
 * Published ports. The dispatcher listens outside at the same address; who connects there is handed
 * to us unread, is judged against the rule of that moment, and conn carries bytes between it and a
 * connection inside the fabric that bears the visitor's true address.
 *
 * A visitor that is refused gets a reset, and can find out why: the refusal is remembered.
 */
#include "guard/publish.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/log.h"
#include "conn.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/limit.h"
#include "guard/pb.h"
#include "guard/refusals.h"
#include "guard/share.h"

struct visit {
	int fd;
	struct addr from, to;
	uint64_t published;
	struct verdict verdict;
	struct seat seat;
};

static int dispatcher_send(struct guard *g, Belay__FromComponent *m)
{
	return ipc_send(&g->component.dispatcher, &m->base, NULL, 0);
}

static void publish_verdict(
	struct guard *g, const struct bind *b, struct verdict *v, struct endpoint_question *q)
{
	*q = (struct endpoint_question){.operation = BELAY__OPERATION__OP_PUBLISH,
		.transport = b->transport,
		.from = b->subject,
		.address = &b->addr};
	decide_ask(g, q, v);
}

void publish_end(struct guard *g, struct bind *b)
{
	if (!b->publish)
		return;
	Belay__Unpublish u = BELAY__UNPUBLISH__INIT;
	Belay__FromComponent m = BELAY__FROM_COMPONENT__INIT;
	u.id = b->publish;
	m.body_case = BELAY__FROM_COMPONENT__BODY_UNPUBLISH;
	m.unpublish = &u;
	b->publish = 0;
	if (dispatcher_send(g, &m) < 0)
		log_error("cannot order the end of a published port");
}

static int publish_order(struct guard *g, const struct bind *b)
{
	Belay__Publish p = BELAY__PUBLISH__INIT;
	Belay__FromComponent m = BELAY__FROM_COMPONENT__INIT;
	p.id = b->publish;
	p.ip = pb_bytes(b->addr.ip, b->addr.ip_len);
	p.port = b->addr.port;
	m.body_case = BELAY__FROM_COMPONENT__BODY_PUBLISH;
	m.publish = &p;
	return dispatcher_send(g, &m);
}

static void again_one(struct guard *g, struct bind *b, const void *x)
{
	(void)x;
	if (b->publish && publish_order(g, b) < 0)
		log_error("cannot publish a port again");
}

void publish_again(struct guard *g)
{
	bind_each(g, again_one, NULL);
}

void publish_judge(struct guard *g, struct bind *b)
{
	struct verdict v;
	struct endpoint_question q;
	if (!b->listening || b->pending || b->transport != BELAY__TRANSPORT__TRANSPORT_TCP)
		return;
	publish_verdict(g, b, &v, &q);
	if (!v.allow) {
		publish_end(g, b);
		return;
	}
	if (b->publish || decide_record(g, &q, &v, b->tree) < 0)
		return;
	do
		randombytes_buf(&b->publish, sizeof(b->publish));
	while (!b->publish);
	if (bind_record(g, b) < 0 || publish_order(g, b) < 0) {
		log_error("cannot publish a port");
		b->publish = 0;
	}
}

bool publish_why(struct guard *g, const struct addr *a, uint32_t uid, bool whole, struct refusal *r)
{
	struct verdict v;
	struct endpoint_question q;
	struct bind *b = bind_find(g, BELAY__TRANSPORT__TRANSPORT_TCP, a);
	if (!b || b->publish)
		return false;
	char at[ADDR_TEXT_MAX];
	addr_format(a, true, at);
	publish_verdict(g, b, &v, &q);
	*r = (struct refusal){.when_ms = clock_wall_ms(), .uid = b->subject->evidence->uid};
	snprintf(r->address, sizeof(r->address), "%s", at);
	if (!whole && uid != r->uid) {
		snprintf(r->text, sizeof(r->text),
			"%s is open inside Belay only, not published (ask the instance's owner)",
			at);
		return true;
	}
	snprintf(r->to, sizeof(r->to), "%s", subject_name(b->subject));
	snprintf(r->rule, sizeof(r->rule), "%s", v.rule);
	snprintf(r->text, sizeof(r->text), "%s is %s's (pid %u), not published: %.80s", at, r->to,
		b->pid,
		v.allow ? "the port is taken outside of Belay, or needs a privilege" : v.why);
	if (!v.allow)
		decide_advice(g, &q, r->advice, sizeof(r->advice));
	return true;
}

struct finder {
	uint64_t id;
	struct bind **ret;
};

static void find_one(struct guard *g, struct bind *b, const void *x)
{
	(void)g;
	const struct finder *f = x;
	if (b->publish == f->id)
		*f->ret = b;
}

static struct bind *published(struct guard *g, uint64_t id)
{
	struct bind *b = NULL;
	struct finder f = {id, &b};
	if (id)
		bind_each(g, find_one, &f);
	return b;
}

void publish_answer(struct guard *g, const Belay__Publish *m)
{
	struct bind *b = published(g, m->id);
	char text[ADDR_TEXT_MAX];
	if (!b || !m->error)
		return;
	addr_format(&b->addr, true, text);
	log_warn("cannot publish %s: %s (is the port taken outside of Belay?)", text,
		strerror(-m->error));
	b->publish = 0;
}

static void visit_free(struct guard *g, struct visit *v)
{
	seat_leave(g, &v->seat);
	close(v->fd);
	free(v);
}

static void relayed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	uint8_t *id = ctx;
	const Belay__FromConn *m = reply;
	struct channel *c = channel_find(g, id);
	if (!error && m->body_case == BELAY__FROM_CONN__BODY_OPENED)
		error = m->opened->error;
	if (error && c)
		channel_end(g, c, "conn could not carry it");
	free(id);
}

static void visit_relay(struct guard *g, const struct channel *c, int program, int visitor)
{
	Belay__ConnRelay r = BELAY__CONN_RELAY__INIT;
	Belay__ToConn m = BELAY__TO_CONN__INIT;
	int fds[] = {program, visitor};
	r.channel = pb_bytes(c->id, sizeof(c->id));
	r.idle_ms = c->idle_limit_ms;
	m.body_case = BELAY__TO_CONN__BODY_RELAY;
	m.relay = &r;
	uint8_t *id = malloc(CHANNEL_ID_LEN);
	if (id)
		memcpy(id, c->id, CHANNEL_ID_LEN);
	if (!id || arrow_call(g, ROLE_CONN, &m.base, fds, 2, CALL_NOWAIT, relayed, id, NULL) < 0) {
		free(id);
		channel_end(g, channel_find(g, c->id), "conn is away");
	}
}

static void dialed(struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	struct visit *v = ctx;
	const Belay__FromFabric *m = reply;
	struct bind *b = published(g, v->published);
	if (!error)
		error = m->error;
	if (error || n_fds < 1 || !b) {
		visit_free(g, v);
		return;
	}
	struct channel t = {.via = CHANNEL_PLAIN,
		.transport = BELAY__TRANSPORT__TRANSPORT_TCP,
		.protection = BELAY__PROTECTION__PROTECTION_PLAIN,
		.a = v->from,
		.b = v->to,
		.to = b->subject,
		.published = true,
		.tree = b->tree,
		.idle_limit_ms = v->verdict.idle_ms};
	struct channel *c;
	snprintf(t.rule, sizeof(t.rule), "%s", v->verdict.rule);
	snprintf(t.limit_rule, sizeof(t.limit_rule), "%s", v->verdict.limit_rule);
	/* With a limit of visitors the port may be another one than theirs: the socket says. */
	struct addr local;
	if (m->local && pb_addr_read(m->local, &local) == 0 && local.ip_len)
		t.a = local;
	seat_leave(g, &v->seat);
	if (channel_new_id(t.id) == 0 && channel_start(g, &t, &c) == 0)
		visit_relay(g, c, fds[0], v->fd);
	visit_free(g, v);
}

void publish_connection(struct guard *g, const Belay__Connection *m, int *fds, size_t n_fds)
{
	struct bind *b = published(g, m->published);
	struct visit *v = n_fds == 1 && b ? calloc(1, sizeof(*v)) : NULL;
	struct endpoint_question q;
	if (!v)
		return;
	v->fd = take_fd(&fds[0]);
	v->published = m->published;
	v->to = b->addr;
	publish_verdict(g, b, &v->verdict, &q);
	seat_take(g, &v->verdict, &v->seat, share_subject(g, NULL));
	int r = addr_parse(m->remote, &v->from);
	q.visitor = &v->from;
	if (decide_record(g, &q, &v->verdict, b->tree) < 0 || !v->verdict.allow || r < 0) {
		visit_free(g, v);
		return;
	}
	if (addr_is_any(&v->to)) {
		/* The fabric's every address is local: any one of the family reaches the wildcard.
		 */
		v->to.ip[v->to.ip_len - 1] = 1;
		if (v->to.ip_len == 4)
			v->to.ip[0] = 127;
	}
	/* A dual-stack listener is visited over IPv4, too. */
	if (v->from.ip_len == 4 && v->to.ip_len == 16)
		v->to = (struct addr){.ip_len = 4, .ip = {127, 0, 0, 1}, .port = v->to.port};
	Belay__FabricDial d = BELAY__FABRIC_DIAL__INIT;
	Belay__ToFabric o = BELAY__TO_FABRIC__INIT;
	Belay__Addr from = pb_addr(&v->from), to = pb_addr(&v->to);
	d.source = &from;
	d.destination = &to;
	o.body_case = BELAY__TO_FABRIC__BODY_DIAL;
	o.dial = &d;
	if (arrow_call(g, ROLE_FABRIC, &o.base, NULL, 0, CALL_NOWAIT, dialed, v, NULL) < 0)
		visit_free(g, v);
}
