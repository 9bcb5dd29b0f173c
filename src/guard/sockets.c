/*
 * Sockets of the fabric for enforce's pools: asked for in batches, made by the fabric, passed on.
 * For a lease they are marked beforehand, so that a connect under it needs nobody. Input: enforce,
 * whose word names a lease; its mark is ours.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "fabric.pb-c.h"
#include "guard/job.h"
#include "guard/lease.h"

struct wanted {
	uint32_t family, enforce, mark;
	Belay__Transport transport;
};

static void sockets_made(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	struct wanted *w = ctx;
	const Belay__FromFabric *m = reply;
	Belay__Sockets s = BELAY__SOCKETS__INIT;
	Belay__ToEnforce out = BELAY__TO_ENFORCE__INIT;
	s.family = w->family;
	s.transport = w->transport;
	s.mark = w->mark;
	out.body_case = BELAY__TO_ENFORCE__BODY_SOCKETS;
	out.sockets = &s;
	if (error || m->error)
		log_warn("the fabric gave no sockets: %s", strerror(-(error ? error : m->error)));
	else if (g->arrows[ROLE_ENFORCE].opened == w->enforce &&
		 arrow_send(g, ROLE_ENFORCE, &out.base, fds, n_fds) < 0)
		log_warn("cannot pass sockets to enforce");
	for (size_t i = 0; i < n_fds; i++)
		close(take_fd(&fds[i])); /* ours, and fresh: nothing that could wait */
	free(w);
}

int jobs_sockets(struct guard *g, const Belay__SocketsWanted *q)
{
	Belay__FabricSockets s = BELAY__FABRIC_SOCKETS__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	if (q->count == 0 || q->count > FDS_PASS_MAX)
		return -EBADMSG;
	s.mark = lease_mark(g, q->lease, q->generation);
	if (q->generation && !s.mark)
		return 0; /* cut meanwhile */
	struct wanted *w = calloc(1, sizeof(*w));
	if (!w)
		return 0;
	w->family = s.family = q->family;
	w->transport = s.transport = q->transport;
	w->mark = s.mark;
	w->enforce = g->arrows[ROLE_ENFORCE].opened;
	s.count = q->count;
	m.body_case = BELAY__TO_FABRIC__BODY_SOCKETS;
	m.sockets = &s;
	int r = arrow_call(g, ROLE_FABRIC, &m.base, NULL, 0, CALL_RESEND, sockets_made, w, NULL);
	if (r < 0)
		free(w);
	return 0;
}
