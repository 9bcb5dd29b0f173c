/*
 * Datagrams to another node or to outside of Belay: a channel for each (socket of a program,
 * destination), through conn, as a connection has. It begins with the first datagram that names the
 * destination, or with connect; it ends with the socket, by policy, by revocation, or after its
 * rule's idle time, DATAGRAM_IDLE_MS where that says none. The next datagram begins another.
 *
 * Later datagrams of the socket ask as well when they name their destination; they find the channel
 * and cost the grant's look-up.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include "base/log.h"
#include "guard/channel.h"
#include "guard/datagram.h"
#include "guard/grant.h"
#include "guard/job.h"
#include "guard/pb.h"

uint64_t datagram_idle(Belay__Transport transport, uint64_t idle_ms)
{
	return transport == BELAY__TRANSPORT__TRANSPORT_UDP && !idle_ms ? DATAGRAM_IDLE_MS
									: idle_ms;
}

int datagram_pair(struct job *j, Belay__FabricPair *o, bool outside)
{
	if (j->transport != BELAY__TRANSPORT__TRANSPORT_UDP)
		return 0;
	const struct grant want = {.transport = j->transport,
		.destination = j->address,
		.from = j->caller,
		.to = j->listener,
		.outside = outside};
	int r = grant_mark(j->guard, &want, &j->mark);
	o->transport = j->transport;
	o->mark = j->mark;
	o->connect = j->call == BELAY__QUESTION__CALL__CALL_CONNECT;
	return r;
}

/* Whether a socket of this name is the one at `a`, which may have had no address of its own then.
 */
static bool same_socket(const struct channel *c, const struct addr *a)
{
	return c->a.port == a->port && (addr_is_any(&c->a) || addr_equal(&c->a, a));
}

/* The channel this socket has to j->address already. */
static struct channel *present(struct job *j)
{
	struct guard *g = j->guard;
	struct sockaddr_storage sa;
	socklen_t len = sizeof(sa);
	struct addr name[3] = {{0}, {.ip_len = 4}, {.ip_len = 16}};
	if (getsockname(j->sock, (struct sockaddr *)&sa, &len) < 0 ||
		addr_from_sockaddr(&sa, len, &name[0]) < 0 || !name[0].port)
		return NULL;
	name[1].port = name[2].port = name[0].port;
	for (size_t i = 0; i < ARRAY_LEN(name); i++) {
		struct channel *c = channel_find_names(g, j->transport, &name[i], &j->address);
		if (!c || c->why_ending || !c->initiator)
			continue;
		if (c->from->principal == j->caller->principal)
			return c;
		channel_end(g, c, "its socket is another program's now");
	}
	return NULL;
}

static void go_on(struct job *j, struct channel *c)
{
	const struct grant want = {.transport = j->transport,
		.destination = j->address,
		.from = j->caller,
		.to = c->to,
		.outside = c->via == CHANNEL_PLAIN};
	/* The mark is another one after a restart of ours. */
	if (grant_mark(j->guard, &want, &c->mark) < 0) {
		job_fail(j, -ENOMEM, "send");
		return;
	}
	if (c->to)
		j->listener = subject_ref(c->to);
	if (j->call == BELAY__QUESTION__CALL__CALL_CONNECT)
		connect_order(j, c);
	else
		datagram_order(j, false, c);
}

void datagram_ended(struct guard *g, const struct channel *c)
{
	Belay__FabricRevoke r = BELAY__FABRIC_REVOKE__INIT;
	Belay__ToFabric m = BELAY__TO_FABRIC__INIT;
	Belay__Addr to = pb_addr(&c->b);
	if (c->transport != BELAY__TRANSPORT__TRANSPORT_UDP || !c->initiator || !c->mark)
		return;
	r.mark = c->mark;
	r.destination = &to;
	r.transport = c->transport;
	r.from = c->a.port;
	m.body_case = BELAY__TO_FABRIC__BODY_REVOKE;
	m.revoke = &r;
	/* A fabric that is away comes back without grants. */
	if (arrow_up(g, ROLE_FABRIC) && arrow_order(g, &m, "end a channel's grant") < 0)
		log_warn("cannot order the end of a channel's grant");
}

void datagram_beyond(struct job *j)
{
	struct guard *g = j->guard;
	const char *node = remote_node_of(g, &j->address);
	struct channel *c = present(j);
	if (c) {
		go_on(j, c);
		return;
	}
	if (!node) {
		connect_outside(j);
		return;
	}
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_CONNECT,
		.transport = j->transport,
		.from = j->caller,
		.address = &j->address,
		.to_node = node,
		.caller_only = true};
	decide_ask(g, &q, &j->verdict);
	int r = 0;
	if (!j->verdict.allow)
		job_refuse(j, &q, &j->verdict);
	else
		r = remote_connect(j, node);
	if (r < 0)
		job_answer(j, r, NULL);
}

void datagram_socket_gone(struct guard *g, const struct addr *a)
{
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		if (c->transport == BELAY__TRANSPORT__TRANSPORT_UDP && c->initiator &&
			c->via != CHANNEL_DIRECT && same_socket(c, a))
			channel_end(g, c, "closed");
	}
}
