/*
 * This node as a node: its name, addresses and ports, what the registry holds of it and of the
 * others, and where it listens (remote.h).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "component.pb-c.h"
#include "crypto/random.h"
#include "guard/auditing.h"
#include "guard/remote.h"
#include "registry/registry.h"

#define META_SELF "node.self" /* "name listen data address…" */

/* ---- the dispatcher listens ---- */

static void tell_dispatcher(struct guard *g)
{
	char link[ADDR_TEXT_MAX], data[ADDR_TEXT_MAX];
	Belay__Listen l = BELAY__LISTEN__INIT;
	Belay__FromComponent m = BELAY__FROM_COMPONENT__INIT;
	addr_format(&g->remote->listen, true, link);
	addr_format(&g->remote->data, true, data);
	l.link = link;
	l.data = data;
	m.body_case = BELAY__FROM_COMPONENT__BODY_LISTEN;
	m.listen = &l;
	if (g->node[0] && ipc_send(&g->component.dispatcher, &m.base, NULL, 0) < 0)
		log_error("cannot ask the dispatcher to listen for nodes");
}

void remote_dispatcher_up(struct guard *g)
{
	tell_dispatcher(g);
}

int remote_listen_answer(struct guard *g, const void *listen)
{
	const Belay__Listen *l = listen;
	if (l->error) {
		log_error("cannot listen for other nodes on %s and %s: %s (try another --listen)",
			l->link, l->data, strerror(-l->error));
		if (auditing_admin(g, 0, "node-listen", l->link, l->error) < 0)
			log_error("cannot log that nobody listens");
	}
	return 0;
}

/* ---- what the registry holds ---- */

static int self_save(struct guard *g, struct error *e)
{
	char text[REGISTRY_META_MAX / 8], a[ADDR_TEXT_MAX], b[ADDR_TEXT_MAX];
	addr_format(&g->remote->listen, true, a);
	addr_format(&g->remote->data, true, b);
	int len = snprintf(text, sizeof(text), "%s %s %s", g->node, a, b);
	for (size_t i = 0; i < g->n_addresses; i++) {
		addr_format(&g->addresses[i], false, a);
		len += snprintf(text + len, sizeof(text) - (size_t)len, " %s", a);
	}
	return registry_meta_set(g->registry, META_SELF, text, (size_t)len, e);
}

static int self_load(struct guard *g)
{
	char text[REGISTRY_META_MAX / 8 + 1], *save, *word;
	size_t len;
	int r = registry_meta_get(g->registry, META_SELF, text, sizeof(text) - 1, &len);
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	text[len] = '\0';
	size_t at = 0;
	for (word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save), at++) {
		if (at == 0)
			snprintf(g->node, sizeof(g->node), "%s", word);
		else if (at <= 2)
			r = addr_parse(word, at == 1 ? &g->remote->listen : &g->remote->data);
		else if (g->n_addresses < NODE_ADDRESSES_MAX)
			r = addr_parse(word, &g->addresses[g->n_addresses++]);
		if (r < 0)
			return -EBADMSG;
	}
	return at < 3 ? -EBADMSG : 0;
}

int remote_self_set(struct guard *g, const char *name, const struct addr *addresses,
	size_t n_addresses, const struct addr *listen, const struct addr *data, struct error *e)
{
	snprintf(g->node, sizeof(g->node), "%s", name);
	memcpy(g->addresses, addresses, n_addresses * sizeof(*addresses));
	g->n_addresses = n_addresses;
	g->remote->listen = *listen;
	g->remote->data = *data;
	int r = self_save(g, e);
	if (r < 0)
		return r;
	guard_addresses_changed(g);
	tell_dispatcher(g);
	remote_tell_peers(g);
	return 0;
}

static int node_load(struct guard *g, const struct node *row)
{
	struct remote_node *n = remote_node_get(g, row->name);
	if (!n)
		return -ENOBUFS;
	if (row->link[0] && addr_parse(row->link, &n->link) < 0)
		return -EBADMSG;
	if (row->data[0] && addr_parse(row->data, &n->data) < 0)
		return -EBADMSG;
	for (size_t i = 0; i < row->n_addresses; i++)
		if (addr_parse(row->addresses[i], &n->addresses[n->n_addresses++]) < 0)
			return -EBADMSG;
	return 0;
}

/* ---- life ---- */

int remote_init(struct guard *g, struct error *e)
{
	g->remote = calloc(1, sizeof(*g->remote));
	if (!g->remote)
		return error_set(e, -ENOMEM, "out of memory");
	uv_timer_init(&g->component.loop, &g->remote->timer);
	g->remote->timer.data = g;
	random_bytes(&g->remote->boot, sizeof(g->remote->boot));
	int r = remote_leases_init(g);
	if (r == 0)
		r = remote_domain_init(g);
	if (r == 0)
		r = self_load(g);
	const struct node *row;
	for (size_t i = 0; r == 0 && (row = registry_node(g->registry, i)) != NULL; i++)
		r = node_load(g, row);
	if (r < 0)
		return error_errno(e, r, "the registry's list of nodes cannot be read");
	tell_dispatcher(g);
	return 0;
}

static void remote_closed(uv_handle_t *h)
{
	free((char *)h - offsetof(struct remote, timer));
}

void remote_deinit(struct guard *g)
{
	if (!g->remote)
		return;
	remote_leases_deinit(g);
	for (size_t i = 0; i < g->remote->n_nodes; i++) {
		remote_opens_drop(g, g->remote->nodes[i]);
		secret_zero(g->remote->nodes[i], sizeof(*g->remote->nodes[i]));
		free(g->remote->nodes[i]);
	}
	g->remote->n_nodes = 0;
	remote_domain_deinit(g);
	uv_close((uv_handle_t *)&g->remote->timer, remote_closed);
	g->remote = NULL;
}

void remote_status(struct guard *g, char *ret_node, size_t len)
{
	snprintf(ret_node, len, "%s", g->node);
}
