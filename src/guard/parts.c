/* Components as the dispatcher tells of them (parts.h): each start and end is an entry of the log.
 */
#include "guard/parts.h"

#include <errno.h>
#include <stdlib.h>

#include "guard/auditing.h"
#include "guard/publish.h"

int parts_init(struct guard *g)
{
	g->parts = calloc(1, sizeof(*g->parts));
	return g->parts ? 0 : -ENOMEM;
}

void parts_notice(struct guard *g, const Belay__PeerEnded *m)
{
	if (m->role == ROLE_NONE || m->role >= _ROLE_N)
		return;
	struct part *p = &g->parts->part[m->role];
	p->alive = m->started;
	if (m->started) {
		p->pid = m->pid;
		p->restarts = m->generation > 1 ? m->generation - 1 : 0;
	}
	/* What its predecessor was told and had not done yet is lost with it. */
	if (m->started && m->role == ROLE_DISPATCHER && g->restored) {
		publish_again(g);
		remote_dispatcher_up(g);
	}
	auditing_component(g, (enum role)m->role, m->pid, m->started ? "start" : "end", m->how);
}
