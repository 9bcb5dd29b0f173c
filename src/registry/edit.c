/*
 * Changes of the registry (registry.h). Input: the administrator's words, through the guard. Each
 * change is checked whole, then written in one transaction (store.c); all texts bound as
 * parameters.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "registry/internal.h"

/* ---- programs ---- */

static bool argv0_check(const char *name)
{
	char clean[REGISTRY_ARGV0_SIZE];
	size_t n = strlen(name);
	return n && !strchr(name, '/') && text_scrub(name, n, clean, sizeof(clean));
}

static int enrollment_check(const struct enrollment *n, struct error *e)
{
	if (!n->name || !name_check(n->name))
		return error_set(e, -EINVAL,
			"cannot enroll: a name is 1 to %d of letters, digits, '.', '_' and '-'",
			NAME_SIZE - 1);
	if (n->group && n->group[0] && !name_check(n->group))
		return error_set(e, -EINVAL,
			"cannot enroll '%s': a group's name is 1 to %d of letters, digits, '.', "
			"'_' "
			"and '-'",
			n->name, NAME_SIZE - 1);
	if (digest_is_none(&n->sha256))
		return error_set(
			e, -EINVAL, "cannot enroll '%s': its file was not hashed", n->name);
	if (n->n_argv0 > REGISTRY_ARGV0_MAX)
		return error_set(e, -E2BIG, "cannot enroll '%s': more than %d permitted names",
			n->name, REGISTRY_ARGV0_MAX);
	for (size_t i = 0; i < n->n_argv0; i++)
		if (!argv0_check(n->argv0[i]))
			return error_set(e, -EINVAL,
				"cannot enroll '%s': a permitted name is the base name of argv[0], "
				"at "
				"most %d bytes without '/' and control characters",
				n->name, REGISTRY_ARGV0_SIZE - 1);
	if ((n->flags & PROGRAM_INTERPRETER) && !(n->flags & PROGRAM_LIBRARY) &&
		digest_is_none(&n->script_sha256))
		return error_set(e, -EINVAL,
			"cannot enroll '%s': an interpreter identifies nothing alone (try --script "
			"FILE, or --not-interpreter if it runs only itself)",
			n->name);
	if ((n->path && strlen(n->path) >= REGISTRY_PATH_SIZE) ||
		(n->script_path && strlen(n->script_path) >= REGISTRY_PATH_SIZE))
		return error_set(
			e, -ENAMETOOLONG, "cannot enroll '%s': its path is too long", n->name);
	return 0;
}

/* A revoked name that is enrolled again is valid again, even if the clock went back meanwhile. */
static uint64_t enrollment_time(const struct registry *r, const char *name)
{
	uint64_t now = clock_wall_ms();
	const struct revocation *v = snapshot_revocation(r, r->now, REVOKED_PROGRAM, name);
	return v && v->before_ms >= now ? v->before_ms + 1 : now;
}

static int write_program(struct registry *r, const struct enrollment *n)
{
	_cleanup_stmt_ sqlite3_stmt *s = NULL, *del = NULL, *name = NULL, *group = NULL;
	if (store_prepare(r,
		    "INSERT INTO program(name, grp, sha256, script, size, flags, path, "
		    "script_path, "
		    "enrolled) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT(name, sha256, script) "
		    "DO "
		    "UPDATE SET size = excluded.size, flags = excluded.flags, path = "
		    "excluded.path, "
		    "script_path = excluded.script_path, enrolled = excluded.enrolled RETURNING id",
		    &s) < 0 ||
		store_prepare(r, "DELETE FROM argv0 WHERE program = ?", &del) < 0 ||
		store_prepare(r, "INSERT OR IGNORE INTO argv0(program, name) VALUES(?, ?)", &name) <
			0 ||
		store_prepare(r, "UPDATE program SET grp = ? WHERE name = ?", &group) < 0)
		return -EIO;
	store_bind_text(s, 1, n->name);
	store_bind_text(s, 2, n->group);
	store_bind_digest(s, 3, &n->sha256);
	store_bind_digest(s, 4, &n->script_sha256);
	sqlite3_bind_int64(s, 5, (int64_t)n->size);
	sqlite3_bind_int64(s, 6, n->flags);
	store_bind_text(s, 7, n->path);
	store_bind_text(s, 8, n->script_path);
	sqlite3_bind_int64(s, 9, (int64_t)enrollment_time(r, n->name));
	if (sqlite3_step(s) != SQLITE_ROW)
		return -EIO;
	int64_t id = sqlite3_column_int64(s, 0);
	if (sqlite3_step(s) != SQLITE_DONE)
		return -EIO;
	sqlite3_bind_int64(del, 1, id);
	int k = store_run(del);
	for (size_t i = 0; k == 0 && i < n->n_argv0; i++) {
		sqlite3_bind_int64(name, 1, id);
		store_bind_text(name, 2, n->argv0[i]);
		k = store_run(name);
	}
	store_bind_text(group, 1, n->group);
	store_bind_text(group, 2, n->name);
	return k ? k : store_run(group);
}

int registry_enroll(struct registry *r, const struct enrollment *n, struct error *e)
{
	int k = enrollment_check(n, e);
	if (k < 0)
		return k;
	k = store_begin(r, "enroll", e);
	return k < 0 ? k : store_finish(r, write_program(r, n), "enroll", e);
}

int registry_unenroll(
	struct registry *r, const char *name, const struct digest *sha256, struct error *e)
{
	static const char what[] = "unenroll";
	int k = store_begin(r, what, e);
	if (k < 0)
		return k;
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	k = store_prepare(
		r, "DELETE FROM program WHERE name = ?1 AND (?2 IS NULL OR sha256 = ?2)", &s);
	if (k == 0) {
		store_bind_text(s, 1, name);
		if (sha256)
			store_bind_digest(s, 2, sha256);
		k = store_run(s);
	}
	if (k == 0 && sqlite3_changes(r->db) == 0) {
		store_rollback(r);
		return error_set(e, -ENOENT,
			"cannot unenroll '%s': no such program (try `belay programs`)", name);
	}
	return store_finish(r, k, what, e);
}

/* ---- revocations ---- */

int registry_revoke(struct registry *r, enum revoked_kind kind, const char *subject,
	const char *why, struct error *e)
{
	static const char what[] = "revoke";
	size_t n = strlen(subject);
	if (!n || n >= NAME_SIZE)
		return error_set(e, -EINVAL, "cannot revoke: 1 to %d characters name a subject",
			NAME_SIZE - 1);
	int k = store_begin(r, what, e);
	if (k < 0)
		return k;
	/* Covers whatever was issued so far, also under a clock that has gone back since. */
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	k = store_prepare(r,
		"INSERT INTO revocation(kind, subject, before, why) VALUES(?1, ?2, max(?3, "
		"(SELECT ifnull(max(enrolled), 0) FROM program WHERE ?1 = 0 AND name = ?2)), ?4) "
		"ON CONFLICT(kind, subject) DO UPDATE SET before = max(before, excluded.before), "
		"why = excluded.why",
		&s);
	if (k == 0) {
		sqlite3_bind_int(s, 1, (int)kind);
		store_bind_text(s, 2, subject);
		sqlite3_bind_int64(s, 3, (int64_t)clock_wall_ms());
		store_bind_text(s, 4, why);
		k = store_run(s);
	}
	return store_finish(r, k, what, e);
}

int registry_unrevoke(
	struct registry *r, enum revoked_kind kind, const char *subject, struct error *e)
{
	static const char what[] = "undo the revocation";
	int k = store_begin(r, what, e);
	if (k < 0)
		return k;
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	k = store_prepare(r, "DELETE FROM revocation WHERE kind = ? AND subject = ?", &s);
	if (k == 0) {
		sqlite3_bind_int(s, 1, (int)kind);
		store_bind_text(s, 2, subject);
		k = store_run(s);
	}
	if (k == 0 && sqlite3_changes(r->db) == 0) {
		store_rollback(r);
		return error_set(e, -ENOENT,
			"cannot undo the revocation of '%s': it is not revoked", subject);
	}
	return store_finish(r, k, what, e);
}

/* ---- meta ---- */

int registry_meta_set(
	struct registry *r, const char *key, const void *value, size_t len, struct error *e)
{
	static const char what[] = "save a setting";
	if (len > REGISTRY_META_MAX)
		return error_set(e, -E2BIG, "cannot %s: '%s' is too long", what, key);
	int k = store_begin(r, what, e);
	if (k < 0)
		return k;
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	k = store_prepare(r,
		value ? "INSERT INTO meta(key, value) VALUES(?, ?) ON CONFLICT(key) DO UPDATE SET "
			"value = excluded.value"
		      : "DELETE FROM meta WHERE key = ?",
		&s);
	if (k == 0) {
		store_bind_text(s, 1, key);
		if (value && len)
			sqlite3_bind_blob(s, 2, value, (int)len, SQLITE_STATIC);
		else if (value)
			sqlite3_bind_zeroblob(s, 2, 0);
		k = store_run(s);
	}
	return store_finish(r, k, what, e);
}

int registry_meta_get(struct registry *r, const char *key, void *ret, size_t size, size_t *ret_len)
{
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	if (store_prepare(r, "SELECT value FROM meta WHERE key = ?", &s) < 0)
		return -EIO;
	store_bind_text(s, 1, key);
	int k = sqlite3_step(s);
	if (k != SQLITE_ROW)
		return k == SQLITE_DONE ? -ENOENT : -EIO;
	size_t n = (size_t)sqlite3_column_bytes(s, 0);
	if (n > size)
		return -ENOBUFS;
	const void *p = sqlite3_column_blob(s, 0);
	if (n)
		memcpy(ret, p, n);
	*ret_len = n;
	return 0;
}
