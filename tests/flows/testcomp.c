/*
 * A component without a task, to test what starts and joins components. Every role but the guard
 * sends "ROLE PID" into each arrow it gets and keeps the descriptor "tree-test" or "fabric-test"
 * where it may; the guard collects the lines, and answers each control connection's message with
 * them and what it was told of births.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "component.pb-c.h"
#include "ipc/component.h"

static struct {
	struct component component;
	struct ipc_chan arrow[_ROLE_N], control[64];
	char line[_ROLE_N][64];
	unsigned n_control, born, died;
} t;

static int on_arrow_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n)
{
	char *line = chan->data;
	(void)fds, (void)n;
	snprintf(line, sizeof(t.line[0]), "%.*s", (int)len, (const char *)buf);
	return 0;
}

static void on_closed(struct ipc_chan *chan, int reason)
{
	(void)reason;
	*(char *)chan->data = '\0';
}

static int on_arrow(struct component *c, enum role peer, int fd)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "%s %d", role_name(c->heritage.role), (int)getpid());
	ipc_chan_deinit(&t.arrow[peer]);
	int r = ipc_chan_init(
		&t.arrow[peer], &c->loop, fd, on_arrow_message, on_closed, t.line[peer]);
	return r < 0 ? r : fds_send(t.arrow[peer].fd, line, (size_t)n, NULL, 0, 0);
}

static int on_control(struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n)
{
	char text[1024];
	(void)buf, (void)len, (void)fds, (void)n;
	int at = snprintf(text, sizeof(text), "guard %d\nborn %u died %u kept %zu\n", (int)getpid(),
		t.born, t.died, t.component.heritage.n_kept);
	for (int i = 1; i < _ROLE_N; i++)
		if (t.line[i][0])
			at += snprintf(text + at, sizeof(text) - (size_t)at, "%s\n", t.line[i]);
	return fds_send(chan->fd, text, (size_t)at, NULL, 0, 0);
}

static void on_control_closed(struct ipc_chan *chan, int reason)
{
	(void)chan, (void)reason;
}

static int on_connection(struct component *c, const Belay__Connection *m, int *fds, size_t n_fds)
{
	struct ipc_chan *chan = &t.control[t.n_control++ % ARRAY_LEN(t.control)];
	(void)n_fds;
	log_info("connection kind %d of pid %u uid %u", (int)m->kind, m->pid, m->uid);
	ipc_chan_deinit(chan);
	return ipc_chan_init(chan, &c->loop, take_fd(&fds[0]), on_control, on_control_closed, NULL);
}

static int on_notice(struct component *c, const Belay__ToComponent *m)
{
	(void)c;
	if (m->body_case == BELAY__TO_COMPONENT__BODY_PEER_ENDED) {
		if (m->peer_ended->started)
			t.born++;
		else
			t.died++;
	}
	return 0;
}

static const struct component_ops ops = {
	.on_arrow = on_arrow, .on_connection = on_connection, .on_notice = on_notice};

int main(int argc, char **argv)
{
	struct error e = ERROR_INIT;
	if (component_open(&t.component, argc, argv, &ops, NULL, &e) < 0) {
		fprintf(stderr, "testcomp: %s\n", e.text);
		return 1;
	}
	enum role role = t.component.heritage.role;
	if (role == ROLE_ENFORCE && component_kept(&t.component, "tree-1") < 0 &&
		component_keep(&t.component, "tree-1", STDIN_FILENO) < 0)
		return 1;
	if (role == ROLE_ENFORCE)
		log_info("kept by predecessors: %zu", t.component.heritage.n_kept);
	return component_run(&t.component);
}
