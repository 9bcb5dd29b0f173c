/*
 * The small world of the property test: random policies in words, random questions, and what a
 * reading of docs/policy.md word by word says of them. Shared by test-property.c (which compares),
 * test-world.c (which makes and prints) and test-reference.c (which judges).
 */
#pragma once

#include <stdio.h>

#include "policy/policy.h"

enum { NODE_SELF = 3, NODE_ANY = 4 };
struct net {
	const char *text;
	uint8_t ip[16], len, bits;
};
/* Written as the policy says it, and as it is meant: days from Monday, hours. */
struct window {
	const char *text;
	unsigned days, from, to;
};
extern const struct net world_nets[7];
extern const struct window world_windows[4];
extern const unsigned world_members[3];
extern const uint16_t world_ranges[5][2];
extern const char *const world_paths[4],
	*const world_programs[5], *const world_groups[3],
					  *const world_users[3], *const world_nodes[5],
									 *const world_side_units[4];
extern const uint32_t world_uids[3];

struct party {
	unsigned programs, groups, users, nodes, roles, units;
	bool star;
};
struct rule {
	char name[8];
	bool deny;
	unsigned ops; /* 1 << policy_op */
	struct party from, to;
	unsigned nets, ranges;
	int transport, unix_path, plain; /* -1: not given; transport 2: any */
	int encrypt;
	bool permissive;
	unsigned windows, labels;
	unsigned idle, connections, rate; /* minutes */
};

/* What the whole policy says besides its rules. */
struct head {
	bool run_enrolled, accept_listed, permissive_any;
	unsigned permissive; /* programs */
};

/* A question in words; the evaluator's own is made from it for each compiled policy. */
struct side {
	unsigned programs, groups; /* groups given at enrolment */
	unsigned user, node, unit; /* indices; node 0 is self */
	bool enrolled;
};
struct asked {
	struct policy_question q;
	struct side from, to;
};

struct expected {
	bool allow, encrypt, permissive;
	unsigned idle, connections, rate, applies; /* applies: set of rules that may be named */
};

/* test-world.c */
unsigned world_rnd(unsigned n);
bool world_chance(unsigned percent);
struct head random_head(void);
/* Only what the compiler accepts. */
void random_rule(struct rule *r, unsigned i);
void random_question(struct asked *a);
void print_policy(
	FILE *f, const struct head *h, const struct rule *rules, const unsigned *order, unsigned n);

/* test-reference.c */
bool party_empty(const struct party *a);
struct expected reference(
	const struct rule *rules, unsigned n, const struct head *h, const struct asked *a);
