/*
 * Nodes and open invitations (registry.h). Input: the administrator's words and certificates,
 * through the guard. An invitation is used up by the transaction that takes it away, so that it
 * works once whatever dies when.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "registry/internal.h"

static int write_node(struct registry *r, const struct node *n)
{
	_cleanup_stmt_ sqlite3_stmt *del = NULL, *s = NULL, *a = NULL;
	if (store_prepare(r, "DELETE FROM node WHERE name = ?", &del) < 0 ||
		store_prepare(r,
			"INSERT INTO node(name, link, data, certificate, joined) VALUES(?, ?, ?, "
			"?, ?)",
			&s) < 0 ||
		store_prepare(r, "INSERT OR IGNORE INTO node_address(node, address) VALUES(?, ?)",
			&a) < 0)
		return -EIO;
	store_bind_text(del, 1, n->name);
	store_bind_text(s, 1, n->name);
	store_bind_text(s, 2, n->link);
	store_bind_text(s, 3, n->data);
	store_bind_digest(s, 4, &n->certificate);
	sqlite3_bind_int64(s, 5, (int64_t)(n->joined_ms ? n->joined_ms : clock_wall_ms()));
	int k = store_run(del);
	k = k ? k : store_run(s);
	for (size_t i = 0; k == 0 && i < n->n_addresses; i++) {
		store_bind_text(a, 1, n->name);
		store_bind_text(a, 2, n->addresses[i]);
		k = store_run(a);
	}
	return k;
}

int registry_node_put(struct registry *r, const struct node *n, struct error *e)
{
	if (!name_check(n->name) || n->n_addresses > REGISTRY_NODE_ADDRESSES_MAX)
		return error_set(e, -EINVAL,
			"cannot add the node: a name is 1 to %d of letters, digits, '.', '_' and "
			"'-', "
			"with at most %d addresses",
			NAME_SIZE - 1, REGISTRY_NODE_ADDRESSES_MAX);
	int k = store_begin(r, "add the node", e);
	return k < 0 ? k : store_finish(r, write_node(r, n), "add the node", e);
}

int registry_node_remove(struct registry *r, const char *name, struct error *e)
{
	static const char what[] = "remove the node";
	int k = store_begin(r, what, e);
	if (k < 0)
		return k;
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	k = store_prepare(r, "DELETE FROM node WHERE name = ?", &s);
	if (k == 0) {
		store_bind_text(s, 1, name);
		k = store_run(s);
	}
	if (k == 0 && sqlite3_changes(r->db) == 0) {
		store_rollback(r);
		return error_set(e, -ENOENT,
			"cannot remove the node '%s': no such node (try `belay node list`)", name);
	}
	return store_finish(r, k, what, e);
}

/* ---- invitations ---- */

static int write_invitation(struct registry *r, const struct invitation *n, uint64_t now_ms)
{
	_cleanup_stmt_ sqlite3_stmt *del = NULL, *s = NULL, *a = NULL;
	if (store_prepare(r, "DELETE FROM invitation WHERE node = ? OR until <= ?", &del) < 0 ||
		store_prepare(
			r, "INSERT INTO invitation(node, secret, until) VALUES(?, ?, ?)", &s) < 0 ||
		store_prepare(r,
			"INSERT OR IGNORE INTO invitation_address(node, address) VALUES(?, ?)",
			&a) < 0)
		return -EIO;
	store_bind_text(del, 1, n->node);
	sqlite3_bind_int64(del, 2, (int64_t)now_ms);
	store_bind_text(s, 1, n->node);
	store_bind_digest(s, 2, &n->secret);
	sqlite3_bind_int64(s, 3, (int64_t)n->until_ms);
	int k = store_run(del);
	k = k ? k : store_run(s);
	for (size_t i = 0; k == 0 && i < n->n_addresses; i++) {
		store_bind_text(a, 1, n->node);
		store_bind_text(a, 2, n->addresses[i]);
		k = store_run(a);
	}
	return k;
}

int registry_invitation_put(
	struct registry *r, const struct invitation *n, uint64_t now_ms, struct error *e)
{
	static const char what[] = "keep the invitation";
	if (!name_check(n->node) || n->n_addresses > REGISTRY_NODE_ADDRESSES_MAX ||
		digest_is_none(&n->secret))
		return error_set(e, -EINVAL, "cannot %s: it is not one", what);
	int k = store_begin(r, what, e);
	return k < 0 ? k : store_finish(r, write_invitation(r, n, now_ms), what, e);
}

const struct invitation *registry_invitation(const struct registry *r, size_t n)
{
	return n < r->now->n_invitations ? &r->now->invitations[n] : NULL;
}

/* Every one is compared, and each in constant time. */
static const struct invitation *invitation_find(
	const struct registry *r, const struct digest *secret)
{
	const struct invitation *found = NULL;
	for (size_t i = 0; i < r->now->n_invitations; i++) {
		const struct invitation *v = &r->now->invitations[i];
		if (sodium_memcmp(v->secret.bytes, secret->bytes, DIGEST_LEN) == 0)
			found = v;
	}
	return found;
}

int registry_invitation_take(
	struct registry *r, const struct digest *secret, struct invitation *ret, struct error *e)
{
	static const char what[] = "take the invitation";
	const struct invitation *found = invitation_find(r, secret);
	if (!found)
		return error_set(e, -ENOENT, "cannot %s: there is none", what);
	struct invitation v = *found;
	int k = store_begin(r, what, e);
	if (k < 0)
		return k;
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	k = store_prepare(r, "DELETE FROM invitation WHERE node = ?", &s);
	if (k == 0) {
		store_bind_text(s, 1, v.node);
		k = store_run(s);
	}
	k = store_finish(r, k, what, e);
	if (k == 0)
		*ret = v;
	return k;
}
