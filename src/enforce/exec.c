/*
 * execve(2). The call is let through, but its thread is seized first, so that it stops between the
 * kernel having loaded the new image and the image's first instruction. There the guard takes
 * evidence and judges the image and every socket it inherits (Unix ones: inherit.c); only then does
 * it run. What was to be executed is thus never guessed from a path: it is looked at. A refused
 * image is killed; should this process die, the kernel kills whatever it holds (EXITKILL). An
 * execve that fails leaves its thread seized; it is let go after EXEC_WAIT_MS. Input: stop reports
 * of the kernel. Cost: one seizing, one stop, one detaching and the question; all of it once an
 * exec.
 */
#include <errno.h>
#include <linux/netlink.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ptrace.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/fds.h"
#include "base/log.h"
#include "enforce/enforce.h"
#include "enforce/target.h"

#define OPTIONS (PTRACE_O_TRACEEXEC | PTRACE_O_EXITKILL)

static void *word(long v)
{
	return (void *)v;
}

static struct exec *exec_find(struct enforce *e, pid_t tid)
{
	for (uint32_t i = 0; i < EXECS_MAX && e->n_exec; i++)
		if (e->exec[i].tid == tid)
			return &e->exec[i];
	return NULL;
}

static struct exec *exec_new(struct enforce *e, struct tree *t, pid_t tid)
{
	struct exec *x = NULL;
	for (uint32_t i = 0; i < EXECS_MAX && !x; i++)
		if (!e->exec[i].tid)
			x = &e->exec[i];
	if (!x)
		return NULL;
	*x = (struct exec){.tid = tid, .tree = t, .tree_id = t->id, .pidfd = -1};
	e->n_exec++;
	return x;
}

static void exec_forget(struct enforce *e, struct exec *x)
{
	inherit_forget(x);
	if (x->pidfd >= 0)
		close(x->pidfd);
	*x = (struct exec){.pidfd = -1};
	e->n_exec--;
}

void exec_kill(struct enforce *e, struct exec *x)
{
	/* We hold it stopped, so its number is still its own. */
	if (kill(x->tid, SIGKILL) < 0 && errno != ESRCH)
		log_warn("cannot end process %d: %s", x->tid, strerror(errno));
	exec_forget(e, x);
}

void exec_release(struct enforce *e, struct exec *x, long sig)
{
	if (ptrace(PTRACE_DETACH, x->tid, NULL, word(sig)) < 0 && errno != ESRCH)
		log_warn("cannot let process %d go: %s", x->tid, strerror(errno));
	exec_forget(e, x);
}

/* ---- sockets of a process ---- */

static bool diag_here(void *ctx, int fd)
{
	struct tree *t = ctx;
	if (sock_domain(fd) != AF_NETLINK ||
		sock_int(fd, SOL_SOCKET, SO_PROTOCOL) != NETLINK_SOCK_DIAG)
		return true;
	t->diag = dup(fd);
	return false;
}

/* `belay run` leaves it open until its exec; a bound program can make none. */
static void seek_diag(struct tree *t, pid_t tid)
{
	t->sought_diag = true;
	(void)target_sockets(tid, diag_here, t);
	if (t->diag >= 0 && tree_keep(t, "-diag", t->diag) < 0)
		log_warn("tree %llu: its socket list would not outlive this process",
			(unsigned long long)t->id);
}

struct inherited {
	struct enforce *e;
	Belay__Inherited all[INHERITED_MAX], *list[INHERITED_MAX];
	Belay__Addr local[INHERITED_MAX], remote[INHERITED_MAX];
	struct addr own[INHERITED_MAX], peer[INHERITED_MAX];
	size_t n;
	bool foreign;
};

static bool inherited_take(void *ctx, int fd)
{
	struct inherited *h = ctx;
	int domain = sock_domain(fd);
	if (domain != AF_INET && domain != AF_INET6)
		return true;
	if (sock_cookie_netns(fd) != h->e->cookie) {
		h->foreign = true;
		return false;
	}
	if (sock_int(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM)
		sockets_inherited(h->e, fd);
	if (h->n == INHERITED_MAX)
		return false;
	size_t i = h->n;
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct stat st;
	Belay__Inherited *m = &h->all[i];
	belay__inherited__init(m);
	bool named = getsockname(fd, (struct sockaddr *)&sa, &len) == 0 &&
		     addr_from_sockaddr(&sa, len, &h->own[i]) == 0 && h->own[i].port;
	len = sizeof(sa);
	bool peered = getpeername(fd, (struct sockaddr *)&sa, &len) == 0 &&
		      addr_from_sockaddr(&sa, len, &h->peer[i]) == 0;
	if (!named && !peered)
		return true; /* says nothing to anybody yet */
	question_addr(&h->local[i], &h->own[i]);
	m->local = &h->local[i];
	if (peered) {
		question_addr(&h->remote[i], &h->peer[i]);
		m->remote = &h->remote[i];
	}
	m->listening = sock_int(fd, SOL_SOCKET, SO_ACCEPTCONN) > 0;
	m->inode = fstat(fd, &st) == 0 ? st.st_ino : 0;
	m->transport = sock_int(fd, SOL_SOCKET, SO_TYPE) == SOCK_DGRAM
			       ? BELAY__TRANSPORT__TRANSPORT_UDP
			       : BELAY__TRANSPORT__TRANSPORT_TCP;
	len = sizeof(m->mark);
	if (m->transport != BELAY__TRANSPORT__TRANSPORT_UDP ||
		getsockopt(fd, SOL_SOCKET, SO_MARK, &m->mark, &len) < 0)
		m->mark = 0;
	h->list[h->n++] = m;
	return true;
}

/* ---- at the new image ---- */

void exec_ask(struct enforce *e, struct exec *x)
{
	static struct inherited h;
	inherit_forget(x); /* asked again from the start, when a guard was lost */
	h.e = e;
	h.n = 0;
	h.foreign = false;
	bool complete = target_sockets(x->pid, inherited_take, &h);
	if (h.foreign && !e->cookie)
		return; /* which sockets are the fabric's is not known yet: the tick asks again */
	if (h.foreign) {
		if (x->tree)
			tree_notice(x->tree, "refused: the program was given a network socket from "
					     "outside Belay");
		exec_kill(e, x);
		return;
	}
	Belay__Question q = BELAY__QUESTION__INIT;
	q.call = BELAY__QUESTION__CALL__CALL_EXEC;
	q.inherited = h.list;
	q.n_inherited = h.n;
	q.inherited_more = !complete;
	question_exec(e, x, &q, &x->pidfd, 1);
}

void exec_answered(struct enforce *e, struct exec *x, int error)
{
	if (x->allowed)
		inherit_answered(e, x, error);
	else if (error)
		exec_kill(e, x);
	else
		inherit_start(e, x);
}

static void exec_stopped(struct enforce *e, struct exec *x)
{
	x->stopped = true;
	x->pid = x->tid;
	leased_process_changed(e, (uint32_t)x->pid);
	x->since_ms = clock_mono_ms();
	dgram_image_new(e, (uint32_t)x->pid);
	x->pidfd = (int)syscall(__NR_pidfd_open, x->pid, 0);
	if (x->pidfd < 0 || !x->tree) {
		exec_kill(e, x); /* nobody to judge it */
		return;
	}
	exec_ask(e, x);
}

/* ---- stop reports ---- */

static void image_event(struct enforce *e, pid_t pid)
{
	unsigned long former = 0;
	if (ptrace(PTRACE_GETEVENTMSG, pid, NULL, &former) < 0)
		former = (unsigned long)pid;
	struct exec *x = exec_find(e, (pid_t)former), *leader = exec_find(e, pid);
	/* The thread that executed has taken its leader's number; the leader is no more. */
	if (leader && leader != x)
		exec_forget(e, leader);
	if (!x) {
		log_error("process %d stopped at an image nobody asked about", pid);
		kill(pid, SIGKILL);
		return;
	}
	x->tid = pid;
	exec_stopped(e, x);
}

static bool is_group_stop(int sig)
{
	return sig == SIGSTOP || sig == SIGTSTP || sig == SIGTTIN || sig == SIGTTOU;
}

static void stop_event(struct enforce *e, pid_t tid, int status)
{
	int event = status >> 16, sig = WSTOPSIG(status);
	if (event == PTRACE_EVENT_EXEC) {
		image_event(e, tid);
		return;
	}
	struct exec *x = exec_find(e, tid);
	if (!x) {
		ptrace(PTRACE_DETACH, tid, NULL, NULL);
		return;
	}
	long deliver = event ? 0 : sig;
	if (x->interrupted) /* its execve has failed, and it got as far as this */
		exec_release(e, x, deliver);
	else if (event == PTRACE_EVENT_STOP && is_group_stop(sig))
		ptrace(PTRACE_LISTEN, tid, NULL,
			NULL); /* stopped, as everybody else would stop it */
	else
		ptrace(PTRACE_CONT, tid, NULL, word(deliver));
}

void exec_child(uv_signal_t *s, int signum)
{
	(void)signum;
	struct enforce *e = s->data;
	int status;
	pid_t tid;
	while ((tid = waitpid(-1, &status, WNOHANG | __WALL)) > 0) {
		struct exec *x = exec_find(e, tid);
		if (WIFSTOPPED(status))
			stop_event(e, tid, status);
		else if (!act_ended(e, tid, status) && x)
			exec_forget(e, x);
	}
}

/* ---- the call ---- */

void exec_serve(struct enforce *e, struct request *r)
{
	pid_t tid = (pid_t)r->n.pid;
	struct tree *t = r->tree;
	struct exec *x = exec_find(e, tid);
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (!t->sought_diag)
		seek_diag(t, tid);
	if (!x) {
		x = exec_new(e, t, tid);
		if (!x) {
			call_reply(e, r, -EAGAIN, 0);
			return;
		}
		if (ptrace(PTRACE_SEIZE, tid, NULL, word(OPTIONS)) < 0) {
			int n = -errno;
			exec_forget(e, x);
			tree_notice(t,
				"refused: another program traces this one, so what it starts "
				"cannot be judged");
			call_reply(e, r, n == -ESRCH ? -ESRCH : -EACCES, 0);
			return;
		}
	}
	x->deadline_ms = clock_mono_ms() + EXEC_WAIT_MS;
	tick_start(e);
	if (call_valid(r)) /* the number was still its own when we took hold of it */
		call_continue(e, r);
	else
		call_drop(e, r);
}

void exec_tick(struct enforce *e, uint64_t now)
{
	for (uint32_t i = 0; i < EXECS_MAX && e->n_exec; i++) {
		struct exec *x = &e->exec[i];
		if (!x->tid)
			continue;
		if (!x->stopped && !x->interrupted && now >= x->deadline_ms) {
			x->interrupted = true;
			if (ptrace(PTRACE_INTERRUPT, x->tid, NULL, NULL) < 0 && errno == ESRCH)
				exec_forget(e, x);
		} else if (x->stopped &&
			   now - x->since_ms > (x->question ? ANSWER_WAIT_MS : GUARD_WAIT_MS)) {
			if (x->tree)
				tree_notice(x->tree, "refused: the instance does not answer "
						     "(try `belay status`)");
			exec_kill(e, x);
		} else if (x->stopped && !x->question && ipc_chan_open(&e->guard)) {
			exec_ask(e, x);
		}
	}
}

void exec_tree_gone(struct tree *t)
{
	for (uint32_t i = 0; i < EXECS_MAX; i++) {
		struct exec *x = &t->e->exec[i];
		if (!x->tid || x->tree != t)
			continue;
		x->tree = NULL;
		if (x->stopped)
			exec_kill(t->e, x);
	}
}
