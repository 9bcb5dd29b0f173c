/*
 * The registry's file: opening, its schema and versions, transactions (registry.h). The file is
 * ours alone: the guard holds it exclusively, so SQLite needs no shared memory and, once open, no
 * new file. A file that fails its check or is newer than this program is not touched.
 */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "registry/internal.h"

#define REGISTRY_FILE "registry.db"
#define APPLICATION_ID 0x42656c79 /* "Bely" */

/* Step i brings a file of version i to version i + 1. Never edit a step that was released; append.
 */
static const char *const migrations[] = {
	"CREATE TABLE program("
	"  id INTEGER PRIMARY KEY,"
	"  name TEXT NOT NULL,"
	"  grp TEXT NOT NULL,"
	"  sha256 BLOB NOT NULL CHECK(length(sha256) = 32),"
	"  script BLOB NOT NULL CHECK(length(script) IN (0, 32)),"
	"  size INTEGER NOT NULL CHECK(size >= 0),"
	"  flags INTEGER NOT NULL,"
	"  path TEXT NOT NULL,"
	"  script_path TEXT NOT NULL,"
	"  enrolled INTEGER NOT NULL,"
	"  UNIQUE(name, sha256, script)) STRICT;"
	"CREATE TABLE argv0("
	"  program INTEGER NOT NULL REFERENCES program(id) ON DELETE CASCADE,"
	"  name TEXT NOT NULL,"
	"  UNIQUE(program, name)) STRICT;"
	"CREATE TABLE revocation("
	"  kind INTEGER NOT NULL,"
	"  subject TEXT NOT NULL,"
	"  before INTEGER NOT NULL,"
	"  why TEXT NOT NULL,"
	"  PRIMARY KEY(kind, subject)) STRICT, WITHOUT ROWID;"
	"CREATE TABLE node("
	"  name TEXT PRIMARY KEY,"
	"  link TEXT NOT NULL,"
	"  data TEXT NOT NULL,"
	"  certificate BLOB NOT NULL CHECK(length(certificate) IN (0, 32)),"
	"  joined INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE TABLE node_address("
	"  node TEXT NOT NULL REFERENCES node(name) ON DELETE CASCADE,"
	"  address TEXT NOT NULL,"
	"  UNIQUE(node, address)) STRICT;"
	"CREATE TABLE meta("
	"  key TEXT PRIMARY KEY,"
	"  value BLOB NOT NULL) STRICT, WITHOUT ROWID;",
	"CREATE TABLE invitation("
	"  node TEXT PRIMARY KEY,"
	"  secret BLOB NOT NULL CHECK(length(secret) = 32),"
	"  until INTEGER NOT NULL) STRICT, WITHOUT ROWID;"
	"CREATE TABLE invitation_address("
	"  node TEXT NOT NULL REFERENCES invitation(node) ON DELETE CASCADE,"
	"  address TEXT NOT NULL,"
	"  UNIQUE(node, address)) STRICT;",
};

int store_error(struct registry *r, const char *what, struct error *e)
{
	switch (sqlite3_errcode(r->db) & 0xff) {
	case SQLITE_FULL:
		return error_set(e, -ENOSPC,
			"cannot %s: the disk is full; nothing was changed (try again after "
			"freeing space)",
			what);
	case SQLITE_BUSY:
		return error_set(e, -EBUSY,
			"cannot %s: the registry is in use by another process (try `belay status`: "
			"an instance may be running already)",
			what);
	case SQLITE_CORRUPT:
	case SQLITE_NOTADB:
		return error_set(e, -EBADMSG,
			"cannot %s: the registry file is damaged (try restoring " REGISTRY_FILE
			" from a backup)",
			what);
	case SQLITE_READONLY:
	case SQLITE_CANTOPEN:
	case SQLITE_PERM:
		return error_set(e, -EACCES,
			"cannot %s: %s (try the owner of the instance's directory)", what,
			sqlite3_errmsg(r->db));
	case SQLITE_NOMEM:
		return error_set(e, -ENOMEM, "cannot %s: out of memory", what);
	default:
		return error_set(
			e, -EIO, "cannot %s: %s; nothing was changed", what, sqlite3_errmsg(r->db));
	}
}

int store_prepare(struct registry *r, const char *sql, sqlite3_stmt **ret)
{
	return sqlite3_prepare_v2(r->db, sql, -1, ret, NULL) == SQLITE_OK ? 0 : -EIO;
}

int store_run(sqlite3_stmt *s)
{
	int r = sqlite3_step(s);
	sqlite3_reset(s);
	return r == SQLITE_DONE ? 0 : -EIO;
}

static int store_exec(struct registry *r, const char *sql)
{
	return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : -EIO;
}

int store_begin(struct registry *r, const char *what, struct error *e)
{
	return store_exec(r, "BEGIN IMMEDIATE") < 0 ? store_error(r, what, e) : 0;
}

void store_rollback(struct registry *r)
{
	/* SQLite may have rolled back by itself (full disk); then there is nothing left to do. */
	if (!sqlite3_get_autocommit(r->db))
		(void)store_exec(r, "ROLLBACK");
}

int store_commit(struct registry *r, const char *what, struct error *e)
{
	struct snapshot *next = NULL;
	int k = snapshot_load(r, &next);
	if (k < 0) {
		store_rollback(r);
		return error_errno(e, k, "cannot %s", what);
	}
	if (store_exec(r, "COMMIT") < 0) {
		k = store_error(r, what, e);
		store_rollback(r);
		snapshot_free(next);
		return k;
	}
	snapshot_free(r->now);
	r->now = next;
	r->generation++;
	return 0;
}

int store_bind_text(sqlite3_stmt *s, int i, const char *t)
{
	return sqlite3_bind_text(s, i, t ? t : "", -1, SQLITE_STATIC);
}

int store_bind_digest(sqlite3_stmt *s, int i, const struct digest *d)
{
	int n = digest_is_none(d) ? 0 : DIGEST_LEN;
	return n ? sqlite3_bind_blob(s, i, d->bytes, n, SQLITE_STATIC)
		 : sqlite3_bind_zeroblob(s, i, 0);
}

/* Commits when k is 0, else rolls back and tells the database's reason. */
int store_finish(struct registry *r, int k, const char *what, struct error *e)
{
	if (k == 0)
		return store_commit(r, what, e);
	k = store_error(r, what, e);
	store_rollback(r);
	return k;
}

static int query_int(struct registry *r, const char *sql, int *ret)
{
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	if (store_prepare(r, sql, &s) < 0 || sqlite3_step(s) != SQLITE_ROW)
		return -EIO;
	*ret = sqlite3_column_int(s, 0);
	return 0;
}

static bool query_ok(struct registry *r, const char *sql)
{
	_cleanup_stmt_ sqlite3_stmt *s = NULL;
	if (store_prepare(r, sql, &s) < 0 || sqlite3_step(s) != SQLITE_ROW)
		return false;
	const char *t = (const char *)sqlite3_column_text(s, 0);
	return t && strcmp(t, "ok") == 0;
}

static int migrate(struct registry *r, struct error *e)
{
	static const char what[] = "open the registry";
	int version, known = (int)ARRAY_LEN(migrations);
	if (query_int(r, "PRAGMA user_version", &version) < 0)
		return store_error(r, what, e);
	if (version < 0 || version > known)
		return error_set(e, -EPROTONOSUPPORT,
			"cannot %s: it was written by a newer Belay (try that version)", what);
	int k = store_begin(r, what, e);
	if (k < 0)
		return k;
	for (; version < known; version++) {
		char sql[64];
		snprintf(sql, sizeof(sql), "PRAGMA user_version = %d", version + 1);
		if (store_exec(r, migrations[version]) < 0 || store_exec(r, sql) < 0) {
			k = store_error(r, what, e);
			store_rollback(r);
			return k;
		}
	}
	return store_commit(r, what, e);
}

static int configure(struct registry *r, struct error *e)
{
	static const char what[] = "open the registry";
	sqlite3_extended_result_codes(r->db, 1);
	sqlite3_limit(r->db, SQLITE_LIMIT_ATTACHED, 0);
	/* Exclusive before the first access: the log's index then lives in our memory, not in a
	 * file. */
	if (store_exec(r, "PRAGMA locking_mode = EXCLUSIVE; PRAGMA trusted_schema = OFF;"
			  "PRAGMA cell_size_check = ON; PRAGMA foreign_keys = ON;"
			  "PRAGMA temp_store = MEMORY; PRAGMA journal_mode = WAL;"
			  "PRAGMA synchronous = FULL; PRAGMA journal_size_limit = 1048576;") < 0)
		return store_error(r, what, e);
	int id;
	if (query_int(r, "PRAGMA application_id", &id) < 0)
		return store_error(r, what, e);
	if (id != 0 && id != APPLICATION_ID)
		return error_set(
			e, -EBADMSG, "cannot %s: " REGISTRY_FILE " is not a registry", what);
	if (id == 0 && store_exec(r, "PRAGMA application_id = 0x42656c79") < 0)
		return store_error(r, what, e);
	if (!query_ok(r, "PRAGMA quick_check(1)"))
		return error_set(e, -EBADMSG,
			"cannot %s: " REGISTRY_FILE " is damaged (try restoring it from a backup)",
			what);
	return 0;
}

int registry_open_path(const char *dir, struct registry **ret, struct error *e)
{
	char path[PATH_MAX];
	if ((size_t)snprintf(path, sizeof(path), "%s/" REGISTRY_FILE, dir) >= sizeof(path))
		return error_set(e, -ENAMETOOLONG, "cannot open the registry: %s is too long", dir);
	_cleanup_(registry_closep) struct registry *r = calloc(1, sizeof(*r));
	if (!r || sodium_init() < 0)
		return error_set(e, -ENOMEM, "cannot open the registry: out of memory");
	crypto_shorthash_keygen(r->key);
	int flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_NOMUTEX |
		    SQLITE_OPEN_NOFOLLOW | SQLITE_OPEN_PRIVATECACHE;
	mode_t mask = umask(0077);
	int k = sqlite3_open_v2(path, &r->db, flags, NULL);
	k = k == SQLITE_OK ? configure(r, e) : store_error(r, "open the registry", e);
	umask(mask);
	if (k == 0)
		k = migrate(r, e);
	if (k < 0)
		return k;
	*ret = take_ptr(r);
	return 0;
}

int registry_open(int dir, struct registry **ret, struct error *e)
{
	char link[64], path[PATH_MAX];
	snprintf(link, sizeof(link), "/proc/self/fd/%d", dir);
	ssize_t n = readlink(link, path, sizeof(path) - 1);
	if (n < 0)
		return error_errno(e, -errno, "cannot open the registry's directory");
	path[n] = '\0';
	return registry_open_path(path, ret, e);
}

void registry_close(struct registry *r)
{
	if (!r)
		return;
	sqlite3_close(r->db);
	snapshot_free(r->now);
	free(r);
}
