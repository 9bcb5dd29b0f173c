/* Run trees: what `belay run` started, one protection domain each, known until enforce says it is
 * gone. */
#pragma once

#include "guard/guard.h"

int trees_init(struct guard *g) _must_check_;
void trees_deinit(struct guard *g);
size_t trees_count(const struct guard *g);
/* Whose it is; false when there is no such tree. */
bool tree_uid(struct guard *g, uint64_t id, uint32_t *ret);
bool tree_known(struct guard *g, uint64_t tree);
#define TREE_TOKEN_LEN 16
/*
 * The tree of the process that will become the program: a new one, or the one the same request made
 * before. Recorded and audited before it returns.
 */
int tree_start(struct guard *g, uint32_t pid, uint32_t uid, const char *as,
	const uint8_t token[TREE_TOKEN_LEN], uint64_t *ret) _must_check_;
/* Until the tree's first program may start: the name `belay run --as` asked for, if any; else NULL.
 */
const char *tree_first_program(struct guard *g, uint64_t tree);
/* Its first program is let start. Recorded: whoever is asked again by a lost answer knows it. */
int tree_ran(struct guard *g, uint64_t tree) _must_check_;
int tree_restore(struct guard *g, uint64_t tree, uint32_t pid, uint32_t uid, const char *as,
	bool ran, int slot) _must_check_;
void tree_gone(struct guard *g, uint64_t tree);
/*
 * Gives the tree's descriptors to enforce, again to a successor if need be, until enforce says that
 * the tree outlives it; then the client's request is answered. Takes what it uses of fds.
 */
void tree_give(struct guard *g, uint64_t tree, uint64_t client, int *fds, size_t n_fds);
/* Enforce's words. */
void tree_added(struct guard *g, uint64_t tree);
void trees_held(struct guard *g, const uint64_t *held, size_t n);
