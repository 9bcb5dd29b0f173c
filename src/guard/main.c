/*
 * belay-guard: sets up, enters its sandbox, serves. What each arrow's messages mean is in the table
 * below; every one of them comes from another process and is held against what we asked for.
 */
#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attest.pb-c.h"
#include "base/clock.h"
#include "base/log.h"
#include "component.pb-c.h"
#include "conn.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/auditing.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/control.h"
#include "guard/events.h"
#include "guard/grant.h"
#include "guard/idle.h"
#include "guard/job.h"
#include "guard/limit.h"
#include "guard/parts.h"
#include "guard/policies.h"
#include "guard/process.h"
#include "guard/publish.h"
#include "guard/refusals.h"
#include "guard/state.h"
#include "guard/tree.h"
#include "ipc/component.h"
#include "link.pb-c.h"
#include "registry/registry.h"
#include "sandbox/sandbox.h"
#include "signer.pb-c.h"

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

static int open_tables(struct guard *g, struct error *e)
{
	bool fresh;
	int r = state_table_open(g->component.heritage.memory, &g->state, &fresh);
	if (r < 0)
		return error_errno(e, r, "cannot map the state table");
	memcpy(g->hash_key, state_table_key(g->state), sizeof(g->hash_key));
	r = registry_open(g->component.heritage.state_dir, &g->registry, e);
	if (r < 0)
		return r;
	if ((r = parts_init(g)) < 0 || (r = refusals_init(g)) < 0 || (r = processes_init(g)) < 0 ||
		(r = binds_init(g)) < 0 || (r = grants_init(g)) < 0 || (r = channels_init(g)) < 0 ||
		(r = trees_init(g)) < 0 || (r = jobs_init(g)) < 0 || (r = controls_init(g)) < 0 ||
		(r = idle_init(g)) < 0 || (r = policies_init(g)) < 0)
		return error_errno(e, r, "cannot set up");
	r = auditing_init(g, e);
	if (r < 0)
		return r;
	r = arrows_init(g, events_arrows);
	if (r < 0)
		return error_errno(e, r, "cannot set up");
	r = remote_init(g, e);
	if (r < 0)
		return r;
	r = restore_load(g);
	return r < 0 ? error_errno(e, r, "cannot restore the state of before") : 0;
}

static void close_tables(struct guard *g)
{
	controls_deinit(g);
	jobs_deinit(g);
	arrows_deinit(g);
	remote_deinit(g);
	channels_deinit(g);
	limits_deinit(g);
	grants_deinit(g);
	binds_deinit(g);
	processes_deinit(g);
	trees_deinit(g);
	idle_deinit(g);
	auditing_deinit(g);
	policies_deinit(g);
	refusals_deinit(g);
	free(g->parts);
	registry_close(g->registry);
	state_table_close(g->state);
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
	if (open_tables(g, &e) < 0 || sandbox_enter(SANDBOX_GUARD, &args, &e) < 0) {
		log_error("%s", e.text);
		return 1;
	}
	int status = component_run(&g->component);
	close_tables(g);
	return status;
}
