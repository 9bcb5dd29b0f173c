/*
 * Leased verdicts (ipc/lease.h): a process that was just allowed to connect to a listener of this
 * node may do so again unasked while the evidence about both holds, on a socket that carries the
 * grant's mark. What it connects is read from the book and becomes a channel like any other.
 */
#pragma once

#include "guard/guard.h"

int leases_init(struct guard *g) _must_check_;
void leases_deinit(struct guard *g);
/* One of the state table: it holds no more, but what was done under it can be told. */
int lease_restore(struct guard *g, uint32_t number, uint32_t generation,
	const struct channel *template, int slot) _must_check_;
/* Gives enforce the book. */
void lease_enforce_up(struct guard *g);

/*
 * The job's connect was allowed and made; t is its channel's template. False: no lease. The
 * lease's subjects, rule and end are renewed if it is there already.
 */
bool lease_grant(struct guard *g, const struct job *j, const struct channel *t, Belay__Lease *ret);
/* The mark of a lease that holds, or 0. */
uint32_t lease_mark(struct guard *g, uint32_t number, uint32_t generation);
/* Records what was connected up to now. First thing before anything else is looked at. */
void lease_read(struct guard *g);

/* ---- cut short ---- */

void lease_cut_all(struct guard *g);
/* Whichever end it is: it is another image, or another one than was thought, or no more. */
void lease_cut_process(struct guard *g, uint32_t pid);
/* The listener at `a` went: a wildcard stands for every address. */
void lease_cut_destination(struct guard *g, const struct addr *a);
