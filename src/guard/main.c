/*
 * belay-guard: sets up, enters its sandbox, serves. What the dispatcher brings is taken here; what
 * each arrow's messages mean is in events.c.
 */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/log.h"
#include "component.pb-c.h"
#include "guard/control.h"
#include "guard/guard.h"
#include "guard/parts.h"
#include "guard/publish.h"
#include "ipc/component.h"
#include "sandbox/sandbox.h"

/* ---- what the dispatcher brings ---- */

static int on_arrow(struct component *c, enum role peer, int fd)
{
	return arrow_open(c->data, peer, fd);
}

static int on_connection(struct component *c, const Belay__Connection *m, int *fds, size_t n_fds)
{
	switch (m->kind) {
	case BELAY__CONNECTION_KIND__CONNECTION_CONTROL:
		control_connection(c->data, m, fds, n_fds);
		return 0;
	case BELAY__CONNECTION_KIND__CONNECTION_PUBLISHED:
		publish_connection(c->data, m, fds, n_fds);
		return 0;
	case BELAY__CONNECTION_KIND__CONNECTION_LINK:
	case BELAY__CONNECTION_KIND__CONNECTION_DATA:
	case _BELAY__CONNECTION_KIND_IS_INT_SIZE:
	default:
		return -EBADMSG;
	}
}

static int on_notice(struct component *c, const Belay__ToComponent *m)
{
	switch (m->body_case) {
	case BELAY__TO_COMPONENT__BODY_PEER_ENDED:
		parts_notice(c->data, m->peer_ended);
		return 0;
	case BELAY__TO_COMPONENT__BODY_PUBLISH:
		publish_answer(c->data, m->publish);
		return 0;
	case BELAY__TO_COMPONENT__BODY_LISTEN:
		return remote_listen_answer(c->data, m->listen);
	default:
		return -EBADMSG;
	}
}

static const struct component_ops ops = {
	.on_arrow = on_arrow, .on_connection = on_connection, .on_notice = on_notice};

/* ---- set-up ---- */

static void read_resolvers(struct guard *g)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	char *save;
	const struct heritage *h = &g->component.heritage;
	for (size_t i = 0; i < h->n_resolvers && i < ARRAY_LEN(g->resolvers); i++)
		g->resolvers[g->n_resolvers++] = h->resolvers[i];
	if (h->n_resolvers)
		return;
	if (fds_read_file(AT_FDCWD, "/etc/resolv.conf", 65536, &text, &len) < 0)
		return;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		char word[ADDR_TEXT_MAX];
		struct addr a;
		if (sscanf(line, " nameserver %63s", word) != 1 || addr_parse(word, &a) < 0)
			continue;
		a.port = 53;
		if (g->n_resolvers < ARRAY_LEN(g->resolvers))
			g->resolvers[g->n_resolvers++] = a;
	}
}

int main(int argc, char **argv)
{
	static struct guard guard;
	struct guard *g = &guard;
	struct error e = ERROR_INIT;
	g->facts = 1;
	g->started_ms = clock_mono_ms();
	if (component_open(&g->component, argc, argv, &ops, g, &e) < 0 || sodium_init() < 0) {
		log_error("%s", e.text[0] ? e.text : "cannot set up");
		return 1;
	}
	read_resolvers(g);
	char link[32];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", g->component.heritage.state_dir);
	if (readlink(link, g->state_path, sizeof(g->state_path) - 1) < 0)
		g->state_path[0] = '\0';
	struct sandbox_path paths[] = {{.fd = g->component.heritage.state_dir, .write = true},
		{.path = "/etc/passwd", .fd = -1}};
	struct sandbox_args args = {.paths = paths, .n_paths = ARRAY_LEN(paths)};
	if (guard_open(g, &e) < 0 || sandbox_enter(SANDBOX_GUARD, &args, &e) < 0) {
		log_error("%s", e.text);
		return 1;
	}
	int r = discard_start();
	if (r < 0) {
		log_error("cannot start a thread: %s", strerror(-r));
		return 1;
	}
	int status = component_run(&g->component);
	guard_close(g);
	return status;
}
