/*
 * Fair shares of the guard's tables: nobody can use one up for the others.
 *
 * Who is charged: the user whose run tree it is, another node for what it asks of us, all visitors
 * from outside as one. The rule is the same for every table: whoever holds less than the table's
 * floor gets a place while there is one; beyond it a place only while he holds less than is still
 * free. So one alone gets half of a table, two a third each, and some of it is always free for
 * whoever comes next.
 *
 * Cost: one probe of a short chain; an entry of 48 bytes for each who holds anything.
 */
#pragma once

#include "guard/guard.h"

enum share {
	SHARE_PROCESSES,
	SHARE_BINDS,
	SHARE_CHANNELS,
	SHARE_QUESTIONS,
	SHARE_REFUSALS, /* remembered for `belay why`: the heaviest loses his oldest */
	SHARE_REPEATS,  /* refusals being counted rather than logged one by one */
	_SHARE_N
};

typedef uint64_t share_who;

share_who share_user(uint32_t uid);
share_who share_node(const struct guard *g, const char *node);
/* A subject's: its node if that is another, else its user. NULL: visitors from outside. */
share_who share_subject(const struct guard *g, const struct subject *s);
/* A run tree's user; visitors' share for 0 or a tree that has gone. */
share_who share_tree(struct guard *g, uint64_t tree);

/* May it take one more place? */
bool share_free(struct guard *g, enum share what, share_who who);
void share_add(struct guard *g, enum share what, share_who who);
void share_drop(struct guard *g, enum share what, share_who who);
size_t share_count(struct guard *g, enum share what, share_who who);
/* "… more channels than the share of one user or node (docs/policy.md)": why a place was refused.
 */
const char *share_refusal(enum share what);
int shares_init(struct guard *g) _must_check_;
void shares_deinit(struct guard *g);
