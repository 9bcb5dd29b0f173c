/*
 * Grants: which (principal, transport, destination) has which mark. The kernel's copy is the
 * fabric's; this table says what to revoke, and to whom a datagram may be answered.
 */
#pragma once

#include "guard/guard.h"

#define DATAGRAM_PEERS_MAX 1024

struct grant {
	LIST_ENTRY(grant) link;
	uint32_t mark;
	Belay__Transport transport;
	struct addr destination;
	struct subject *from, *to; /* to NULL: the relay of name queries */
	bool dns;
};

int grants_init(struct guard *g) _must_check_;
void grants_deinit(struct guard *g);
/* The mark of (from's principal, transport, destination): the old one, or a new, unguessable one.
 */
int grant_mark(struct guard *g, Belay__Transport transport, struct subject *from,
	struct subject *to, const struct addr *destination, bool dns, uint32_t *ret) _must_check_;
/* NULL: no grant has that mark. */
struct grant *grant_by_mark(struct guard *g, Belay__Transport transport, uint32_t mark);
/* The socket at `client` was allowed to send datagrams to `server`: server may answer it. */
void grant_datagram_note(struct guard *g, const struct addr *client, uint64_t server_principal);
bool grant_datagram_answer(struct guard *g, const struct addr *client, uint64_t server_principal);
/* A listener went: what was granted towards it must not reach whoever binds there next. */
void grant_destination_gone(struct guard *g, Belay__Transport transport, const struct addr *a);
/* Judges all again; what no longer holds is revoked. Connections' grants go in any case. */
void grant_judge(struct guard *g);
