/*
 * Grants: which (principal, transport, destination) has which mark. The kernel's copy is the
 * fabric's; this table says what to revoke, and to whom a datagram may be answered.
 */
#pragma once

#include "guard/guard.h"

#define DATAGRAM_PEERS_MAX 1024

/*
 * Connections have a mark for each grant. All datagram sockets of a principal have one mark, so
 * that one of them may have many destinations; whatever the principal was granted is reached by
 * each of them, and nothing else.
 */
struct principal_mark;
struct grant {
	LIST_ENTRY(grant) link;
	uint32_t mark;
	Belay__Transport transport;
	struct addr destination;
	struct subject *from, *to; /* to NULL: the relay of name queries, or outside of Belay */
	bool dns, outside;
	struct principal_mark *shared; /* datagrams */
};

int grants_init(struct guard *g) _must_check_;
void grants_deinit(struct guard *g);
/*
 * The mark of what is wanted (from, to, transport, destination, dns, outside): the old one, or a
 * new, unguessable one.
 */
int grant_mark(struct guard *g, const struct grant *want, uint32_t *ret) _must_check_;
/*
 * A datagram socket with this mark is in the hands of an image of this principal: if the mark is
 * another's, it reaches nothing any more, for nobody; who still may asks anew.
 */
void grant_inherited(struct guard *g, uint32_t mark, uint64_t principal);
/* The socket at `client` was allowed to send datagrams to `server`: server may answer it. */
void grant_datagram_note(struct guard *g, const struct addr *client, uint64_t server_principal);
bool grant_datagram_answer(struct guard *g, const struct addr *client, uint64_t server_principal);
/* A listener went: what was granted towards it must not reach whoever binds there next. */
void grant_destination_gone(struct guard *g, Belay__Transport transport, const struct addr *a);
/* Judges all again; what no longer holds is revoked. Connections' grants go in any case. */
void grant_judge(struct guard *g);
