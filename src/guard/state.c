/*
 * Our structs as records of the state table (state.h). Evidence is shortened: what decides and what
 * people must see stays, paths keep their ends. What still does not fit is refused, because a
 * record without one of its groups could be judged differently than the thing it describes.
 */
#include "guard/state.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "guard/pb.h"
#include "identity/evidence.h"
#include "state.pb-c.h"

#define STATE_PATH_MAX 96

static int put(struct guard *g, Belay__StateRecord *m)
{
	uint8_t buf[STATE_PAYLOAD_MAX];
	size_t len = protobuf_c_message_get_packed_size(&m->base);
	if (len > sizeof(buf))
		return -EMSGSIZE;
	protobuf_c_message_pack(&m->base, buf);
	return state_table_put(g->state, buf, len);
}

static char *path_end(const char *path)
{
	size_t n = strlen(path);
	return pb_text(n > STATE_PATH_MAX ? path + n - STATE_PATH_MAX : path);
}

static Belay__Evidence shorten(const Belay__Evidence *e)
{
	Belay__Evidence s = BELAY__EVIDENCE__INIT;
	s.pid = e->pid;
	s.start_time = e->start_time;
	s.pidfd_inode = e->pidfd_inode;
	s.uid = e->uid;
	s.gid = e->gid;
	s.exe_path = path_end(e->exe_path);
	s.exe_sha256 = e->exe_sha256;
	s.exe_size = e->exe_size;
	s.name = e->name;
	s.script_path = path_end(e->script_path);
	s.script_sha256 = e->script_sha256;
	s.interpreter = e->interpreter;
	s.anonymous_exec = e->anonymous_exec;
	return s;
}

#define STATE_FOREIGN_MAX 3
#define STATE_FOREIGN_LEN 80 /* the mark and a digest */

struct subject_msg {
	Belay__StateSubject m;
	Belay__Evidence evidence;
	char foreign[STATE_FOREIGN_MAX][STATE_FOREIGN_LEN], *foreign_ptr[STATE_FOREIGN_MAX];
	char *programs[SUBJECT_PROGRAMS_MAX], *groups[SUBJECT_PROGRAMS_MAX];
};

/*
 * The digests of what it has mapped, without their paths. More than there is room for become one
 * that is enrolled nowhere: a successor must not take it for more than it was.
 */
static void foreign_fill(struct subject_msg *b, const Belay__Evidence *e)
{
	size_t n = 0;
	for (; n < e->n_foreign && n < STATE_FOREIGN_MAX; n++) {
		const char *mark = NULL;
		for (const char *p = e->foreign[n]; (p = strstr(p, FOREIGN_MARK)); p++)
			mark = p;
		if (!mark || strlen(mark) + 2 > STATE_FOREIGN_LEN)
			break;
		snprintf(b->foreign[n], STATE_FOREIGN_LEN, "?%s", mark);
	}
	if (n < e->n_foreign)
		snprintf(b->foreign[n ? --n : 0], STATE_FOREIGN_LEN, "?" FOREIGN_MARK "-"), n++;
	for (size_t i = 0; i < n; i++)
		b->foreign_ptr[i] = b->foreign[i];
	b->evidence.foreign = b->foreign_ptr;
	b->evidence.n_foreign = n;
}

static Belay__StateSubject *subject_fill(struct subject_msg *b, const struct subject *s)
{
	if (!s)
		return NULL;
	b->m = (Belay__StateSubject)BELAY__STATE_SUBJECT__INIT;
	b->evidence = shorten(s->evidence);
	foreign_fill(b, s->evidence);
	b->m.evidence = &b->evidence;
	for (size_t i = 0; i < s->n_programs; i++)
		b->programs[i] = pb_text(s->programs[i]);
	for (size_t i = 0; i < s->n_groups; i++)
		b->groups[i] = pb_text(s->groups[i]);
	b->m.n_programs = s->n_programs;
	b->m.programs = b->programs;
	b->m.n_groups = s->n_groups;
	b->m.groups = b->groups;
	b->m.user = pb_text(s->user);
	b->m.node = pb_text(s->node);
	b->m.principal = s->principal;
	return &b->m;
}

int state_put_tree(
	struct guard *g, uint64_t tree, uint32_t pid, uint32_t uid, const char *as, bool ran)
{
	Belay__StateTree t = BELAY__STATE_TREE__INIT;
	Belay__StateRecord m = BELAY__STATE_RECORD__INIT;
	t.tree = tree;
	t.pid = pid;
	t.uid = uid;
	t.as = pb_text(as);
	t.ran = ran;
	m.body_case = BELAY__STATE_RECORD__BODY_TREE;
	m.tree = &t;
	return put(g, &m);
}

int state_put_bind(struct guard *g, const struct bind *b)
{
	Belay__StateBind s = BELAY__STATE_BIND__INIT;
	Belay__StateRecord m = BELAY__STATE_RECORD__INIT;
	Belay__Addr addr = pb_addr(&b->addr);
	struct subject_msg subject;
	s.addr = &addr;
	s.transport = b->transport;
	s.v6only = b->v6only;
	s.listening = b->listening;
	s.inode = b->inode;
	s.tree = b->tree;
	s.pid = b->pid;
	s.subject = subject_fill(&subject, b->subject);
	s.rule = pb_text(b->rule);
	s.publish = b->publish;
	s.chosen = b->chosen;
	m.body_case = BELAY__STATE_RECORD__BODY_BIND;
	m.bind = &s;
	return put(g, &m);
}

/* The message and what its pointers point to. */
struct channel_msg {
	Belay__StateChannel m;
	Belay__Addr a, b, dialed;
	struct subject_msg from, to;
};

static Belay__StateChannel *channel_fill(struct channel_msg *x, const struct channel *c)
{
	Belay__StateChannel *s = &x->m;
	belay__state_channel__init(s);
	x->a = pb_addr(&c->a);
	x->b = pb_addr(&c->b);
	x->dialed = pb_addr(&c->dialed);
	s->id = pb_bytes(c->id, sizeof(c->id));
	s->via = c->via;
	s->transport = c->transport;
	s->protection = c->protection;
	s->a = &x->a;
	s->b = &x->b;
	s->from = subject_fill(&x->from, c->from);
	s->to = subject_fill(&x->to, c->to);
	s->initiator = c->initiator;
	s->mark = c->mark;
	s->tree = c->tree;
	s->started_wall_ms = c->started_wall_ms;
	s->started_ms = c->started_ms;
	s->idle_limit_ms = c->idle_limit_ms;
	s->rule = pb_text(c->rule);
	s->limit_rule = pb_text(c->limit_rule);
	s->dns = c->dns;
	s->published = c->published;
	s->dialed = &x->dialed;
	return s;
}

int state_put_channel(struct guard *g, const struct channel *c)
{
	Belay__StateRecord m = BELAY__STATE_RECORD__INIT;
	struct channel_msg x;
	m.body_case = BELAY__STATE_RECORD__BODY_CHANNEL;
	m.channel = channel_fill(&x, c);
	return put(g, &m);
}

int state_put_lease(struct guard *g, uint32_t lease, uint32_t generation, const struct channel *c)
{
	Belay__StateRecord m = BELAY__STATE_RECORD__INIT;
	Belay__StateLease l = BELAY__STATE_LEASE__INIT;
	struct channel_msg x;
	l.lease = lease;
	l.generation = generation;
	l.channel = channel_fill(&x, c);
	m.body_case = BELAY__STATE_RECORD__BODY_LEASE;
	m.lease = &l;
	return put(g, &m);
}

void state_drop(struct guard *g, int slot)
{
	if (slot > 0)
		state_table_drop(g->state, slot);
}
