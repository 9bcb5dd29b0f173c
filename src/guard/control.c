/*
 * The control socket's connections, passed by the dispatcher with what the kernel says of the peer.
 *
 * Anybody may connect. A connection holds one request at a time, is closed when it is malformed,
 * idle for CONTROL_TIMEOUT_MS, or says more while it is answered. Who asks is identified like any
 * other process: inside a run tree nobody may ask, because a bound program must not reach its own
 * administration. Changing anything needs the instance's owner.
 *
 * Requests are answered by number of client: a client that left is not waited for.
 */
#include "guard/control.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/discard.h"
#include "base/log.h"
#include "guard/lease.h"
#include "guard/pb.h"
#include "guard/process.h"
#include "ipc/control.h"

struct controls {
	LIST_HEAD(, client) list;
	size_t n;
	uint64_t last_id;
};

int controls_init(struct guard *g)
{
	g->controls = calloc(1, sizeof(*g->controls));
	return g->controls ? 0 : -ENOMEM;
}

static void timer_free(uv_handle_t *h)
{
	free(h);
}

static void request_clear(struct client *c)
{
	for (size_t i = 0; i < c->n_fds; i++)
		if (c->fds[i] >= 0)
			(void)fds_discard(c->fds[i]);
	c->n_fds = 0;
	ipc_free(c->request);
	c->request = NULL;
	enrolling_free(c->enrolling);
	c->enrolling = NULL;
	c->busy = false;
}

static void client_free(struct client *c)
{
	LIST_REMOVE(c, link);
	c->guard->controls->n--;
	process_forget_wait(c->wait);
	request_clear(c);
	ipc_chan_deinit(&c->chan);
	if (c->timer)
		uv_close((uv_handle_t *)c->timer, timer_free);
	subject_unref(c->subject);
	if (c->pidfd >= 0)
		close(c->pidfd);
	free(c);
}

void controls_deinit(struct guard *g)
{
	while (g->controls && !LIST_EMPTY(&g->controls->list))
		client_free(LIST_FIRST(&g->controls->list));
	free(g->controls);
	g->controls = NULL;
}

struct client *control_client(struct guard *g, uint64_t id)
{
	struct client *c;
	LIST_FOREACH (c, &g->controls->list, link)
		if (c->id == id)
			return c;
	return NULL;
}

/* ---- replies ---- */

void control_reply(struct guard *g, uint64_t id, const void *reply)
{
	const Belay__ControlReply *m = reply;
	struct client *c = control_client(g, id);
	if (!c)
		return;
	/* An empty message has no bytes, which the other side would read as the end. */
	Belay__ControlReply filled = *m;
	if (protobuf_c_message_get_packed_size(&m->base) == 0)
		filled.text = pb_text("done");
	int r = ipc_send(&c->chan, &filled.base, NULL, 0);
	if (!m->more || r < 0)
		request_clear(c);
	if (r < 0)
		log_peer("cannot answer a control request: %s", strerror(-r));
	uv_timer_again(c->timer);
}

void control_error(struct guard *g, uint64_t id, int error, const char *fmt, ...)
{
	char text[ERROR_TEXT_MAX];
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
	m.error = error < 0 ? error : -EIO;
	m.text = text;
	control_reply(g, id, &m);
}

void control_text(struct guard *g, uint64_t id, const char *text)
{
	Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
	m.text = pb_text(text);
	control_reply(g, id, &m);
}

/* ---- requests ---- */

enum needs { ANYBODY, ADMIN };
static const struct {
	enum needs needs;
	size_t fds_min, fds_max;
	bool known;
} shapes[] = {
	[BELAY__CONTROL_REQUEST__BODY_STATUS] = {ANYBODY, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_ENROLL] = {ADMIN, 1, 2, true},
	[BELAY__CONTROL_REQUEST__BODY_PROGRAMS] = {ADMIN, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_UNENROLL] = {ADMIN, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_POLICY_LOAD] = {ADMIN, 1, 1, true},
	[BELAY__CONTROL_REQUEST__BODY_POLICY_SHOW] = {ADMIN, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_CHANNELS] = {ADMIN, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_REVOKE] = {ADMIN, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_WHY] = {ANYBODY, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_WHOAMI] = {ANYBODY, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_RUN] = {ANYBODY, 1, 2, true},
	[BELAY__CONTROL_REQUEST__BODY_NODE] = {ADMIN, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_EXPLAIN] = {ADMIN, 0, 0, true},
	[BELAY__CONTROL_REQUEST__BODY_AUDIT] = {ADMIN, 0, 0, true},
};

int control_check(const Belay__ControlRequest *m, size_t n_fds)
{
	if (m->version != CONTROL_VERSION)
		return -EPROTONOSUPPORT;
	if ((size_t)m->body_case >= ARRAY_LEN(shapes) || !shapes[m->body_case].known)
		return -EBADMSG;
	if (n_fds < shapes[m->body_case].fds_min || n_fds > shapes[m->body_case].fds_max)
		return -EBADMSG;
	return 0;
}

static void request_run(struct client *c)
{
	struct guard *g = c->guard;
	const Belay__ControlRequest *m = c->request;
	switch (m->body_case) {
	case BELAY__CONTROL_REQUEST__BODY_STATUS:
		control_status(c);
		return;
	case BELAY__CONTROL_REQUEST__BODY_ENROLL:
		control_enroll(c, m->enroll);
		return;
	case BELAY__CONTROL_REQUEST__BODY_PROGRAMS:
		control_programs(c);
		return;
	case BELAY__CONTROL_REQUEST__BODY_UNENROLL:
		control_unenroll(c, m->unenroll);
		return;
	case BELAY__CONTROL_REQUEST__BODY_POLICY_LOAD:
		control_policy_load(c, m->policy_load);
		return;
	case BELAY__CONTROL_REQUEST__BODY_POLICY_SHOW:
		control_policy_show(c);
		return;
	case BELAY__CONTROL_REQUEST__BODY_CHANNELS:
		control_channels(c, m->channels);
		return;
	case BELAY__CONTROL_REQUEST__BODY_REVOKE:
		control_revoke(c, m->revoke);
		return;
	case BELAY__CONTROL_REQUEST__BODY_WHY:
		control_why(c, m->why);
		return;
	case BELAY__CONTROL_REQUEST__BODY_WHOAMI:
		control_whoami(c, m->whoami);
		return;
	case BELAY__CONTROL_REQUEST__BODY_RUN:
		control_run(c, m->run);
		return;
	case BELAY__CONTROL_REQUEST__BODY_NODE:
		remote_control(g, c->id, m->node);
		return;
	case BELAY__CONTROL_REQUEST__BODY_EXPLAIN:
		control_explain(c, m->explain);
		return;
	case BELAY__CONTROL_REQUEST__BODY_AUDIT:
		control_audit(c);
		return;
	case BELAY__CONTROL_REQUEST__BODY__NOT_SET:
	case _BELAY__CONTROL_REQUEST__BODY__CASE_IS_INT_SIZE:
	default:
		control_error(g, c->id, -ENOSYS, "there is no such request");
		return;
	}
}

static void client_known(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct client *c = ctx;
	c->wait = NULL;
	if (error) {
		control_error(g, c->id, -EACCES,
			"you cannot be identified: %s (try again; belay status tells how the "
			"instance is)",
			strerror(-error));
		return;
	}
	subject_unref(c->subject);
	c->subject = subject_ref(s);
	if (process_inside_tree(g, s->evidence)) {
		control_error(
			g, c->id, -EACCES, "a bound program cannot ask the instance that binds it");
		return;
	}
	request_run(c);
}

static void request_start(struct client *c)
{
	struct guard *g = c->guard;
	lease_read(g);
	uint64_t tree;
	struct subject *s;
	if (process_known(g, c->pid, &tree, &s) && tree) {
		control_error(
			g, c->id, -EACCES, "a bound program cannot ask the instance that binds it");
		return;
	}
	if (shapes[c->request->body_case].needs == ADMIN && !c->admin) {
		control_error(g, c->id, -EPERM, "this needs the instance's owner (uid %u)",
			g->component.heritage.owner_uid);
		return;
	}
	/* How the instance is must be told even when nobody can be identified. */
	if (c->request->body_case == BELAY__CONTROL_REQUEST__BODY_STATUS) {
		request_run(c);
		return;
	}
	struct process_wait *w;
	uint64_t id = c->id;
	process_ask(g, c->pid, c->pidfd, 0, false, client_known, c, &w);
	c = control_client(g, id);
	if (c && w)
		c->wait = w;
}

static int client_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	struct client *c = chan->data;
	if (c->busy)
		return -EBUSY;
	c->request = ipc_unpack(&belay__control_request__descriptor, buf, len);
	int r = c->request ? control_check(c->request, n_fds) : -EBADMSG;
	if (r == -EPROTONOSUPPORT) {
		control_error(c->guard, c->id, r,
			"belay and the instance are of different versions (restart belayd)");
		return 0;
	}
	if (r < 0)
		return r;
	c->busy = true;
	for (size_t i = 0; i < n_fds; i++)
		c->fds[c->n_fds++] = take_fd(&fds[i]);
	uv_timer_again(c->timer);
	request_start(c);
	return 0;
}

static void client_closed(struct ipc_chan *chan, int reason)
{
	if (reason != -EPIPE && reason != -ECONNRESET)
		log_peer("a control connection was closed: %s", strerror(-reason));
	client_free(chan->data);
}

static void client_timeout(uv_timer_t *t)
{
	client_free(t->data);
}

static bool client_admitted(struct guard *g, uint32_t uid)
{
	size_t same = 0;
	struct client *c;
	LIST_FOREACH (c, &g->controls->list, link)
		same += c->uid == uid;
	/* Descriptors that never close: until they do, only the owner is heard. */
	if (discard_jammed() && uid && uid != g->component.heritage.owner_uid)
		return false;
	return g->controls->n < CONTROL_CLIENTS_MAX && same < CONTROL_CLIENTS_PER_UID_MAX;
}

void control_connection(struct guard *g, const Belay__Connection *m, int *fds, size_t n_fds)
{
	if (n_fds != 2 || !client_admitted(g, m->uid)) {
		log_peer("a control connection of uid %u was refused: too many", m->uid);
		if (n_fds)
			(void)fds_discard(take_fd(&fds[0]));
		return;
	}
	struct client *c = calloc(1, sizeof(*c));
	if (!c)
		return;
	c->guard = g;
	c->id = ++g->controls->last_id;
	c->pid = m->pid;
	c->uid = m->uid;
	c->admin = m->uid == 0 || m->uid == g->component.heritage.owner_uid;
	c->pidfd = take_fd(&fds[1]);
	LIST_INSERT_HEAD(&g->controls->list, c, link);
	g->controls->n++;
	c->timer = calloc(1, sizeof(*c->timer));
	if (!c->timer || uv_timer_init(&g->component.loop, c->timer) < 0 ||
		fds_nonblock(fds[0]) < 0 ||
		ipc_chan_init(&c->chan, &g->component.loop, take_fd(&fds[0]), client_message,
			client_closed, c) < 0) {
		client_free(c);
		return;
	}
	c->chan.stranger = true;
	c->timer->data = c;
	uv_timer_start(c->timer, client_timeout, CONTROL_TIMEOUT_MS, CONTROL_TIMEOUT_MS);
}
