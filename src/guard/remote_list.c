/* `belay node list`: this node, then the others as the guard knows them at this moment. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "control.pb-c.h"
#include "guard/control.h"
#include "guard/pb.h"
#include "guard/remote.h"

struct row {
	Belay__NodeRow row;
	char link[ADDR_TEXT_MAX], since[32], text[NODE_ADDRESSES_MAX][ADDR_TEXT_MAX],
		*list[NODE_ADDRESSES_MAX];
};

static void row_fill(struct row *r, const char *name, const struct addr *addresses, size_t n,
	const struct addr *link)
{
	belay__node_row__init(&r->row);
	for (size_t i = 0; i < n; i++) {
		addr_format(&addresses[i], false, r->text[i]);
		r->list[i] = r->text[i];
	}
	if (link->ip_len)
		addr_format(link, true, r->link);
	r->row.node = pb_text(name);
	r->row.n_addresses = n;
	r->row.addresses = r->list;
	r->row.link = r->link;
	r->row.since = r->since;
}

static void time_text(uint64_t s, char ret[32])
{
	time_t at = (time_t)s;
	struct tm tm;
	if (gmtime_r(&at, &tm))
		strftime(ret, 32, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* Who was removed and has not come back with a later certificate. */
static void removed_rows(struct guard *g, struct row *rows, Belay__ControlReply *reply)
{
	static const struct addr none;
	const struct removals *l = &g->remote->domain.removals;
	for (size_t i = 0; i < l->n; i++) {
		struct row *w = &rows[reply->n_nodes];
		if (remote_node_find(g, l->list[i].node) || !strcmp(l->list[i].node, g->node))
			continue;
		row_fill(w, l->list[i].node, NULL, 0, &none);
		time_text(l->list[i].before, w->since);
		w->row.removed = true;
		reply->nodes[reply->n_nodes++] = &w->row;
	}
}

void remote_list(struct guard *g, uint64_t client)
{
	struct remote *r = g->remote;
	size_t max = r->n_nodes + 1 + r->domain.removals.n;
	struct row *rows = calloc(max, sizeof(*rows));
	Belay__NodeRow **list = calloc(max, sizeof(*list));
	Belay__ControlReply reply = BELAY__CONTROL_REPLY__INIT;
	if (!rows || !list || !g->node[0]) {
		control_error(g, client, g->node[0] ? -ENOMEM : -ENOENT, "cannot list nodes: %s",
			g->node[0] ? strerror(ENOMEM)
				   : "this instance is no node yet (try belay node init)");
		free(rows);
		free(list);
		return;
	}
	row_fill(&rows[0], g->node, g->addresses, g->n_addresses, &r->listen);
	rows[0].row.self = true;
	rows[0].row.removed = r->domain.out;
	rows[0].row.not_after = r->domain.not_after;
	list[reply.n_nodes++] = &rows[0].row;
	for (size_t i = 0; i < r->n_nodes; i++) {
		const struct remote_node *n = r->nodes[i];
		struct row *w = &rows[reply.n_nodes];
		row_fill(w, n->name, n->addresses, n->n_addresses, &n->link);
		time_text(n->changed_ms / 1000, w->since);
		w->row.not_after = n->not_after;
		w->row.up = n->ready;
		w->row.why = pb_text(n->why);
		list[reply.n_nodes++] = &w->row;
	}
	reply.nodes = list;
	removed_rows(g, rows, &reply);
	control_reply(g, client, &reply);
	free(rows);
	free(list);
}
