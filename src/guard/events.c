/*
 * Messages of the arrows that answer no call: events of the fabric and conn, questions of enforce,
 * the link's. One that an arrow does not have is a surprise. Also what every file may ask of the
 * guard as a whole.
 */
#include "guard/events.h"

#include <errno.h>

#include "attest.pb-c.h"
#include "base/log.h"
#include "component.pb-c.h"
#include "conn.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/auditing.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/datagram.h"
#include "guard/guard.h"
#include "guard/job.h"
#include "guard/lease.h"
#include "guard/pb.h"
#include "guard/state.h"
#include "link.pb-c.h"
#include "signer.pb-c.h"

static int no_event(struct guard *g, const void *message, int *fds, size_t n_fds)
{
	(void)g, (void)message, (void)fds, (void)n_fds;
	return -EBADMSG;
}

static int socket_closed(struct guard *g, const Belay__FabricClosed *c)
{
	Belay__Transport transport = c->transport;
	const Belay__FabricFlow *f = c->flow;
	struct addr a, b;
	if (!f || pb_addr_read(f->a, &a) < 0 || pb_addr_read(f->b, &b) < 0 || !a.ip_len)
		return -EBADMSG;
	if (b.ip_len && transport == BELAY__TRANSPORT__TRANSPORT_TCP)
		channel_socket_gone(g, &a, &b, f->bytes_a_to_b, f->bytes_b_to_a);
	else if (transport == BELAY__TRANSPORT__TRANSPORT_UDP)
		datagram_socket_gone(g, &a);
	/* Of an entry whose socket was bound before it connected, too. */
	bind_socket_gone(g, transport, &a, f->inode, c->listener);
	return 0;
}

/* Whose socket it is, enforce knows; its question comes back. */
static int socket_wants(struct guard *g, const Belay__FabricWants *w)
{
	Belay__SocketWants s = BELAY__SOCKET_WANTS__INIT;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	struct addr to;
	if (pb_addr_read(w->destination, &to) < 0 || !to.ip_len || !w->inode)
		return -EBADMSG;
	s.inode = w->inode;
	s.destination = w->destination;
	m.body_case = BELAY__TO_ENFORCE__BODY_SOCKET_WANTS;
	m.socket_wants = &s;
	if (arrow_up(g, ROLE_ENFORCE) && arrow_send(g, ROLE_ENFORCE, &m.base, NULL, 0) < 0)
		log_warn("enforce does not read");
	return 0;
}

static int fabric_event(struct guard *g, const void *message, int *fds, size_t n_fds)
{
	(void)fds;
	const Belay__FromFabric *m = message;
	if (m->id || n_fds || m->overrun + (m->n_closed > 0) + (m->wants != NULL) != 1)
		return -EBADMSG;
	if (m->wants)
		return socket_wants(g, m->wants);
	if (m->overrun)
		restore_again(g);
	int r = 0;
	for (size_t i = 0; i < m->n_closed && r == 0; i++)
		r = socket_closed(g, m->closed[i]);
	return r;
}

static int conn_closed(struct guard *g, const Belay__ConnClosed *m)
{
	if (m->channel.len != CHANNEL_ID_LEN)
		return -EBADMSG;
	struct channel *c = channel_find(g, m->channel.data);
	if (m->tampered && auditing_admin(g, 0, "tamper", m->reason, 0) < 0)
		log_error("cannot log that a channel was tampered with");
	if (!c)
		return 0; /* we ended it meanwhile, or it was never opened */
	bool ours_sends = c->via != CHANNEL_REMOTE || c->initiator;
	channel_count(c, ours_sends ? m->bytes_sent : m->bytes_received,
		ours_sends ? m->bytes_received : m->bytes_sent, 0);
	if (c->via == CHANNEL_REMOTE && !m->complete)
		remote_channel_ended(g, c, m->reason);
	channel_ended(g, c, m->reason);
	return 0;
}

static int conn_news(struct guard *g, const Belay__ConnNews *m)
{
	int r = 0;
	for (size_t i = 0; r == 0 && i < m->n_used; i++) {
		struct addr local;
		if (m->used[i]->channel.len != CHANNEL_ID_LEN ||
			pb_addr_read(m->used[i]->local, &local) < 0 || !local.ip_len)
			return -EBADMSG;
		remote_stock_used(g, m->used[i]->channel.data, &local);
	}
	for (size_t i = 0; r == 0 && i < m->n_closed; i++)
		r = conn_closed(g, m->closed[i]);
	return r;
}

static int conn_event(struct guard *g, const void *message, int *fds, size_t n_fds)
{
	(void)fds;
	const Belay__FromConn *m = message;
	if (n_fds)
		return -EBADMSG;
	if (m->body_case == BELAY__FROM_CONN__BODY_CLOSED)
		return conn_closed(g, m->closed);
	if (m->body_case == BELAY__FROM_CONN__BODY_NEWS)
		return conn_news(g, m->news);
	return remote_conn_message(g, m);
}

static int link_event(struct guard *g, const void *message, int *fds, size_t n_fds)
{
	(void)fds;
	return n_fds ? -EBADMSG : remote_link_message(g, message);
}

static int enforce_event(struct guard *g, const void *message, int *fds, size_t n_fds)
{
	return jobs_message(g, message, fds, n_fds);
}

static void enforce_up(struct guard *g)
{
	arrow_set_ready(g, ROLE_ENFORCE);
	lease_enforce_up(g);
}

static void enforce_down(struct guard *g)
{
	lease_cut_all(g);
	lease_read(g);
}

/* Its successor begins without grants. */
static void fabric_down(struct guard *g)
{
	remote_arrow_down(g, ROLE_FABRIC);
	lease_cut_all(g);
}

static void conn_up(struct guard *g)
{
	restore_conn_up(g);
	remote_arrow_up(g, ROLE_CONN);
}

static void conn_down(struct guard *g)
{
	/* Its keys died with it: what it carried cannot go on. The fabric's ends are ended too. */
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		/* One that waited for conn's last count does so in vain. */
		if (c->transport == BELAY__TRANSPORT__TRANSPORT_UDP && c->why_ending)
			channel_ended(g, c, "conn was restarted");
		else if (c->via != CHANNEL_DIRECT)
			channel_end(g, c, "conn was restarted");
	}
	remote_arrow_down(g, ROLE_CONN);
}

static void link_up(struct guard *g)
{
	arrow_set_ready(g, ROLE_LINK);
	remote_arrow_up(g, ROLE_LINK);
}

static void link_down(struct guard *g)
{
	remote_arrow_down(g, ROLE_LINK);
}

static void signer_up(struct guard *g)
{
	arrow_set_ready(g, ROLE_SIGNER);
	auditing_signer_up(g);
	remote_arrow_up(g, ROLE_SIGNER);
}

static void signer_down(struct guard *g)
{
	remote_arrow_down(g, ROLE_SIGNER);
}

const struct arrow_ops events_arrows[_ROLE_N] = {
	[ROLE_ATTEST] = {&belay__from_attest__descriptor, no_event, NULL, NULL, 10000},
	[ROLE_SIGNER] = {&belay__from_signer__descriptor, no_event, signer_up, signer_down, 10000},
	[ROLE_FABRIC] = {&belay__from_fabric__descriptor, fabric_event, restore_fabric_up,
		fabric_down, 15000},
	[ROLE_ENFORCE] = {&belay__from_enforce__descriptor, enforce_event, enforce_up, enforce_down,
		5000},
	[ROLE_LINK] = {&belay__from_link__descriptor, link_event, link_up, link_down, 60000},
	[ROLE_CONN] = {&belay__from_conn__descriptor, conn_event, conn_up, conn_down, 60000},
};

/* ---- the guard as a whole ---- */

void guard_addresses_changed(struct guard *g)
{
	lease_cut_all(g); /* the fabric gives up its grants */
	if (arrow_up(g, ROLE_FABRIC) && restore_config(g) < 0)
		log_error("cannot tell the fabric its addresses");
}

void guard_distrust(struct guard *g, enum role role, const char *why)
{
	/* To belayd, who does not die: whoever else is told may be killed before it acts. */
	if (component_reject(&g->component, role, g->component.peer[role], why) < 0)
		log_error("cannot have %s replaced", role_name(role));
}

void guard_end_connection(struct guard *g, const struct addr *a, const struct addr *b)
{
	Belay__FabricDestroy d = BELAY__FABRIC_DESTROY__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr ma = pb_addr(a), mb = pb_addr(b);
	d.a = &ma;
	d.b = &mb;
	m.body_case = BELAY__TO_FABRIC__BODY_DESTROY;
	m.destroy = &d;
	if (arrow_order(g, &m, "end a connection") < 0)
		log_error("cannot order the end of a connection");
}

bool guard_owns(const struct guard *g, const struct addr *a)
{
	if (addr_is_any(a) || addr_is_loopback(a))
		return true;
	for (size_t i = 0; i < g->n_addresses; i++)
		if (addr_same_ip(a, &g->addresses[i]))
			return true;
	return false;
}
