/*
 * The guard's entries in the audit log (auditing.h), and the log's checkpoints: a timer that runs
 * only while entries are unsealed asks the signer for a signature over the log's root.
 */
#include "guard/auditing.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "audit/audit.h"
#include "base/clock.h"
#include "base/log.h"
#include "guard/control.h"
#include "guard/pb.h"
#include "guard/repeats.h"
#include "signer.pb-c.h"

#define AUDIT_DIR "audit"
#define AUDITING_WAITS_MAX 32

struct auditing {
	uv_timer_t timer; /* first: its closing frees the whole */
	struct audit_log *log;
	char origin[AUDIT_ORIGIN_MAX];
	bool key_known, broken;
	uint64_t left;      /* entries a predecessor had not sealed, until that is logged */
	uint64_t sealed_to; /* entries of the checkpoint under way */
	struct {
		uint64_t client, size;
	} waiting[AUDITING_WAITS_MAX];
	size_t n_waiting;
};

static void timer_fired(uv_timer_t *t);

static void timer_arm(struct guard *g)
{
	struct auditing *a = g->auditing;
	uint64_t wait =
		a->key_known ? audit_checkpoint_wait_ms(a->log, clock_mono_ms()) : UINT64_MAX;
	if (wait == UINT64_MAX) {
		uv_timer_stop(&a->timer);
	} else if (wait == 0 || !uv_is_active((uv_handle_t *)&a->timer)) {
		uv_update_time(&g->component.loop);
		uv_timer_start(&a->timer, timer_fired, wait, 0);
	}
}

int auditing_init(struct guard *g, struct error *e)
{
	int state = g->component.heritage.state_dir;
	if (mkdirat(state, AUDIT_DIR, 0700) < 0 && errno != EEXIST)
		return error_errno(e, -errno, "cannot make the audit log's directory");
	_cleanup_close_ int dir = openat(state, AUDIT_DIR, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0)
		return error_errno(e, -errno, "cannot open the audit log's directory");
	g->auditing = calloc(1, sizeof(*g->auditing));
	if (!g->auditing)
		return error_errno(e, -ENOMEM, "cannot open the audit log");
	g->auditing->timer.data = g;
	uv_timer_init(&g->component.loop, &g->auditing->timer);
	int r = audit_open(dir, &g->auditing->log, e);
	g->auditing->left = r < 0 ? 0 : audit_unsealed(g->auditing->log);
	return r;
}

static void timer_closed(uv_handle_t *h)
{
	free(h);
}

void auditing_deinit(struct guard *g)
{
	if (!g->auditing)
		return;
	audit_close(g->auditing->log);
	uv_close((uv_handle_t *)&g->auditing->timer, timer_closed);
	g->auditing = NULL;
}

uint64_t auditing_size(struct guard *g)
{
	return audit_size(g->auditing->log);
}

const char *auditing_key(struct guard *g)
{
	return audit_key_text(g->auditing->log);
}

bool auditing_broken(struct guard *g)
{
	return g->auditing->broken;
}

int auditing_write(struct guard *g, const struct audit_record *r)
{
	struct auditing *a = g->auditing;
	int n = audit_record(a->log, r);
	if (n < 0 && !a->broken)
		log_error("cannot write the audit log: %s; nothing new is allowed until it can be "
			  "written (is the disc full?)",
			strerror(-n));
	a->broken = n < 0;
	if (n == 0)
		timer_arm(g);
	return n;
}

/* ---- checkpoints ---- */

/* Answers who waited for entries that are sealed now; all of them when there is no hope. */
static void waits_answer(struct guard *g, uint64_t sealed)
{
	struct auditing *a = g->auditing;
	for (size_t i = a->n_waiting; i-- > 0;) {
		if (a->waiting[i].size > sealed)
			continue;
		uint64_t client = a->waiting[i].client;
		a->waiting[i] = a->waiting[--a->n_waiting];
		control_sealed(g, client);
	}
}

static void checkpoint_begin(struct guard *g);

static void checkpoint_signed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)ctx, (void)fds, (void)n_fds;
	const Belay__FromSigner *m = reply;
	struct auditing *a = g->auditing;
	if (!error)
		error = m->error;
	if (!error)
		error = audit_checkpoint_put(a->log, (const char *)m->data.data, m->data.len);
	if (error) {
		log_warn("no checkpoint: %s", strerror(-error));
		audit_checkpoint_failed(a->log);
		waits_answer(g, UINT64_MAX);
		if (error == -EPIPE)
			return; /* auditing_signer_up() goes on */
	}
	waits_answer(g, a->sealed_to);
	if (a->n_waiting)
		checkpoint_begin(g);
	else
		timer_arm(g);
}

static void checkpoint_begin(struct guard *g)
{
	struct auditing *a = g->auditing;
	uint8_t root[AUDIT_ROOT_LEN];
	uint64_t size;
	int r = audit_checkpoint_root(a->log, &size, root);
	if (r == -EALREADY)
		return; /* its answer looks again */
	if (r < 0) {
		log_warn("cannot begin a checkpoint: %s", strerror(-r));
		waits_answer(g, UINT64_MAX);
		return;
	}
	a->sealed_to = size;
	Belay__SignCheckpoint o = BELAY__SIGN_CHECKPOINT__INIT;
	Belay__ToSigner m = BELAY__TO_SIGNER__INIT;
	o.origin = a->origin;
	o.size = size;
	o.root = pb_bytes(root, sizeof(root));
	m.body_case = BELAY__TO_SIGNER__BODY_CHECKPOINT;
	m.checkpoint = &o;
	r = arrow_call(
		g, ROLE_SIGNER, &m.base, NULL, 0, CALL_NOWAIT, checkpoint_signed, NULL, NULL);
	if (r < 0) {
		audit_checkpoint_failed(a->log);
		waits_answer(g, UINT64_MAX);
	}
}

static void timer_fired(uv_timer_t *t)
{
	struct guard *g = t->data;
	struct auditing *a = g->auditing;
	if (a->key_known && audit_checkpoint_wait_ms(a->log, clock_mono_ms()) == 0)
		checkpoint_begin(g);
	else
		timer_arm(g);
}

void auditing_seal(struct guard *g, uint64_t client)
{
	struct auditing *a = g->auditing;
	if (!a->key_known || !audit_unsealed(a->log) || a->n_waiting == AUDITING_WAITS_MAX) {
		control_sealed(g, client);
		return;
	}
	a->waiting[a->n_waiting].client = client;
	a->waiting[a->n_waiting++].size = audit_size(a->log);
	checkpoint_begin(g);
}

static void key_told(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)ctx, (void)fds, (void)n_fds;
	const Belay__FromSigner *m = reply;
	struct auditing *a = g->auditing;
	struct error e = ERROR_INIT;
	if (!error)
		error = m->error;
	if (!error && m->audit_public.len != 32)
		error = -EPROTO;
	if (error) {
		log_warn("the signer did not tell its key: %s", strerror(-error));
		return;
	}
	if (audit_key_set(a->log, m->audit_key_name, m->audit_public.data, &e) < 0) {
		log_error("%s; the log stays unsealed", e.text);
		return;
	}
	snprintf(a->origin, sizeof(a->origin), "%s", m->audit_key_name);
	a->key_known = true;
	if (a->left) {
		struct audit_record r = {.type = AUDIT_CHECKPOINT_RESUME, .count = a->left};
		if (auditing_write(g, &r) < 0)
			log_error("cannot log the resumption of checkpoints");
		a->left = 0;
	}
	timer_arm(g);
}

void auditing_signer_up(struct guard *g)
{
	Belay__SignerPublic o = BELAY__SIGNER_PUBLIC__INIT;
	Belay__ToSigner m = BELAY__TO_SIGNER__INIT;
	m.body_case = BELAY__TO_SIGNER__BODY_PUBLIC_KEYS;
	m.public_keys = &o;
	if (arrow_call(g, ROLE_SIGNER, &m.base, NULL, 0, CALL_NOWAIT, key_told, NULL, NULL) < 0)
		log_warn("cannot ask the signer for its key");
}

/* ---- entries ---- */

static const char *const ops[] = {NULL, "run", "connect", "bind", "publish"};
static const char *const transports[] = {"tcp", "udp", "unix"};
static const char *const protections[] = {"isolate", "encrypt", "plain"};

static struct audit_party party(const struct guard *g, const struct subject *s)
{
	struct audit_party p = {0};
	if (!s)
		return p;
	p.program = s->n_programs ? s->programs[0] : NULL;
	p.path = s->evidence->exe_path;
	p.sha256 = s->evidence->exe_sha256.len == 32 ? s->evidence->exe_sha256.data : NULL;
	p.user = s->user;
	p.uid = s->evidence->uid;
	p.pid = s->evidence->pid;
	p.node = s->node[0] ? s->node : g->node[0] ? g->node : NULL;
	return p;
}

int auditing_decision(
	struct guard *g, const struct endpoint_question *q, const struct verdict *v, uint64_t alike)
{
	struct audit_record r = {.type = AUDIT_DECISION,
		.verdict = v->allow ? AUDIT_ALLOW : AUDIT_DENY,
		.op = ops[q->operation],
		.transport =
			q->operation == BELAY__OPERATION__OP_RUN ? NULL : transports[q->transport],
		.rule = v->rule[0] ? v->rule : NULL,
		.reason = v->why[0] ? v->why : NULL,
		.permissive = v->permissive,
		.from = party(g, q->from),
		.to = party(g, q->to)};
	if (v->allow && q->operation == BELAY__OPERATION__OP_CONNECT)
		r.protection = protections[v->protection];
	struct audit_party *at = q->operation == BELAY__OPERATION__OP_CONNECT ? &r.to : &r.from;
	at->address = q->address;
	at->unix_path = q->unix_path;
	return v->allow ? auditing_write(g, &r)
			: repeats_record(
				  g, alike, share_subject(g, q->visitor ? NULL : q->from), &r);
}

static void channel_fill(struct guard *g, const struct channel *c, struct audit_record *r)
{
	r->transport = transports[c->transport];
	r->protection = protections[c->protection];
	r->rule = c->rule[0] ? c->rule : NULL;
	r->channel = c->id;
	r->from = party(g, c->from);
	r->to = party(g, c->to);
	r->from.address = &c->a;
	r->to.address = &c->b;
}

int auditing_channel_start(struct guard *g, const struct channel *c)
{
	struct audit_record r = {
		.type = AUDIT_CHANNEL_START, .reason = c->leased ? "leased" : NULL};
	channel_fill(g, c, &r);
	return auditing_write(g, &r);
}

void auditing_channel_end(struct guard *g, const struct channel *c, const char *reason)
{
	struct audit_record r = {.type = AUDIT_CHANNEL_END,
		.reason = reason,
		.has_bytes = true,
		.bytes_sent = c->bytes_ab,
		.bytes_received = c->bytes_ba};
	channel_fill(g, c, &r);
	if (auditing_write(g, &r) < 0)
		log_error("cannot log the end of a channel");
}

void auditing_component(
	struct guard *g, enum role role, uint32_t pid, const char *what, const char *how)
{
	bool start = !strcmp(what, "start");
	struct audit_record r = {.type = start ? AUDIT_COMPONENT_START : AUDIT_COMPONENT_END,
		.subject = role_name(role),
		.reason = how[0] ? how : what,
		.from = {.pid = pid, .program = "belay"}};
	if (g->auditing && g->auditing->log && auditing_write(g, &r) < 0)
		log_error("cannot log what became of %s", role_name(role));
}

int auditing_policy(
	struct guard *g, uint32_t uid, const char *detail, const uint8_t sha256[32], uint64_t rules)
{
	char by[16];
	snprintf(by, sizeof(by), "%u", uid);
	struct audit_record r = {.type = AUDIT_POLICY_LOAD,
		.subject = detail,
		.sha256 = sha256,
		.by = by,
		.count = rules};
	return auditing_write(g, &r);
}

int auditing_tree(
	struct guard *g, bool start, uint64_t tree, uint32_t pid, uint32_t uid, const char *as)
{
	(void)tree;
	struct audit_record r = {.type = start ? AUDIT_TREE_START : AUDIT_TREE_END,
		.subject = as[0] ? as : NULL,
		.from = {.pid = pid, .uid = uid}};
	return auditing_write(g, &r);
}

static uint64_t hash_texts(const struct guard *g, const char *a, const char *b)
{
	return share_node(g, a) * 31 + share_node(g, b);
}

int auditing_admin(struct guard *g, uint32_t uid, const char *what, const char *detail, int error)
{
	static const struct {
		const char *what;
		enum audit_type type;
	} types[] = {{"enroll", AUDIT_ENROL}, {"unenroll", AUDIT_UNENROL}, {"revoke", AUDIT_REVOKE},
		{"node-up", AUDIT_NODE_UP}, {"node-down", AUDIT_NODE_DOWN},
		{"node-join", AUDIT_NODE_JOIN}, {"node-remove", AUDIT_NODE_REMOVE},
		{"tamper", AUDIT_TAMPER}};
	char by[16];
	snprintf(by, sizeof(by), "%u", uid);
	struct audit_record r = {.type = AUDIT_ADMIN, .op = what, .subject = detail, .by = by};
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		if (strcmp(types[i].what, what))
			continue;
		r.type = types[i].type;
		r.op = NULL;
	}
	if (error)
		r.reason = strerror(-error);
	/* What other nodes can bring about as often as they like. */
	if (!uid && !strncmp(what, "node-", 5) && r.type != AUDIT_NODE_JOIN &&
		r.type != AUDIT_NODE_REMOVE)
		return repeats_record(g, hash_texts(g, what, detail), share_node(g, detail), &r);
	return auditing_write(g, &r);
}
