/*
 * Who lives but does nothing is replaced like one that died. All components are asked (ping) when
 * there is a reason to: one of them is stopped, somebody comes to the control socket, a component
 * says that it is kept waiting. Who has not answered when the round ends is killed. Rounds are
 * at least ROUND_MS apart, and while nobody wants anything nobody is woken.
 *
 * Input: our children's stops as the kernel tells them; that the control socket has a connection
 * (dispatcher's to accept, nothing is read); PONG and LOOK of components.
 */
#include <errno.h>
#include <signal.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/log.h"
#include "belayd/belayd.h"
#include "component.pb-c.h"

#define ROUND_MS 2000
#define LATE_MS 1000 /* woken so late, we were stopped too, and with us the others */

static void on_round_end(uv_timer_t *t);
static void on_asked(uv_poll_t *p, int status, int events);

static void ping(struct child *c)
{
	Belay__FromBelayd m = BELAY__FROM_BELAYD__INIT;
	Belay__Ping body = BELAY__PING__INIT;
	body.round = c->belayd->round;
	m.body_case = BELAY__FROM_BELAYD__BODY_PING;
	m.ping = &body;
	/* Its socket is full: it has been asked often enough. One that ended has a successor. */
	c->pinged = c->pid && ipc_chan_open(&c->keep);
	if (c->pinged && ipc_send(&c->keep, &m.base, NULL, 0) < 0)
		log_warn("%s does not take a question", role_name(c->role));
}

static void round_arm(struct belayd *b, uint64_t wait_ms)
{
	b->round_due_ms = clock_mono_ms() + wait_ms;
	uv_update_time(&b->loop);
	uv_timer_start(&b->round_timer, on_round_end, wait_ms, 0);
}

static bool round_open(const struct belayd *b)
{
	for (int i = 1; i < _ROLE_N; i++)
		if (b->child[i].pinged)
			return true;
	return false;
}

void watchdog_look(struct belayd *b)
{
	if (!b->watchdog_ms || b->stopping)
		return;
	if (b->round_due_ms) {
		b->look_again = true;
		return;
	}
	uv_poll_stop(&b->asked);
	b->look_again = false;
	b->round++;
	b->round_ms = clock_mono_ms();
	round_arm(b, b->watchdog_ms);
	for (int i = 1; i < _ROLE_N; i++)
		ping(&b->child[i]);
}

static void on_round_end(uv_timer_t *t)
{
	struct belayd *b = t->data;
	if (round_open(b) && clock_mono_ms() - b->round_due_ms > LATE_MS) {
		round_arm(b, b->watchdog_ms);
		return;
	}
	for (int i = 1; i < _ROLE_N; i++) {
		struct child *c = &b->child[i];
		if (!c->pinged)
			continue;
		log_error("%s %d has not answered for %llu s: it is replaced", role_name(c->role),
			c->pid, (unsigned long long)b->watchdog_ms / 1000);
		c->pinged = false;
		child_kill(c, SIGKILL);
	}
	b->round_due_ms = 0;
	if (b->look_again)
		watchdog_look(b);
	else
		uv_poll_start(&b->asked, UV_READABLE, on_asked);
}

int watchdog_pong(struct child *c, uint32_t round)
{
	struct belayd *b = c->belayd;
	if (round == b->round && c->pinged) {
		c->pinged = false;
		uint64_t took = clock_mono_ms() - b->round_ms;
		if (!round_open(b) && b->round_due_ms && !b->stopping)
			round_arm(b, took < ROUND_MS ? ROUND_MS - took : 0);
	}
	return round <= b->round ? 0 : -EBADMSG;
}

/* Not a byte is read, nothing is accepted; after this one, no other is looked at in this round. */
static void on_asked(uv_poll_t *p, int status, int events)
{
	(void)status, (void)events;
	watchdog_look(p->data);
}

/* Ends are the pidfds' to tell. A stop that goes on in time answers its ping. */
static void on_sigchld(uv_signal_t *s, int sig)
{
	struct belayd *b = s->data;
	(void)sig;
	for (int i = 1; i < _ROLE_N; i++) {
		siginfo_t info = {0};
		if (b->child[i].pid &&
			waitid(P_PIDFD, (id_t)b->child[i].pidfd, &info, WSTOPPED | WNOHANG) == 0 &&
			info.si_pid) {
			log_warn("%s %d is stopped", role_name((enum role)i), b->child[i].pid);
			watchdog_look(b);
		}
	}
}

int watchdog_init(struct belayd *b, int control, struct error *e)
{
	if (!b->watchdog_ms)
		return 0;
	int r = uv_timer_init(&b->loop, &b->round_timer);
	if (!r)
		r = uv_poll_init(&b->loop, &b->asked, control);
	if (!r)
		r = uv_signal_init(&b->loop, &b->sigchld);
	b->round_timer.data = b->asked.data = b->sigchld.data = b;
	if (!r)
		r = uv_signal_start(&b->sigchld, on_sigchld, SIGCHLD);
	if (!r)
		r = uv_poll_start(&b->asked, UV_READABLE, on_asked);
	return r < 0 ? error_errno(e, r, "cannot watch the components") : 0;
}

void watchdog_stop(struct belayd *b)
{
	if (!b->watchdog_ms)
		return;
	uv_timer_stop(&b->round_timer);
	uv_poll_stop(&b->asked);
	uv_signal_stop(&b->sigchld);
}
