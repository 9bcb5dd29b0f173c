/*
 * Listening sockets: the instance's control socket, made by belayd, and TCP sockets made here on
 * the guard's order: where nodes reach this one, and published ports. belayd keeps each, so that
 * neither our death nor the guard's closes a port. Which of them the present guard wants is its
 * word: a new guard has LISTENER_CONFIRM_MS to ask for each again; until then connections wait in
 * the kernel, then it is closed.
 */
#include <errno.h>
#include <inttypes.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "component.pb-c.h"
#include "dispatcher/dispatcher.h"

#define LISTEN_BACKLOG 1024

static void listener_name(const struct listener *l, char name[HERITAGE_NAME_MAX])
{
	static const char *const fixed[] = {[LISTENER_CONTROL] = "control",
		[LISTENER_LINK] = "listen-link",
		[LISTENER_DATA] = "listen-data"};
	if (l->kind == LISTENER_PUBLISHED)
		snprintf(name, HERITAGE_NAME_MAX, "publish-%" PRIu64, l->id);
	else
		snprintf(name, HERITAGE_NAME_MAX, "%s", fixed[l->kind]);
}

static void on_poll(uv_poll_t *p, int status, int events)
{
	(void)status, (void)events;
	accept_ready(p->data);
}

static void on_poll_closed(uv_handle_t *h)
{
	free(h->data);
}

/* Takes fd. */
static struct listener *listener_add(
	struct dispatcher *d, enum listener_kind kind, uint64_t id, int fd)
{
	struct listener *l = d->n_listeners < LISTENERS_MAX ? calloc(1, sizeof(*l)) : NULL;
	if (!l || uv_poll_init(&d->component.loop, &l->poll, fd) < 0) {
		free(l);
		close(fd);
		return NULL;
	}
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	if (kind != LISTENER_CONTROL && getsockname(fd, (struct sockaddr *)&ss, &len) == 0 &&
		addr_from_sockaddr(&ss, len, &l->addr) < 0)
		l->addr = (struct addr){0};
	l->dispatcher = d;
	l->kind = kind;
	l->id = id;
	l->fd = fd;
	l->poll.data = l;
	LIST_INSERT_HEAD(&d->listeners, l, link);
	d->n_listeners++;
	return l;
}

static void listener_remove(struct listener *l)
{
	char name[HERITAGE_NAME_MAX];
	listener_name(l, name);
	if (component_keep(&l->dispatcher->component, name, -1) < 0)
		log_error("belayd does not answer");
	LIST_REMOVE(l, link);
	l->dispatcher->n_listeners--;
	uv_poll_stop(&l->poll);
	close(l->fd);
	uv_close((uv_handle_t *)&l->poll, on_poll_closed);
}

static struct listener *listener_find(struct dispatcher *d, enum listener_kind kind, uint64_t id)
{
	struct listener *l;
	LIST_FOREACH (l, &d->listeners, link)
		if (l->kind == kind && l->id == id)
			return l;
	return NULL;
}

/* Adopts what a predecessor made. */
int listeners_open(struct dispatcher *d, struct error *e)
{
	struct heritage *h = &d->component.heritage;
	LIST_INIT(&d->listeners);
	int control = component_kept(&d->component, "control");
	struct listener *l = control < 0 ? NULL : listener_add(d, LISTENER_CONTROL, 0, control);
	if (!l)
		return error_set(e, -EBADF, "no control socket was inherited");
	l->confirmed = true;
	for (size_t i = 0; i < h->n_kept; i++) {
		uint64_t id = 0;
		enum listener_kind kind = LISTENER_PUBLISHED;
		if (h->kept[i].fd < 0)
			continue;
		if (!strcmp(h->kept[i].name, "listen-link"))
			kind = LISTENER_LINK;
		else if (!strcmp(h->kept[i].name, "listen-data"))
			kind = LISTENER_DATA;
		else if (sscanf(h->kept[i].name, "publish-%" SCNu64, &id) != 1)
			continue;
		listener_add(d, kind, id, take_fd(&h->kept[i].fd));
	}
	return 0;
}

struct peer *listener_taker(struct listener *l)
{
	static const enum role roles[] = {[LISTENER_CONTROL] = ROLE_GUARD,
		[LISTENER_LINK] = ROLE_LINK,
		[LISTENER_DATA] = ROLE_CONN,
		[LISTENER_PUBLISHED] = ROLE_GUARD};
	return &l->dispatcher->peer[roles[l->kind]];
}

static void on_pause(uv_timer_t *t)
{
	listeners_update(t->data);
}

void listeners_pause(struct dispatcher *d)
{
	uv_timer_start(&d->pause, on_pause, ACCEPT_PAUSE_MS, 0);
}

void listeners_update(struct dispatcher *d)
{
	struct listener *l;
	LIST_FOREACH (l, &d->listeners, link) {
		struct peer *p = listener_taker(l);
		bool there = ipc_chan_open(&p->chan),
		     full = there && p->chan.queued > ACCEPT_QUEUE_MAX;
		if (l->confirmed && there && !full)
			uv_poll_start(&l->poll, UV_READABLE, on_poll);
		else
			uv_poll_stop(&l->poll);
		if (full)
			listeners_pause(d);
	}
}

static void on_confirm(uv_timer_t *t)
{
	struct dispatcher *d = t->data;
	struct listener *l = LIST_FIRST(&d->listeners), *next;
	for (; l; l = next) {
		next = LIST_NEXT(l, link);
		if (!l->confirmed)
			listener_remove(l);
	}
}

/* A guard is here. The same as before our own start: its word holds. A new one must give it again.
 */
void listeners_guard_started(struct dispatcher *d)
{
	bool same = d->memory->guard == d->peer[ROLE_GUARD].generation;
	struct listener *l;
	LIST_FOREACH (l, &d->listeners, link)
		if (l->kind != LISTENER_CONTROL)
			l->confirmed = same;
	d->memory->guard = d->peer[ROLE_GUARD].generation;
	if (!same)
		uv_timer_start(&d->confirm, on_confirm, LISTENER_CONFIRM_MS, 0);
}

static int tcp_listen(const struct addr *a)
{
	struct sockaddr_storage ss;
	socklen_t len;
	int one = 1, family = a->ip_len == 4 ? AF_INET : AF_INET6;
	int r = addr_to_sockaddr(a, family, &ss, &len);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return -errno;
	/* Connections of a closed predecessor in TIME_WAIT must not keep the port. */
	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) < 0 ||
		bind(fd, (struct sockaddr *)&ss, len) < 0 || listen(fd, LISTEN_BACKLOG) < 0)
		return -errno;
	return take_fd(&fd);
}

/* The listener as wanted: the standing one if its address is the same, else a new one. */
static int listener_want(
	struct dispatcher *d, enum listener_kind kind, uint64_t id, const struct addr *a)
{
	char name[HERITAGE_NAME_MAX];
	struct listener *l = listener_find(d, kind, id);
	if (l && addr_equal(&l->addr, a)) {
		l->confirmed = true;
		return 0;
	}
	if (l)
		listener_remove(l);
	int fd = tcp_listen(a);
	if (fd < 0)
		return fd;
	l = listener_add(d, kind, id, fd);
	if (!l)
		return -ENOBUFS;
	l->confirmed = true;
	listener_name(l, name);
	int r = component_keep(&d->component, name, fd);
	if (r < 0)
		listener_remove(l);
	return r;
}

static int want_text(struct dispatcher *d, enum listener_kind kind, const char *text)
{
	struct addr a;
	if (*text) {
		int r = addr_parse(text, &a);
		return r < 0 ? r : listener_want(d, kind, 0, &a);
	}
	struct listener *l = listener_find(d, kind, 0);
	if (l)
		listener_remove(l);
	return 0;
}

static int answer(struct dispatcher *d, Belay__ToComponent *m)
{
	listeners_update(d);
	return ipc_send(&d->peer[ROLE_GUARD].chan, &m->base, NULL, 0);
}

int listeners_listen(struct dispatcher *d, const Belay__Listen *m)
{
	int r = want_text(d, LISTENER_LINK, m->link);
	if (!r)
		r = want_text(d, LISTENER_DATA, m->data);
	Belay__ToComponent reply = BELAY__TO_COMPONENT__INIT;
	Belay__Listen body = *m;
	body.error = r;
	reply.body_case = BELAY__TO_COMPONENT__BODY_LISTEN;
	reply.listen = &body;
	return answer(d, &reply);
}

int listeners_publish(struct dispatcher *d, const Belay__Publish *m)
{
	struct addr a = {.port = (uint16_t)m->port};
	int r = -EINVAL;
	if ((m->ip.len == 4 || m->ip.len == 16) && m->port > 0 && m->port <= UINT16_MAX) {
		a.ip_len = (uint8_t)m->ip.len;
		memcpy(a.ip, m->ip.data, m->ip.len);
		r = listener_want(d, LISTENER_PUBLISHED, m->id, &a);
	}
	Belay__ToComponent reply = BELAY__TO_COMPONENT__INIT;
	Belay__Publish body = *m;
	body.error = r;
	reply.body_case = BELAY__TO_COMPONENT__BODY_PUBLISH;
	reply.publish = &body;
	return answer(d, &reply);
}

void listeners_unpublish(struct dispatcher *d, uint64_t id)
{
	struct listener *l = listener_find(d, LISTENER_PUBLISHED, id);
	if (l)
		listener_remove(l);
}
