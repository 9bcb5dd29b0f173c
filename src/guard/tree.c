/* Run trees (tree.h). Few, so a list. */
#include "guard/tree.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "guard/auditing.h"
#include "guard/process.h"
#include "guard/state.h"

struct tree {
	LIST_ENTRY(tree) link;
	uint64_t id;
	uint32_t pid, uid;
	int slot;
	bool ran; /* its program has started */
	char as[NAME_MAX_LEN];
};

struct trees {
	LIST_HEAD(, tree) list;
	size_t n;
};

int trees_init(struct guard *g)
{
	g->trees = calloc(1, sizeof(*g->trees));
	return g->trees ? 0 : -ENOMEM;
}

void trees_deinit(struct guard *g)
{
	while (g->trees && !LIST_EMPTY(&g->trees->list)) {
		struct tree *t = LIST_FIRST(&g->trees->list);
		LIST_REMOVE(t, link);
		free(t);
	}
	free(g->trees);
	g->trees = NULL;
}

size_t trees_count(const struct guard *g)
{
	return g->trees->n;
}

static struct tree *tree_find(struct guard *g, uint64_t id)
{
	struct tree *t;
	LIST_FOREACH (t, &g->trees->list, link)
		if (t->id == id)
			return t;
	return NULL;
}

bool tree_known(struct guard *g, uint64_t id)
{
	return tree_find(g, id) != NULL;
}

int tree_restore(struct guard *g, uint64_t id, uint32_t pid, uint32_t uid, const char *as, int slot)
{
	if (!id || g->trees->n >= TREES_MAX)
		return -ENOSPC;
	if (tree_find(g, id))
		return -EEXIST;
	struct tree *t = calloc(1, sizeof(*t));
	if (!t)
		return -ENOMEM;
	t->id = id;
	t->pid = pid;
	t->uid = uid;
	t->slot = slot;
	t->ran = true; /* a restored one's has; tree_start() knows better */
	snprintf(t->as, sizeof(t->as), "%s", as);
	LIST_INSERT_HEAD(&g->trees->list, t, link);
	g->trees->n++;
	return 0;
}

int tree_start(struct guard *g, uint32_t pid, uint32_t uid, const char *as, uint64_t *ret)
{
	uint64_t id;
	do {
		randombytes_buf(&id, sizeof(id));
		id >>= 1; /* decimal in descriptor names: keep it a positive number everywhere */
	} while (!id || tree_find(g, id));
	int slot = state_put_tree(g, id, pid, uid, as);
	if (slot < 0)
		return slot;
	int r = auditing_tree(g, true, id, pid, uid, as);
	if (r == 0)
		r = tree_restore(g, id, pid, uid, as, slot);
	if (r < 0) {
		state_drop(g, slot);
		return r;
	}
	tree_find(g, id)->ran = false;
	*ret = id;
	return 0;
}

const char *tree_first_program(struct guard *g, uint64_t id)
{
	struct tree *t = tree_find(g, id);
	if (!t || t->ran)
		return NULL;
	t->ran = true;
	return t->as[0] ? t->as : NULL;
}

void tree_gone(struct guard *g, uint64_t id)
{
	struct tree *t = tree_find(g, id);
	if (!t)
		return;
	process_tree_gone(g, id);
	if (auditing_tree(g, false, id, t->pid, t->uid, t->as) < 0)
		log_error("cannot log the end of a run tree");
	state_drop(g, t->slot);
	LIST_REMOVE(t, link);
	g->trees->n--;
	free(t);
}
