/* Datagrams: what connect.c and the two sides of a channel between nodes need of them. */
#pragma once

#include "fabric.pb-c.h"
#include "guard/guard.h"

/* The destination's grant for the job's socket; answers the job. c: the channel it has to there. */
void datagram_order(struct job *j, bool dns, const struct channel *c);
/* The channel has ended: its socket reaches that destination no more, and has to ask. */
void datagram_ended(struct guard *g, const struct channel *c);
/* j->caller to an address that is not this node's, on a datagram socket; answers the job. */
void datagram_beyond(struct job *j);
/* UDP has no end of its own: a channel of datagrams always has an idle limit. */
#define DATAGRAM_IDLE_MS 120000u
uint64_t datagram_idle(Belay__Transport transport, uint64_t idle_ms);
/* Fills what an order to pair a datagram socket says beyond one for TCP; nothing for TCP. */
int datagram_pair(struct job *j, Belay__FabricPair *o, bool outside) _must_check_;
/* The program's socket of that name is gone: so are its channels. */
void datagram_socket_gone(struct guard *g, const struct addr *a);
