/* Requests that look: status, channels, why, whoami, audit; and run, which starts a tree. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "guard/auditing.h"
#include "guard/channel.h"
#include "guard/control.h"
#include "guard/parts.h"
#include "guard/pb.h"
#include "guard/policies.h"
#include "guard/process.h"
#include "guard/publish.h"
#include "guard/refusals.h"
#include "guard/tree.h"
#include "identity/evidence.h"
#include "registry/registry.h"

#define PROMISE_HOST "programs of all users are held to policy; root is trusted"
#define PROMISE_PRIVATE                                                                          \
	"bound programs are held to policy, also against each other; an unbound program of the " \
	"same user is not constrained"

static size_t part_rows(struct guard *g, Belay__ComponentRow *row, Belay__ComponentRow **rows)
{
	size_t n = 0;
	for (int i = 1; i < _ROLE_N; i++) {
		const struct part *p = &g->parts->part[i];
		row[n] = (Belay__ComponentRow)BELAY__COMPONENT_ROW__INIT;
		row[n].role = pb_text(role_name((enum role)i));
		row[n].pid = i == ROLE_GUARD ? (uint32_t)getpid() : p->alive ? p->pid : 0;
		row[n].uid = i == ROLE_GUARD              ? getuid()
			     : g->component.heritage.host ? p->uid
							  : g->component.heritage.owner_uid;
		row[n].restarts = i == ROLE_GUARD && g->component.heritage.generation
					  ? g->component.heritage.generation - 1
					  : p->restarts;
		rows[n] = &row[n];
		n++;
	}
	return n;
}

static size_t warnings(struct guard *g, char *w[8])
{
	static const enum role needed[] = {ROLE_ATTEST, ROLE_FABRIC, ROLE_ENFORCE, ROLE_SIGNER};
	static const char *const missing[] = {
		"attest is not there: nobody can be identified, new decisions wait",
		"the fabric is not there: open channels flow, new ones wait",
		"enforce is not there: trapped calls wait for its successor",
		"the signer is not there: the log grows without new checkpoints"};
	size_t n = 0;
	for (size_t i = 0; i < ARRAY_LEN(needed); i++)
		if (!arrow_up(g, needed[i]))
			w[n++] = pb_text(missing[i]);
	if (auditing_broken(g))
		w[n++] = pb_text("the audit log cannot be written: nothing new is allowed");
	if (!g->restored)
		w[n++] = pb_text("the state of before is not restored yet: questions wait");
	return n;
}

void control_status(struct client *c)
{
	struct guard *g = c->guard;
	Belay__ComponentRow row[_ROLE_N], *rows[_ROLE_N];
	char *warn[8], policy[160], audit[sizeof(g->state_path) + 8];
	Belay__StatusReply s = BELAY__STATUS_REPLY__INIT;
	Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
	bool host = g->component.heritage.host;
	policies_describe(g, policy, sizeof(policy));
	snprintf(audit, sizeof(audit), "%s/audit", g->state_path);
	s.kind = pb_text(host ? "host" : "private");
	s.dir = g->component.heritage.dir;
	s.version = pb_text(BELAY_VERSION);
	s.uid = g->component.heritage.owner_uid;
	s.node = g->node;
	s.policy = policy;
	s.policy_rules = policies_current(g) ? policy_rules(policies_current(g)) : 0;
	s.policy_loaded_ms = policies_loaded_ms(g);
	s.channels = channels_count(g);
	s.trees = trees_count(g);
	s.programs = registry_programs(g->registry);
	s.n_components = part_rows(g, row, rows);
	s.components = rows;
	s.audit_dir = audit;
	s.audit_size = auditing_size(g);
	s.audit_key = pb_text(auditing_key(g));
	s.n_warnings = warnings(g, warn);
	s.warnings = warn;
	s.uptime_ms = clock_mono_ms() - g->started_ms;
	s.promise = pb_text(host ? PROMISE_HOST : PROMISE_PRIVATE);
	m.status = &s;
	control_reply(g, c->id, &m);
}

/* Who reads the log wants what has happened so far to be sealed: the answer waits for that. */
void control_audit(struct client *c)
{
	auditing_seal(c->guard, c->id);
}

void control_sealed(struct guard *g, uint64_t client)
{
	struct client *c = control_client(g, client);
	if (c)
		control_status(c);
}

/* ---- channels ---- */

#define CHANNELS_PER_REPLY 64

struct channel_row {
	Belay__ChannelRow row;
	Belay__ChannelEndRow from, to;
	Belay__Addr a, b;
};

static const char *const protections[] = {"isolate", "encrypt", "plain"};

static void end_row(Belay__ChannelEndRow *e, const struct subject *s, Belay__Addr *a)
{
	*e = (Belay__ChannelEndRow)BELAY__CHANNEL_END_ROW__INIT;
	e->address = a;
	if (!s) {
		e->program = pb_text("outside");
		return;
	}
	e->program = pb_text(subject_name(s));
	e->user = pb_text(s->user);
	e->uid = s->evidence->uid;
	e->pid = s->evidence->pid;
	e->node = pb_text(s->node);
}

static void channel_fill(struct channel_row *r, const struct channel *c)
{
	uint64_t now = clock_mono_ms();
	r->row = (Belay__ChannelRow)BELAY__CHANNEL_ROW__INIT;
	r->a = pb_addr(&c->a);
	r->b = pb_addr(&c->b);
	end_row(&r->from, c->from, &r->a);
	end_row(&r->to, c->to, &r->b);
	r->row.channel = pb_bytes(c->id, sizeof(c->id));
	r->row.from = &r->from;
	r->row.to = &r->to;
	r->row.rule = pb_text(c->rule);
	r->row.protection = pb_text(protections[c->protection]);
	r->row.bytes_sent = c->bytes_ab;
	r->row.bytes_received = c->bytes_ba;
	r->row.age_ms = now - c->started_ms;
	r->row.idle_ms = c->idle_ms;
	r->row.state = pb_text(c->why_ending ? "ending" : c->dns ? "name service" : "open");
	r->row.transport = c->transport;
}

static void channels_counted(struct guard *g, uint64_t client)
{
	struct channel *c = channel_first(g);
	do {
		struct channel_row r[CHANNELS_PER_REPLY];
		Belay__ChannelRow *rows[CHANNELS_PER_REPLY];
		Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
		for (; c && m.n_channels < CHANNELS_PER_REPLY; c = channel_next(c)) {
			channel_fill(&r[m.n_channels], c);
			rows[m.n_channels] = &r[m.n_channels].row;
			m.n_channels++;
		}
		m.channels = rows;
		m.more = c != NULL;
		control_reply(g, client, &m);
	} while (c && control_client(g, client));
}

static void ended_row(struct channel_row *r, const struct ended *e)
{
	channel_fill(r, &e->copy);
	Belay__ChannelEndRow *f = &r->from, *t = &r->to;
	if (e->from_pid)
		*f = (Belay__ChannelEndRow)BELAY__CHANNEL_END_ROW__INIT;
	if (e->to_pid)
		*t = (Belay__ChannelEndRow)BELAY__CHANNEL_END_ROW__INIT;
	f->address = &r->a;
	t->address = &r->b;
	f->program = e->from_pid ? pb_text(e->from) : f->program;
	t->program = e->to_pid ? pb_text(e->to) : t->program;
	f->user = pb_text(e->from_user);
	t->user = pb_text(e->to_user);
	f->node = pb_text(e->from_node);
	t->node = pb_text(e->to_node);
	f->pid = e->from_pid;
	t->pid = e->to_pid;
	f->uid = e->from_uid;
	t->uid = e->to_uid;
	r->row.age_ms = e->ended_ms - e->copy.started_ms;
	r->row.state = pb_text(e->reason);
}

static void channels_ended(struct client *c)
{
	struct guard *g = c->guard;
	uint64_t id = c->id;
	size_t i = 0;
	const struct ended *e = channel_ended_get(g, i);
	do {
		struct channel_row r[CHANNELS_PER_REPLY];
		Belay__ChannelRow *rows[CHANNELS_PER_REPLY];
		Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
		for (; e && m.n_channels < CHANNELS_PER_REPLY; e = channel_ended_get(g, ++i)) {
			ended_row(&r[m.n_channels], e);
			rows[m.n_channels] = &r[m.n_channels].row;
			m.n_channels++;
		}
		m.channels = rows;
		m.more = e != NULL;
		control_reply(g, id, &m);
	} while (e && control_client(g, id));
}

void control_channels(struct client *c, const Belay__ChannelsRequest *m)
{
	if (m->ended)
		channels_ended(c);
	else
		channel_refresh(c->guard, channels_counted, c->id);
}

/* ---- why ---- */

#define WHY_PER_REPLY 20

static void why_fill(Belay__WhyRow *w, const struct refusal *r)
{
	*w = (Belay__WhyRow)BELAY__WHY_ROW__INIT;
	w->when_ms = r->when_ms;
	w->text = pb_text(r->text);
	w->rule = pb_text(r->rule);
	w->advice = pb_text(r->advice);
	w->from = pb_text(r->from);
	w->to = pb_text(r->to);
	w->address = pb_text(r->address);
	w->count = r->count ? r->count : 1;
}

void control_why(struct client *c, const Belay__WhyRequest *m)
{
	struct guard *g = c->guard;
	Belay__WhyRow row[WHY_PER_REPLY], *rows[WHY_PER_REPLY];
	Belay__ControlReply reply = BELAY__CONTROL_REPLY__INIT;
	const struct refusal *r;
	struct refusal closed;
	struct addr a;
	size_t i = 0;
	/* Who came from outside met a closed port: nobody was asked, so nothing is in the ring. */
	if (m->address[0] && addr_parse(m->address, &a) == 0 && a.port &&
		publish_why(g, &a, c->uid, c->admin, &closed)) {
		rows[0] = &row[0];
		why_fill(&row[reply.n_why++], &closed);
	}
	while (reply.n_why < WHY_PER_REPLY && (r = refusals_get(g, &i, m->pid, m->address))) {
		/* What programs of other users tried is theirs and the owner's to know. */
		if (!c->admin && r->uid != c->uid)
			continue;
		rows[reply.n_why] = &row[reply.n_why];
		why_fill(&row[reply.n_why++], r);
	}
	reply.why = rows;
	control_reply(g, c->id, &reply);
}

/* ---- whoami ---- */

static void whoami_reply(struct guard *g, uint64_t client, struct subject *s)
{
	Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
	struct evidence facts;
	char *matches[SUBJECT_PROGRAMS_MAX];
	size_t len;
	_cleanup_free_ char *json = malloc(EVIDENCE_JSON_MAX);
	if (!json || evidence_from_msg(s->evidence, &facts) < 0 ||
		evidence_json(&facts, json, EVIDENCE_JSON_MAX, &len) < 0) {
		control_error(g, client, -ENOMEM, "the evidence cannot be shown");
		return;
	}
	for (size_t i = 0; i < s->n_programs; i++)
		matches[m.n_matches++] = s->programs[i];
	m.matches = matches;
	m.json = json;
	m.text = s->why_not;
	control_reply(g, client, &m);
}

static void whoami_known(struct guard *g, void *ctx, int error, struct subject *s)
{
	uint64_t client = *(uint64_t *)ctx;
	struct client *c = control_client(g, client);
	free(ctx);
	if (c)
		c->wait = NULL;
	if (error)
		control_error(g, client, error, "that process cannot be identified: %s",
			strerror(-error));
	else if (c && !c->admin && s->evidence->uid != c->uid)
		control_error(g, client, -EPERM, "that process belongs to another user");
	else
		whoami_reply(g, client, s);
}

void control_whoami(struct client *c, const Belay__WhoamiRequest *m)
{
	struct guard *g = c->guard;
	if (!m->pid || m->pid == c->pid) {
		whoami_reply(g, c->id, c->subject);
		return;
	}
	_cleanup_close_ int pidfd = (int)syscall(SYS_pidfd_open, m->pid, 0);
	uint64_t *ctx = pidfd < 0 ? NULL : malloc(sizeof(*ctx));
	if (!ctx) {
		control_error(g, c->id, -ESRCH, "there is no process %u", m->pid);
		return;
	}
	*ctx = c->id;
	process_ask(g, m->pid, pidfd, 0, false, whoami_known, ctx, NULL);
}

/* ---- run ---- */

void control_run(struct client *c, const Belay__RunRequest *m)
{
	struct guard *g = c->guard;
	uint64_t tree;
	if (m->as[0] && !registry_knows(g->registry, m->as)) {
		control_error(g, c->id, -ENOENT,
			"no program is enrolled as '%.64s' (try belay programs)", m->as);
		return;
	}
	if (m->token.len != TREE_TOKEN_LEN) {
		control_error(g, c->id, -EINVAL, "a run needs a token of its own");
		return;
	}
	int r = tree_start(g, c->pid, c->uid, m->as, m->token.data, &tree);
	if (r < 0) {
		control_error(g, c->id, r, "cannot keep a record of the run: %s", strerror(-r));
		return;
	}
	tree_give(g, tree, c->id, c->fds, c->n_fds);
}
