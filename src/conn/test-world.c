/* Two joined engines for tests (test-world.h). */
#include "test-world.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/fds.h"

#define must(x)                                                                     \
	do {                                                                        \
		if (!(x)) {                                                         \
			fprintf(stderr, "%s:%d: %s: %m\n", __FILE__, __LINE__, #x); \
			abort();                                                    \
		}                                                                   \
	} while (0)

static int listen_loopback(int *ret_port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	must(fd >= 0 && bind(fd, (struct sockaddr *)&a, len) == 0 && listen(fd, 256) == 0 &&
		getsockname(fd, (struct sockaddr *)&a, &len) == 0);
	*ret_port = ntohs(a.sin_port);
	return fd;
}

static int dial_loopback(int port)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_addr.s_addr = htonl(INADDR_LOOPBACK),
		.sin_port = htons((uint16_t)port)};
	must(fd >= 0 && connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0);
	return fd;
}

void world_tcp_pair(int fds[2])
{
	static int listener = -1, port;
	if (listener < 0)
		listener = listen_loopback(&port);
	fds[0] = dial_loopback(port);
	fds[1] = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	must(fds[1] >= 0);
	must(fds_nonblock(fds[0]) == 0 && fds_nonblock(fds[1]) == 0);
}

/* ---- the proxy ---- */

#define LINES_MAX 8
struct line {
	int a, b; /* dialer, acceptor */
	long seen;
};

/* Return: false when the line is over. */
static bool proxy_move(struct world_proxy *p, struct line *l, int from, int to)
{
	uint8_t buf[65536];
	ssize_t n = recv(from, buf, sizeof(buf), 0);
	if (n <= 0)
		return false;
	if (from == l->a) {
		long at = p->flip_at - l->seen;
		if (p->flip_at >= 0 && at >= 0 && at < n) {
			buf[at] ^= 4;
			p->flip_at = -1;
			p->flipped++;
		}
		l->seen += n;
	}
	return send(to, buf, (size_t)n, MSG_NOSIGNAL) == n;
}

static void line_drop(struct line *l)
{
	close(l->a);
	close(l->b);
	l->a = -1;
}

static void proxy_lines(struct world_proxy *p, struct line *lines, size_t *n)
{
	struct pollfd f[1 + 2 * LINES_MAX] = {{.fd = p->listener, .events = POLLIN}};
	for (size_t i = 0; i < *n; i++) {
		f[1 + 2 * i] = (struct pollfd){.fd = lines[i].a, .events = POLLIN};
		f[2 + 2 * i] = (struct pollfd){.fd = lines[i].b, .events = POLLIN};
	}
	if (poll(f, (nfds_t)(1 + 2 * *n), 20) <= 0)
		return;
	for (size_t i = 0; i < *n; i++)
		if (lines[i].a >= 0 &&
			((f[1 + 2 * i].revents &&
				 !proxy_move(p, &lines[i], lines[i].a, lines[i].b)) ||
				(f[2 + 2 * i].revents &&
					!proxy_move(p, &lines[i], lines[i].b, lines[i].a))))
			line_drop(&lines[i]);
	if (f[0].revents && *n < LINES_MAX) {
		lines[*n] = (struct line){.a = accept4(p->listener, NULL, NULL, SOCK_CLOEXEC)};
		lines[*n].b = dial_loopback(p->to_port);
		++*n;
	}
}

static void *proxy_run(void *arg)
{
	struct world_proxy *p = arg;
	struct line lines[LINES_MAX];
	size_t n = 0;
	while (!p->quit) {
		proxy_lines(p, lines, &n);
		for (size_t i = 0; i < n; i++)
			if (p->cut && lines[i].a >= 0)
				line_drop(&lines[i]);
		size_t kept = 0;
		for (size_t i = 0; i < n; i++)
			if (lines[i].a >= 0)
				lines[kept++] = lines[i];
		n = kept;
		p->cut = false;
	}
	while (n)
		line_drop(&lines[--n]);
	close(p->listener);
	return NULL;
}

/* ---- the world ---- */

struct side_data {
	struct world *w;
	int side;
};
static struct side_data sides[2];

static void on_closed(
	void *data, const uint8_t id[FRAME_CHANNEL_LEN], const struct engine_result *r)
{
	struct side_data *s = data;
	struct world *w = s->w;
	struct world_end *e = &w->ends[w->n_ends++ % WORLD_ENDS];
	memset(e, 0, sizeof(*e));
	memcpy(e->id, id, sizeof(e->id));
	snprintf(e->reason, sizeof(e->reason), "%s", r->reason);
	e->tampered = r->tampered;
	e->sent = r->bytes_sent;
	e->received = r->bytes_received;
	e->side = s->side;
}

static void on_used(void *data, const uint8_t id[FRAME_CHANNEL_LEN], const struct addr *local)
{
	struct side_data *s = data;
	(void)id;
	s->w->n_used++;
	s->w->used_from = *local;
}

static void on_data_down(void *data, const char *node, const char *why, bool tampered)
{
	struct side_data *s = data;
	(void)node;
	(void)why;
	(void)tampered;
	s->w->n_down++;
}

const struct world_end *world_ended(const struct world *w, const uint8_t *id, int side)
{
	for (size_t i = 0; i < w->n_ends && i < WORLD_ENDS; i++)
		if (w->ends[i].side == side && memcmp(w->ends[i].id, id, FRAME_CHANNEL_LEN) == 0)
			return &w->ends[i];
	return NULL;
}

static void on_accept(uv_poll_t *p, int status, int events)
{
	struct world *w = p->data;
	(void)status;
	(void)events;
	int fd = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0)
		engine_accept(w->side[1], fd);
}

static void on_beat(uv_timer_t *t)
{
	(void)t;
}

void world_init(struct world *w, const struct engine_limits *limits, bool through_proxy)
{
	memset(w, 0, sizeof(*w));
	must(uv_loop_init(&w->loop) == 0);
	static const struct engine_ops ops = {
		.closed = on_closed, .used = on_used, .data_down = on_data_down};
	for (int i = 0; i < 2; i++) {
		sides[i] = (struct side_data){w, i};
		must(engine_new(&w->loop, &ops, &sides[i], limits, &w->side[i]) == 0);
	}
	w->listener = listen_loopback(&w->port);
	must(uv_poll_init(&w->loop, &w->accept, w->listener) == 0);
	w->accept.data = w;
	uv_poll_start(&w->accept, UV_READABLE, on_accept);
	uv_timer_init(&w->loop, &w->beat);
	uv_timer_start(&w->beat, on_beat, 10, 10);
	if (through_proxy) {
		w->proxy = calloc(1, sizeof(*w->proxy));
		w->proxy->listener = listen_loopback(&w->proxy->port);
		w->proxy->to_port = w->port;
		w->proxy->flip_at = -1;
		must(pthread_create(&w->proxy->thread, NULL, proxy_run, w->proxy) == 0);
	}
}

void world_join(struct world *w, uint8_t secret)
{
	memset(w->secret, secret, sizeof(w->secret));
	struct engine_peer b = {.node = "alpha", .self = "beta", .secret = w->secret};
	must(engine_peer_set(w->side[1], &b) == 0);
	struct engine_peer a = {.node = "beta",
		.self = "alpha",
		.secret = w->secret,
		.we_dial = true,
		.data = {.ip_len = 4,
			.ip = {127, 0, 0, 1},
			.port = (uint16_t)(w->proxy ? w->proxy->port : w->port)}};
	must(engine_peer_set(w->side[0], &a) == 0);
}

void world_deinit(struct world *w)
{
	if (w->proxy) {
		w->proxy->quit = true;
		pthread_join(w->proxy->thread, NULL);
		free(w->proxy);
	}
	for (int i = 0; i < 2; i++)
		w->side[i] = engine_free(w->side[i]);
	uv_close((uv_handle_t *)&w->accept, NULL);
	uv_close((uv_handle_t *)&w->beat, NULL);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	must(uv_loop_close(&w->loop) == 0);
	close(w->listener);
}

void world_channel_open(
	struct world *w, struct world_channel *c, uint32_t number, bool tcp, uint64_t idle_ms)
{
	struct engine_channel in[2];
	memset(in, 0, sizeof(in));
	memset(c->id, 0x5a, sizeof(c->id));
	memcpy(c->id, &number, sizeof(number));
	for (int i = 1; i >= 0; i--) { /* the accepting side first, as the guards do */
		int pair[2];
		if (tcp)
			world_tcp_pair(pair);
		else
			must(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0,
				     pair) == 0);
		c->program[i] = pair[0];
		memcpy(in[i].id, c->id, sizeof(c->id));
		in[i].node = i ? "alpha" : "beta";
		in[i].initiator = !i;
		in[i].idle_ms = idle_ms;
		memset(in[i].send.bytes, i + 1, SECRET_LEN);
		memset(in[i].receive.bytes, 2 - i, SECRET_LEN);
		memcpy(in[i].send.bytes, &number, sizeof(number));
		memcpy(in[i].receive.bytes, &number, sizeof(number));
		int fds[2] = {pair[1], -1};
		must(engine_channel_add(w->side[i], &in[i], fds) == 0);
	}
}

void world_channel_close(struct world_channel *c)
{
	for (int i = 0; i < 2; i++)
		if (c->program[i] >= 0)
			close(take_fd(&c->program[i]));
}

size_t world_up(struct world *w, int side)
{
	struct engine_counts c;
	engine_counts(w->side[side], &c);
	return c.carriers_up;
}

void world_link(struct world *w, uint8_t secret)
{
	world_join(w, secret);
	must(world_until(
		w, 2000, world_up(w, 0) >= ENGINE_CARRIERS && world_up(w, 1) >= ENGINE_CARRIERS));
}

/* A stream whose every byte is known from its place: order and completeness show. */
static uint8_t byte_at(uint64_t i, uint8_t salt)
{
	return (uint8_t)((i * 2654435761u >> 13) ^ salt);
}

struct stream {
	int from, to;
	uint64_t total, sent, received;
	uint8_t salt;
	bool wrong, eof;
};

static void stream_step(struct stream *s)
{
	uint8_t buf[16384];
	size_t n = s->total - s->sent < sizeof(buf) ? s->total - s->sent : sizeof(buf);
	for (size_t i = 0; i < n; i++)
		buf[i] = byte_at(s->sent + i, s->salt);
	ssize_t r = n ? send(s->from, buf, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
	s->sent += r > 0 ? (uint64_t)r : 0;
	r = recv(s->to, buf, sizeof(buf), MSG_DONTWAIT);
	for (ssize_t i = 0; i < r; i++)
		s->wrong |= buf[i] != byte_at(s->received + (uint64_t)i, s->salt);
	s->received += r > 0 ? (uint64_t)r : 0;
	s->eof |= r == 0;
}

static bool stream_done(struct stream *s)
{
	stream_step(s);
	return s->wrong || s->received == s->total;
}

void world_carry(struct world *w, struct world_channel *c, uint64_t total)
{
	struct stream a = {.from = c->program[0], .to = c->program[1], .total = total, .salt = 1};
	struct stream b = {.from = c->program[1], .to = c->program[0], .total = total, .salt = 2};
	must(world_until(w, 30000, ({
		bool x = stream_done(&a), y = stream_done(&b);
		x &&y;
	})));
	must(!a.wrong && !b.wrong);
}
