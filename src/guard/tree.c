/*
 * Run trees (tree.h). Few, so a list. A tree's notify descriptor is the one thing that lets its
 * calls be answered, so it is never in one process alone that may die: this one holds it until
 * enforce has told that belayd keeps it. `belay run` waits for that, and does not exec before.
 */
#include "guard/tree.h"

#include <errno.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "base/discard.h"
#include "base/log.h"
#include "enforce.pb-c.h"
#include "guard/auditing.h"
#include "guard/control.h"
#include "guard/process.h"
#include "guard/state.h"

#define TREES_PER_UID_MAX (TREES_MAX / 4) /* of a host's ordinary user */
#define GIVE_WAIT_MS 5000                 /* for enforce, or its successor, to take a tree */

struct tree {
	LIST_ENTRY(tree) link;
	uint64_t id;
	uint32_t pid, uid;
	int slot;
	bool ran; /* its program was let start */
	char as[NAME_MAX_LEN];
	/* while it is being given: what enforce gets, and who waits */
	int fds[CONTROL_FDS_MAX];
	size_t n_fds;
	uint64_t client, deadline_ms;
	bool held; /* enforce has just named it */
};

struct trees {
	LIST_HEAD(, tree) list;
	size_t n;
	uv_timer_t *timer; /* runs while a tree is being given */
};

static void timer_free(uv_handle_t *h)
{
	free(h);
}

int trees_init(struct guard *g)
{
	g->trees = calloc(1, sizeof(*g->trees));
	uv_timer_t *t = g->trees ? calloc(1, sizeof(*t)) : NULL;
	if (!t)
		return -ENOMEM;
	g->trees->timer = t;
	t->data = g;
	return uv_timer_init(&g->component.loop, t);
}

static void tree_given(struct tree *t)
{
	while (t->n_fds)
		(void)fds_discard(t->fds[--t->n_fds]);
	t->client = 0;
}

void trees_deinit(struct guard *g)
{
	while (g->trees && !LIST_EMPTY(&g->trees->list)) {
		struct tree *t = LIST_FIRST(&g->trees->list);
		LIST_REMOVE(t, link);
		tree_given(t);
		free(t);
	}
	if (g->trees && g->trees->timer)
		uv_close((uv_handle_t *)g->trees->timer, timer_free);
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

bool tree_uid(struct guard *g, uint64_t id, uint32_t *ret)
{
	const struct tree *t = id ? tree_find(g, id) : NULL;
	if (t)
		*ret = t->uid;
	return t != NULL;
}

int tree_restore(struct guard *g, uint64_t id, uint32_t pid, uint32_t uid, const char *as, bool ran,
	int slot)
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
	t->ran = ran;
	snprintf(t->as, sizeof(t->as), "%s", as);
	LIST_INSERT_HEAD(&g->trees->list, t, link);
	g->trees->n++;
	return 0;
}

/* One user of a host leaves room for others. */
static bool tree_admitted(const struct guard *g, uint32_t uid)
{
	size_t n = 0;
	const struct tree *t;
	if (!g->component.heritage.host || uid == g->component.heritage.owner_uid)
		return true;
	LIST_FOREACH (t, &g->trees->list, link)
		n += t->uid == uid;
	return n < TREES_PER_UID_MAX;
}

/*
 * The number of the tree a process asks for: the same for the same request, should it be asked
 * twice because the answer was lost with one of us, and nobody else's: its pid is the kernel's
 * word.
 */
static uint64_t tree_number(const struct guard *g, uint32_t pid, uint32_t uid, const uint8_t *token)
{
	uint8_t all[TREE_TOKEN_LEN + 2 * sizeof(uint32_t)];
	uint64_t id;
	static_assert(sizeof(g->hash_key) == crypto_shorthash_KEYBYTES &&
			      sizeof(id) == crypto_shorthash_BYTES,
		"the keyed hash");
	memcpy(all, token, TREE_TOKEN_LEN);
	memcpy(all + TREE_TOKEN_LEN, &pid, sizeof(pid));
	memcpy(all + TREE_TOKEN_LEN + sizeof(pid), &uid, sizeof(uid));
	crypto_shorthash((uint8_t *)&id, all, sizeof(all), g->hash_key);
	id >>= 1; /* decimal in descriptor names: keep it a positive number everywhere */
	return id ? id : 1;
}

int tree_start(struct guard *g, uint32_t pid, uint32_t uid, const char *as,
	const uint8_t token[TREE_TOKEN_LEN], uint64_t *ret)
{
	uint64_t id = tree_number(g, pid, uid, token);
	const struct tree *old = tree_find(g, id);
	if (old && (old->pid != pid || old->uid != uid))
		return -EEXIST;
	*ret = id;
	if (old)
		return 0;
	if (!tree_admitted(g, uid))
		return -EDQUOT;
	int slot = state_put_tree(g, id, pid, uid, as, false);
	if (slot < 0)
		return slot;
	int r = auditing_tree(g, true, id, pid, uid, as);
	if (r == 0)
		r = tree_restore(g, id, pid, uid, as, false, slot);
	if (r < 0) {
		state_drop(g, slot);
	}
	return r;
}

const char *tree_first_program(struct guard *g, uint64_t id)
{
	struct tree *t = tree_find(g, id);
	return t && !t->ran && t->as[0] ? t->as : NULL;
}

int tree_ran(struct guard *g, uint64_t id)
{
	struct tree *t = tree_find(g, id);
	if (!t || t->ran || !t->as[0])
		return 0;
	int slot = state_put_tree(g, id, t->pid, t->uid, t->as, true);
	if (slot < 0)
		return slot;
	state_drop(g, t->slot);
	t->slot = slot;
	t->ran = true;
	return 0;
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
	if (t->client)
		control_error(g, t->client, -ECANCELED, "the run has ended (try again)");
	tree_given(t);
	free(t);
}

/* ---- into enforce's hands ---- */

static void tree_drop(struct guard *g, uint64_t id)
{
	Belay__TreeDrop drop = BELAY__TREE_DROP__INIT;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	drop.tree = id;
	m.body_case = BELAY__TO_ENFORCE__BODY_TREE_DROP;
	m.tree_drop = &drop;
	if (arrow_up(g, ROLE_ENFORCE) && arrow_send(g, ROLE_ENFORCE, &m.base, NULL, 0) < 0)
		log_warn("cannot have enforce drop a run tree; its successor will be told");
}

/* While the arrow is away nothing happens: enforce's first word on a new one brings us back. */
static void tree_send(struct guard *g, const struct tree *t)
{
	Belay__TreeAdd add = BELAY__TREE_ADD__INIT;
	Belay__ToEnforce m = BELAY__TO_ENFORCE__INIT;
	add.tree = t->id;
	add.pid = t->pid;
	add.uid = t->uid;
	m.body_case = BELAY__TO_ENFORCE__BODY_TREE_ADD;
	m.tree_add = &add;
	if (arrow_up(g, ROLE_ENFORCE) && arrow_send(g, ROLE_ENFORCE, &m.base, t->fds, t->n_fds) < 0)
		log_warn("enforce does not take a run tree; its successor will be asked");
}

static void give_timeout(uv_timer_t *timer)
{
	struct guard *g = timer->data;
	uint64_t now = clock_mono_ms();
	struct tree *t = LIST_FIRST(&g->trees->list), *next;
	bool more = false;
	for (; t; t = next) {
		next = LIST_NEXT(t, link);
		if (!t->n_fds)
			continue;
		if (now < t->deadline_ms) {
			more = true;
			continue;
		}
		component_look(&g->component);
		if (t->client)
			control_error(g, t->client, -EAGAIN,
				"the instance is restarting a part of itself (try again)");
		t->client = 0;
		tree_drop(g, t->id); /* it may have come to hold it */
		tree_gone(g, t->id);
	}
	if (!more)
		uv_timer_stop(timer);
}

void tree_give(struct guard *g, uint64_t id, uint64_t client, int *fds, size_t n_fds)
{
	struct tree *t = tree_find(g, id);
	if (!t)
		return;
	for (; t->n_fds < n_fds && t->n_fds < CONTROL_FDS_MAX; t->n_fds++)
		t->fds[t->n_fds] = take_fd(&fds[t->n_fds]);
	t->client = client;
	t->deadline_ms = clock_mono_ms() + GIVE_WAIT_MS;
	if (!uv_is_active((uv_handle_t *)g->trees->timer))
		uv_timer_start(g->trees->timer, give_timeout, GIVE_WAIT_MS + 1, 1000);
	tree_send(g, t);
}

void tree_added(struct guard *g, uint64_t id)
{
	struct tree *t = tree_find(g, id);
	if (!t) {
		tree_drop(g, id);
		return;
	}
	if (t->client)
		control_text(g, t->client, "");
	tree_given(t);
}

void trees_held(struct guard *g, const uint64_t *held, size_t n)
{
	struct tree *t, *next;
	LIST_FOREACH (t, &g->trees->list, link)
		t->held = false;
	for (size_t i = 0; i < n; i++) {
		t = tree_find(g, held[i]);
		if (t)
			t->held = true;
		if (!t || t->n_fds)
			tree_added(g, held[i]);
	}
	for (t = LIST_FIRST(&g->trees->list); t; t = next) {
		next = LIST_NEXT(t, link);
		if (t->held)
			continue;
		if (t->n_fds)
			tree_send(g, t);
		else
			tree_gone(g, t->id);
	}
}
