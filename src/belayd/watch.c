/*
 * The life of the components: start, watch by pidfd, tell the dispatcher, start again with
 * back-off. Input: the ends of our own children, and KEEP, DROP and REJECT from them; a component
 * that sends anything else is ended. What a component's death must not take along (the dispatcher's
 * end of its socket, kept descriptors, memory) lies in struct child and goes to the successor.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "belayd/belayd.h"
#include "component.pb-c.h"

static struct child *dispatcher(struct belayd *b)
{
	return &b->child[ROLE_DISPATCHER];
}

void child_kill(struct child *c, int sig)
{
	if (c->pid)
		syscall(SYS_pidfd_send_signal, c->pidfd, sig, NULL, 0);
}

/* ---- start records ---- */

static void tell_started(struct child *c)
{
	Belay__ToDispatcher m = BELAY__TO_DISPATCHER__INIT;
	Belay__Started s = BELAY__STARTED__INIT;
	if (c->role == ROLE_DISPATCHER || !ipc_chan_open(&c->belayd->dispatcher))
		return;
	s.role = c->role;
	s.pid = (uint32_t)c->pid;
	s.start_time = c->start_time;
	s.uid = privilege_uid(c->belayd, c->role);
	s.generation = c->generation;
	m.body_case = BELAY__TO_DISPATCHER__BODY_STARTED;
	m.started = &s;
	int fds[] = {c->dispatcher_end, c->pidfd};
	if (ipc_send(&c->belayd->dispatcher, &m.base, fds, 2) < 0)
		child_kill(
			dispatcher(c->belayd), SIGKILL); /* its successor hears of everybody anew */
}

static void tell_ended(struct child *c, const char *how)
{
	Belay__ToDispatcher m = BELAY__TO_DISPATCHER__INIT;
	Belay__Ended n = BELAY__ENDED__INIT;
	if (c->role == ROLE_DISPATCHER || !ipc_chan_open(&c->belayd->dispatcher))
		return;
	n.role = c->role;
	n.pid = (uint32_t)c->pid;
	n.generation = c->generation;
	n.how = (char *)(uintptr_t)how;
	m.body_case = BELAY__TO_DISPATCHER__BODY_ENDED;
	m.ended = &n;
	if (ipc_send(&c->belayd->dispatcher, &m.base, NULL, 0) < 0)
		child_kill(dispatcher(c->belayd), SIGKILL);
}

/* ---- what components tell us ---- */

static int take_reject(struct child *c, const Belay__Reject *m)
{
	enum role role = role_from_number(m->role);
	if ((c->role != ROLE_DISPATCHER && c->role != ROLE_GUARD) || role == ROLE_NONE ||
		role == ROLE_DISPATCHER || role == c->role)
		return -EBADMSG;
	struct child *other = &c->belayd->child[role];
	log_warn("the %s rejects %s, start %u: %s", role_name(c->role), role_name(role),
		m->generation, m->why);
	if (other->generation == m->generation)
		child_kill(other, SIGKILL);
	return 0;
}

static int take_message(struct child *c, const Belay__ToBelayd *m, int *fds, size_t n_fds)
{
	switch (m->body_case) {
	case BELAY__TO_BELAYD__BODY_KEEP:
		if (n_fds != 1 || !keep_allowed(c->role, m->keep->name))
			return -EBADMSG;
		return keep_set(c, m->keep->name, &fds[0]);
	case BELAY__TO_BELAYD__BODY_DROP:
		if (n_fds || !keep_allowed(c->role, m->drop->name))
			return -EBADMSG;
		keep_drop(c, m->drop->name);
		return 0;
	case BELAY__TO_BELAYD__BODY_REJECT:
		return n_fds ? -EBADMSG : take_reject(c, m->reject);
	case BELAY__TO_BELAYD__BODY_PONG:
		return n_fds ? -EBADMSG : watchdog_pong(c, m->pong->round);
	case BELAY__TO_BELAYD__BODY_LOOK:
		watchdog_look(c->belayd);
		return n_fds ? -EBADMSG : 0;
	default:
		return -EBADMSG;
	}
}

static int on_keep(struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	Belay__ToBelayd *m = ipc_unpack(&belay__to_belayd__descriptor, buf, len);
	int r = m ? take_message(chan->data, m, fds, n_fds) : -EBADMSG;
	ipc_free(m);
	return r;
}

/* Ended, or surprised us: an ended one is reaped by its pidfd, the other is ended here. */
static void on_keep_closed(struct ipc_chan *chan, int reason)
{
	struct child *c = chan->data;
	if (reason != -EPIPE && reason != -ECONNRESET)
		log_error("%s %d: unexpected message (%s)", role_name(c->role), c->pid,
			strerror(-reason));
	child_kill(c, SIGKILL);
}

/* The dispatcher sends nothing on the socket of the start records. */
static int on_dispatcher(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	(void)chan, (void)buf, (void)len, (void)fds, (void)n_fds;
	return -EBADMSG;
}

static void on_dispatcher_closed(struct ipc_chan *chan, int reason)
{
	struct belayd *b = chan->data;
	(void)reason;
	child_kill(dispatcher(b), SIGKILL);
}

/* ---- ends ---- */

static void how_ended(const siginfo_t *i, char *ret, size_t size)
{
	if (i->si_code == CLD_EXITED)
		snprintf(ret, size, "exit status %d", i->si_status);
	else if (i->si_status == SIGSYS)
		snprintf(ret, size, "a system call its sandbox does not allow");
	else
		snprintf(ret, size, "signal %d (%s)", i->si_status, strsignal(i->si_status));
}

static void watch_free(uv_handle_t *h)
{
	free(h);
}

static void child_forget(struct child *c)
{
	/* What its predecessors left in the socket counts: read the last KEEPs before it goes. */
	ipc_chan_deinit(&c->keep);
	if (c->role == ROLE_DISPATCHER)
		ipc_chan_deinit(&c->belayd->dispatcher);
	if (c->watch) {
		uv_poll_stop(c->watch);
		uv_close((uv_handle_t *)c->watch, watch_free);
		c->watch = NULL;
	}
	if (c->dispatcher_end >= 0)
		close(c->dispatcher_end);
	if (c->pidfd >= 0)
		close(c->pidfd);
	c->dispatcher_end = c->pidfd = -1;
	c->pid = 0;
	c->pinged = false;
}

static void on_timer(uv_timer_t *t);

static void stop_if_all_ended(struct belayd *b)
{
	for (int i = 1; i < _ROLE_N; i++)
		if (b->child[i].pid)
			return;
	uv_stop(&b->loop);
}

static void child_ended(struct child *c, const char *how, bool killed)
{
	uint64_t lived = clock_mono_ms() - c->started_ms;
	if (c->pid)
		tell_ended(c, how);
	child_forget(c);
	if (c->belayd->stopping) {
		stop_if_all_ended(c->belayd);
		return;
	}
	uint32_t wait = backoff_next(&c->backoff, lived, killed);
	log_warn("%s ended after %llu ms: %s; starts again in %u ms", role_name(c->role),
		(unsigned long long)lived, how, wait);
	uv_timer_start(&c->timer, on_timer, wait, 0);
}

static void on_pidfd(uv_poll_t *p, int status, int events)
{
	struct child *c = p->data;
	siginfo_t info = {0};
	char how[64];
	(void)status, (void)events;
	if (waitid(P_PIDFD, (id_t)c->pidfd, &info, WEXITED | WNOHANG) < 0 || !info.si_pid)
		return;
	how_ended(&info, how, sizeof(how));
	/* Its last messages are still in the socket: kept descriptors must not get lost with it. */
	if (ipc_chan_open(&c->keep))
		ipc_chan_drain(&c->keep);
	child_ended(c, how, info.si_code != CLD_EXITED && info.si_status == SIGKILL);
}

static void on_timer(uv_timer_t *t)
{
	struct child *c = t->data;
	struct error e = ERROR_INIT;
	if (c->belayd->stopping || c->pid)
		return;
	if (child_start(c, &e) < 0) {
		log_error("%s: %s", role_name(c->role), e.text);
		c->started_ms = clock_mono_ms();
		child_ended(c, "could not be started", false);
	}
}

/* ---- starts ---- */

static int child_watch(struct child *c, int keep, int dispatcher_end, struct error *e)
{
	struct belayd *b = c->belayd;
	c->watch = calloc(1, sizeof(*c->watch));
	int r = c->watch ? uv_poll_init(&b->loop, c->watch, c->pidfd) : -ENOMEM;
	if (r < 0) {
		free(take_ptr(c->watch));
		close(keep);
		close(dispatcher_end);
		return error_errno(e, r, "cannot watch %s", role_name(c->role));
	}
	c->watch->data = c;
	uv_poll_start(c->watch, UV_READABLE, on_pidfd);
	r = ipc_chan_init(&c->keep, &b->loop, keep, on_keep, on_keep_closed, c);
	if (r < 0) {
		close(dispatcher_end);
	} else if (c->role == ROLE_DISPATCHER) {
		r = ipc_chan_init(&b->dispatcher, &b->loop, dispatcher_end, on_dispatcher,
			on_dispatcher_closed, b);
	} else {
		c->dispatcher_end = dispatcher_end;
	}
	return r < 0 ? error_errno(e, r, "cannot watch %s", role_name(c->role)) : 0;
}

static void tell_all(struct belayd *b)
{
	for (int i = 1; i < _ROLE_N; i++)
		if (b->child[i].pid)
			tell_started(&b->child[i]);
}

int child_start(struct child *c, struct error *e)
{
	int pair[2], keep[2];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno(e, -errno, "cannot make a socket");
	_cleanup_close_ int theirs = pair[0], ours = pair[1];
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, keep) < 0)
		return error_errno(e, -errno, "cannot make a socket");
	_cleanup_close_ int keep_theirs = keep[0], keep_ours = keep[1];
	c->generation++;
	struct spawn s;
	int r = spawn_child(c->belayd, c, theirs, keep_theirs, &s, e);
	if (r < 0)
		return r;
	c->pid = s.pid;
	c->pidfd = s.pidfd;
	c->start_time = s.start_time;
	c->started_ms = clock_mono_ms();
	log_info("%s started: pid %d, start %u", role_name(c->role), c->pid, c->generation);
	r = child_watch(c, take_fd(&keep_ours), take_fd(&ours), e);
	if (r < 0) {
		child_kill(c, SIGKILL);
		waitid(P_PIDFD, (id_t)c->pidfd, &(siginfo_t){0}, WEXITED);
		child_forget(c);
		return r;
	}
	if (c->role == ROLE_DISPATCHER)
		tell_all(c->belayd);
	else
		tell_started(c);
	return 0;
}

/* A memfd of a fixed size: whoever maps it cannot be made to fault by a predecessor. */
static int make_memory(const char *name, size_t size)
{
	_cleanup_close_ int fd = memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0 || ftruncate(fd, (off_t)size) < 0 ||
		fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
		return -errno;
	return take_fd(&fd);
}

static int make_memories(struct belayd *b, struct error *e)
{
	struct child *guard = &b->child[ROLE_GUARD], *enforce = &b->child[ROLE_ENFORCE];
	guard->memory = make_memory("belay-state", BELAYD_GUARD_MEMORY);
	enforce->memory = make_memory("belay-journal", BELAYD_ENFORCE_MEMORY);
	if (guard->memory < 0 || enforce->memory < 0)
		return error_errno(e, guard->memory < 0 ? guard->memory : enforce->memory,
			"cannot make the components' memory");
	return 0;
}

int children_init(struct belayd *b, int control, struct error *e)
{
	_cleanup_close_ int fd = control;
	int r = keep_set(dispatcher(b), "control", &fd);
	if (r < 0)
		return error_errno(e, r, "cannot keep the control socket");
	r = make_memories(b, e);
	if (!r)
		r = watchdog_init(b, control, e);
	for (int i = 1; !r && i < _ROLE_N; i++) {
		struct child *c = &b->child[i];
		if (!c->wanted)
			continue;
		uv_timer_init(&b->loop, &c->timer);
		c->timer.data = c;
		if (role_binary(c->role, c->path, sizeof(c->path)) < 0)
			return error_set(e, -ENOENT,
				"cannot find %s (try installing Belay, or start the belayd beside "
				"it)",
				role_process(c->role));
		r = child_start(c, e);
	}
	return r;
}

static void on_stop_timer(uv_timer_t *t)
{
	struct belayd *b = t->data;
	for (int i = 1; i < _ROLE_N; i++)
		child_kill(&b->child[i], SIGKILL);
}

/* Every component ends when its sockets close; who does not in time is killed. */
void children_stop(struct belayd *b)
{
	if (b->stopping)
		return;
	b->stopping = true;
	watchdog_stop(b);
	ipc_chan_deinit(&b->dispatcher);
	for (int i = 1; i < _ROLE_N; i++) {
		struct child *c = &b->child[i];
		ipc_chan_deinit(&c->keep);
		if (c->dispatcher_end >= 0)
			close(take_fd(&c->dispatcher_end));
	}
	uv_timer_init(&b->loop, &b->stop_timer);
	b->stop_timer.data = b;
	uv_timer_start(&b->stop_timer, on_stop_timer, BELAYD_STOP_MS, 0);
	stop_if_all_ended(b);
}
