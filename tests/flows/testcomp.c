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
	char line[_ROLE_N][64], hello[_ROLE_N][64];
	uv_timer_t hello_timer;
	unsigned n_control, born, died;
	struct ipc_chan *asked; /* waits for the dispatcher's answer */
	uv_signal_t usr1, usr2;
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

/* Who is joined has given to belayd what a successor will ask for. */
static void hello(uv_timer_t *timer)
{
	bool kept = component_kept_all(&t.component);
	for (int i = 1; kept && i < _ROLE_N; i++) {
		if (t.hello[i][0] && ipc_chan_open(&t.arrow[i]) &&
			fds_send(t.arrow[i].fd, t.hello[i], strlen(t.hello[i]), NULL, 0, 0) < 0)
			log_info("role %d has gone", i);
		t.hello[i][0] = '\0';
	}
	if (!kept)
		uv_timer_start(timer, hello, 2, 0);
}

static int on_arrow(struct component *c, enum role peer, int fd)
{
	char line[64];
	int n = snprintf(line, sizeof(line), "%s %d", role_name(c->heritage.role), (int)getpid());
	ipc_chan_deinit(&t.arrow[peer]);
	int r = ipc_chan_init(
		&t.arrow[peer], &c->loop, fd, on_arrow_message, on_closed, t.line[peer]);
	if (r < 0 || c->heritage.role == ROLE_GUARD)
		return r; /* so that real components may stand at the other ends */
	snprintf(t.hello[peer], sizeof(t.hello[peer]), "%.*s", n, line);
	hello(&t.hello_timer);
	return 0;
}

static int say(struct ipc_chan *chan, const char *text)
{
	return fds_send(chan->fd, text, strlen(text), NULL, 0, 0);
}

static int tell_state(struct ipc_chan *chan)
{
	char text[1024];
	int at = snprintf(
		text, sizeof(text), "guard %d\nborn %u died %u\n", (int)getpid(), t.born, t.died);
	for (int i = 1; i < _ROLE_N; i++)
		if (t.line[i][0])
			at += snprintf(text + at, sizeof(text) - (size_t)at, "%s\n", t.line[i]);
	return say(chan, text);
}

static int order_publish(uint64_t id, unsigned port)
{
	Belay__FromComponent m = BELAY__FROM_COMPONENT__INIT;
	Belay__Publish p = BELAY__PUBLISH__INIT;
	uint8_t ip[] = {127, 0, 0, 1};
	p.id = id;
	p.port = port;
	p.ip = (ProtobufCBinaryData){sizeof(ip), ip};
	m.body_case = BELAY__FROM_COMPONENT__BODY_PUBLISH;
	m.publish = &p;
	return ipc_send(&t.component.dispatcher, &m.base, NULL, 0);
}

static int order_unpublish(uint64_t id)
{
	Belay__FromComponent m = BELAY__FROM_COMPONENT__INIT;
	Belay__Unpublish u = BELAY__UNPUBLISH__INIT;
	u.id = id;
	m.body_case = BELAY__FROM_COMPONENT__BODY_UNPUBLISH;
	m.unpublish = &u;
	return ipc_send(&t.component.dispatcher, &m.base, NULL, 0);
}

static int order_listen(char *address)
{
	Belay__FromComponent m = BELAY__FROM_COMPONENT__INIT;
	Belay__Listen l = BELAY__LISTEN__INIT;
	l.link = address;
	m.body_case = BELAY__FROM_COMPONENT__BODY_LISTEN;
	m.listen = &l;
	return ipc_send(&t.component.dispatcher, &m.base, NULL, 0);
}

static int on_control(struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n)
{
	char text[64], address[64];
	unsigned id, port;
	(void)fds, (void)n;
	snprintf(text, sizeof(text), "%.*s", (int)len, (const char *)buf);
	t.asked = chan;
	if (sscanf(text, "publish %u %u", &id, &port) == 2)
		return order_publish(id, port);
	if (sscanf(text, "listen %63s", address) == 1)
		return order_listen(address);
	t.asked = NULL;
	if (sscanf(text, "reject %63s", address) == 1) {
		enum role role = role_parse(address);
		return component_reject(
			&t.component, role, t.component.peer[role], "a test wants it");
	}
	if (sscanf(text, "unpublish %u", &id) == 1) {
		int r = order_unpublish(id);
		usleep(50000); /* the dispatcher does not answer this one */
		return r < 0 ? r : say(chan, text);
	}
	return tell_state(chan);
}

static void on_control_closed(struct ipc_chan *chan, int reason)
{
	(void)reason;
	if (t.asked == chan)
		t.asked = NULL;
}

/* A TCP connection hears who took it. */
static int greet(const Belay__Connection *m, int fd)
{
	char text[128];
	if (m->kind == BELAY__CONNECTION_KIND__CONNECTION_PUBLISHED)
		snprintf(text, sizeof(text), "published %u %s", (unsigned)m->published, m->remote);
	else
		snprintf(text, sizeof(text), "%s", role_name(t.component.heritage.role));
	return fds_write_all(fd, text, strlen(text));
}

static int on_connection(struct component *c, const Belay__Connection *m, int *fds, size_t n_fds)
{
	struct ipc_chan *chan = &t.control[t.n_control++ % ARRAY_LEN(t.control)];
	(void)n_fds;
	if (m->kind != BELAY__CONNECTION_KIND__CONNECTION_CONTROL)
		return greet(m, fds[0]);
	log_info("connection kind %d of pid %u uid %u", (int)m->kind, m->pid, m->uid);
	ipc_chan_deinit(chan);
	return ipc_chan_init(chan, &c->loop, take_fd(&fds[0]), on_control, on_control_closed, NULL);
}

static int on_notice(struct component *c, const Belay__ToComponent *m)
{
	char text[64] = "";
	(void)c;
	if (m->body_case == BELAY__TO_COMPONENT__BODY_PUBLISH)
		snprintf(text, sizeof(text), "publish %u %d", (unsigned)m->publish->id,
			m->publish->error);
	else if (m->body_case == BELAY__TO_COMPONENT__BODY_LISTEN)
		snprintf(text, sizeof(text), "listen %d", m->listen->error);
	else if (m->peer_ended->started)
		t.born++;
	else
		t.died++;
	return text[0] && t.asked ? say(take_ptr(t.asked), text) : 0;
}

static void on_signal(uv_signal_t *s, int sig)
{
	(void)s;
	int r = sig == SIGUSR1 ? order_unpublish(1)
			       : component_keep(&t.component, "control", STDIN_FILENO);
	log_info("surprise sent: %d", r);
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
	const char *many = getenv("BELAY_TEST_KEEP");
	if (role == ROLE_ENFORCE && component_kept(&t.component, "tree-1") < 0 &&
		component_keep(&t.component, "tree-1", STDIN_FILENO) < 0)
		return 1;
	for (int i = 2; role == ROLE_ENFORCE && many && i <= atoi(many); i++) {
		char name[HERITAGE_NAME_MAX];
		snprintf(name, sizeof(name), "tree-%d-makes-the-list-long", i);
		if (component_keep(&t.component, name, STDIN_FILENO) < 0)
			return 1;
	}
	if (role == ROLE_ENFORCE)
		log_info("kept by predecessors: %zu", t.component.heritage.n_kept);
	uv_timer_init(&t.component.loop, &t.hello_timer);
	uv_signal_init(&t.component.loop, &t.usr1);
	uv_signal_init(&t.component.loop, &t.usr2);
	uv_signal_start(&t.usr1, on_signal, SIGUSR1);
	uv_signal_start(&t.usr2, on_signal, SIGUSR2);
	return component_run(&t.component);
}
