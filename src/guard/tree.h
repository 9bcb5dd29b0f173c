/* Run trees: what `belay run` started, one protection domain each, known until enforce says it is
 * gone. */
#pragma once

#include "guard/guard.h"

int trees_init(struct guard *g) _must_check_;
void trees_deinit(struct guard *g);
size_t trees_count(const struct guard *g);
bool tree_known(struct guard *g, uint64_t tree);
/* A new tree for the process that will become the program. Recorded and audited before it returns.
 */
int tree_start(
	struct guard *g, uint32_t pid, uint32_t uid, const char *as, uint64_t *ret) _must_check_;
/* At the tree's first exec: the name `belay run --as` asked for, once; else NULL. */
const char *tree_first_program(struct guard *g, uint64_t tree);
int tree_restore(struct guard *g, uint64_t tree, uint32_t pid, uint32_t uid, const char *as,
	int slot) _must_check_;
void tree_gone(struct guard *g, uint64_t tree);
