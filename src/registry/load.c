/*
 * The registry's snapshot: all rows of the file as structures, and the hash tables over them. Rows
 * are read with suspicion (limits, lengths), since a file can be damaged or exchanged; one bad row
 * refuses the whole.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "registry/internal.h"

void snapshot_free(struct snapshot *s)
{
	if (!s)
		return;
	for (size_t i = 0; i < s->n_programs; i++)
		free(s->programs[i]);
	for (size_t i = 0; s->revocations && i < s->n_buckets; i++) {
		while (s->revocations[i]) {
			struct revocation *next = s->revocations[i]->next;
			free(s->revocations[i]);
			s->revocations[i] = next;
		}
	}
	free(s->programs);
	free(s->by_digest);
	free(s->revocations);
	free(s->nodes);
	free(s->invitations);
	free(s);
}

static void snapshot_freep(struct snapshot **s)
{
	snapshot_free(*s);
}

size_t snapshot_bucket(const struct registry *r, const struct snapshot *s, const void *p, size_t n)
{
	uint8_t h[crypto_shorthash_BYTES];
	uint64_t v;
	crypto_shorthash(h, p, n, r->key);
	memcpy(&v, h, sizeof(v));
	return (size_t)v & (s->n_buckets - 1);
}

static size_t revocation_bucket(const struct registry *r, const struct snapshot *s,
	enum revoked_kind kind, const char *subject)
{
	char key[NAME_SIZE + 1] = {0};
	size_t n = strnlen(subject, NAME_SIZE - 1);
	key[0] = (char)kind;
	memcpy(key + 1, subject, n);
	return snapshot_bucket(r, s, key, n + 1);
}

const struct revocation *snapshot_revocation(const struct registry *r, const struct snapshot *s,
	enum revoked_kind kind, const char *subject)
{
	const struct revocation *v = s->revocations[revocation_bucket(r, s, kind, subject)];
	while (v && (v->kind != kind || strcmp(v->subject, subject) != 0))
		v = v->next;
	return v;
}

/* ---- columns ---- */

static int column_text(sqlite3_stmt *q, int i, char *ret, size_t size)
{
	const char *t = (const char *)sqlite3_column_text(q, i);
	size_t n = (size_t)sqlite3_column_bytes(q, i);
	if (!t || n >= size || strnlen(t, n) != n)
		return -EBADMSG;
	memcpy(ret, t, n + 1);
	return 0;
}

static int column_digest(sqlite3_stmt *q, int i, struct digest *ret)
{
	const void *p = sqlite3_column_blob(q, i);
	int n = sqlite3_column_bytes(q, i);
	if (n != 0 && n != DIGEST_LEN)
		return -EBADMSG;
	if (n)
		memcpy(ret->bytes, p, DIGEST_LEN);
	return 0;
}

static int count(struct registry *r, const char *sql, size_t max, size_t *ret)
{
	_cleanup_stmt_ sqlite3_stmt *q = NULL;
	if (store_prepare(r, sql, &q) < 0 || sqlite3_step(q) != SQLITE_ROW)
		return -EIO;
	int64_t n = sqlite3_column_int64(q, 0);
	if (n < 0 || (uint64_t)n > max)
		return -E2BIG;
	*ret = (size_t)n;
	return 0;
}

/* ---- programs ---- */

/* Permitted names of one program, NUL after each. Return: bytes, or negative. */
static int load_argv0(
	sqlite3_stmt *q, int64_t id, char *buf, size_t size, size_t *ret_len, size_t *ret_n)
{
	size_t len = 0, n = 0;
	int k;
	sqlite3_reset(q);
	sqlite3_bind_int64(q, 1, id);
	while ((k = sqlite3_step(q)) == SQLITE_ROW) {
		if (n == REGISTRY_ARGV0_MAX || size - len < REGISTRY_ARGV0_SIZE)
			return -EBADMSG;
		int j = column_text(q, 0, buf + len, REGISTRY_ARGV0_SIZE);
		if (j < 0)
			return j;
		len += strlen(buf + len) + 1;
		n++;
	}
	*ret_len = len;
	*ret_n = n;
	return k == SQLITE_DONE ? 0 : -EIO;
}

static int load_program(sqlite3_stmt *q, sqlite3_stmt *names, struct entry **ret)
{
	char text[2 * REGISTRY_PATH_SIZE + REGISTRY_ARGV0_MAX * REGISTRY_ARGV0_SIZE];
	struct program p = {0};
	size_t a, b, c;
	int k = column_text(q, 1, p.name, sizeof(p.name));
	k = k ? k : column_text(q, 2, p.group, sizeof(p.group));
	k = k ? k : column_digest(q, 3, &p.sha256);
	k = k ? k : column_digest(q, 4, &p.script_sha256);
	k = k ? k : column_text(q, 7, text, REGISTRY_PATH_SIZE);
	if (k < 0)
		return k;
	a = strlen(text) + 1;
	k = column_text(q, 8, text + a, REGISTRY_PATH_SIZE);
	if (k < 0)
		return k;
	b = a + strlen(text + a) + 1;
	k = load_argv0(
		names, sqlite3_column_int64(q, 0), text + b, sizeof(text) - b, &c, &p.n_argv0);
	if (k < 0)
		return k;
	if (digest_is_none(&p.sha256) || !name_check(p.name) ||
		(p.group[0] && !name_check(p.group)))
		return -EBADMSG;
	struct entry *e = calloc(1, sizeof(*e) + b + c);
	if (!e)
		return -ENOMEM;
	memcpy(e->text, text, b + c);
	p.size = (uint64_t)sqlite3_column_int64(q, 5);
	p.flags = (uint32_t)sqlite3_column_int64(q, 6);
	p.enrolled_ms = (uint64_t)sqlite3_column_int64(q, 9);
	p.path = e->text;
	p.script_path = e->text + a;
	p.argv0 = e->argv0;
	const char *name = e->text + b;
	for (size_t i = 0; i < p.n_argv0; i++, name += strlen(name) + 1)
		e->argv0[i] = name;
	e->program = p;
	*ret = e;
	return 0;
}

static int load_programs(struct registry *r, struct snapshot *s, size_t n)
{
	_cleanup_stmt_ sqlite3_stmt *q = NULL, *names = NULL;
	if (store_prepare(r,
		    "SELECT id, name, grp, sha256, script, size, flags, path, script_path, enrolled"
		    " FROM program ORDER BY name, enrolled, id",
		    &q) < 0 ||
		store_prepare(r, "SELECT name FROM argv0 WHERE program = ? ORDER BY name", &names) <
			0)
		return -EIO;
	while (s->n_programs < n) {
		struct entry *e = NULL;
		if (sqlite3_step(q) != SQLITE_ROW)
			return -EIO;
		int k = load_program(q, names, &e);
		if (k < 0)
			return k;
		s->programs[s->n_programs++] = e;
		const struct revocation *v =
			snapshot_revocation(r, s, REVOKED_PROGRAM, e->program.name);
		e->program.revoked = v && e->program.enrolled_ms <= v->before_ms;
	}
	/* From the last to the first, so that each chain is in order of name. */
	for (size_t i = n; i-- > 0;) {
		struct entry *e = s->programs[i];
		size_t b = snapshot_bucket(r, s, e->program.sha256.bytes, DIGEST_LEN);
		e->next = s->by_digest[b];
		s->by_digest[b] = e;
	}
	return 0;
}

/* ---- the others ---- */

static int load_revocations(struct registry *r, struct snapshot *s, size_t n)
{
	_cleanup_stmt_ sqlite3_stmt *q = NULL;
	if (store_prepare(r, "SELECT kind, subject, before FROM revocation", &q) < 0)
		return -EIO;
	for (size_t i = 0; i < n; i++) {
		if (sqlite3_step(q) != SQLITE_ROW)
			return -EIO;
		_cleanup_free_ struct revocation *v = calloc(1, sizeof(*v));
		if (!v)
			return -ENOMEM;
		int64_t kind = sqlite3_column_int64(q, 0);
		if (kind < 0 || kind >= _REVOKED_N ||
			column_text(q, 1, v->subject, sizeof(v->subject)) < 0)
			return -EBADMSG;
		v->kind = (enum revoked_kind)kind;
		v->before_ms = (uint64_t)sqlite3_column_int64(q, 2);
		size_t b = revocation_bucket(r, s, v->kind, v->subject);
		v->next = s->revocations[b];
		s->revocations[b] = take_ptr(v);
	}
	return 0;
}

static int load_addresses(sqlite3_stmt *q, const char *node,
	char ret[REGISTRY_NODE_ADDRESSES_MAX][REGISTRY_ADDRESS_SIZE], size_t *ret_n)
{
	int k;
	sqlite3_reset(q);
	sqlite3_bind_text(q, 1, node, -1, SQLITE_STATIC);
	while ((k = sqlite3_step(q)) == SQLITE_ROW) {
		if (*ret_n == REGISTRY_NODE_ADDRESSES_MAX)
			return -EBADMSG;
		int j = column_text(q, 0, ret[(*ret_n)++], REGISTRY_ADDRESS_SIZE);
		if (j < 0)
			return j;
	}
	return k == SQLITE_DONE ? 0 : -EIO;
}

static int load_nodes(struct registry *r, struct snapshot *s, size_t n)
{
	_cleanup_stmt_ sqlite3_stmt *q = NULL, *a = NULL;
	if (store_prepare(r, "SELECT name, link, data, certificate, joined FROM node ORDER BY name",
		    &q) < 0 ||
		store_prepare(r, "SELECT address FROM node_address WHERE node = ? ORDER BY rowid",
			&a) < 0)
		return -EIO;
	for (; s->n_nodes < n; s->n_nodes++) {
		struct node *d = &s->nodes[s->n_nodes];
		if (sqlite3_step(q) != SQLITE_ROW)
			return -EIO;
		if (column_text(q, 0, d->name, sizeof(d->name)) < 0 || !name_check(d->name) ||
			column_text(q, 1, d->link, sizeof(d->link)) < 0 ||
			column_text(q, 2, d->data, sizeof(d->data)) < 0 ||
			column_digest(q, 3, &d->certificate) < 0)
			return -EBADMSG;
		d->joined_ms = (uint64_t)sqlite3_column_int64(q, 4);
		int k = load_addresses(a, d->name, d->addresses, &d->n_addresses);
		if (k < 0)
			return k;
	}
	return 0;
}

static int load_invitations(struct registry *r, struct snapshot *s, size_t n)
{
	_cleanup_stmt_ sqlite3_stmt *q = NULL, *a = NULL;
	if (store_prepare(r, "SELECT node, secret, until FROM invitation ORDER BY node", &q) < 0 ||
		store_prepare(r,
			"SELECT address FROM invitation_address WHERE node = ? ORDER BY rowid",
			&a) < 0)
		return -EIO;
	for (; s->n_invitations < n; s->n_invitations++) {
		struct invitation *v = &s->invitations[s->n_invitations];
		if (sqlite3_step(q) != SQLITE_ROW)
			return -EIO;
		if (column_text(q, 0, v->node, sizeof(v->node)) < 0 || !name_check(v->node) ||
			column_digest(q, 1, &v->secret) < 0 || digest_is_none(&v->secret))
			return -EBADMSG;
		v->until_ms = (uint64_t)sqlite3_column_int64(q, 2);
		int k = load_addresses(a, v->node, v->addresses, &v->n_addresses);
		if (k < 0)
			return k;
	}
	return 0;
}

int snapshot_load(struct registry *r, struct snapshot **ret)
{
	_cleanup_(snapshot_freep) struct snapshot *s = calloc(1, sizeof(*s));
	size_t programs = 0, revocations = 0, nodes = 0, invitations = 0;
	int k = count(r, "SELECT count(*) FROM program", REGISTRY_PROGRAMS_MAX, &programs);
	k = k ? k
	      : count(r, "SELECT count(*) FROM revocation", REGISTRY_REVOCATIONS_MAX, &revocations);
	k = k ? k : count(r, "SELECT count(*) FROM node", REGISTRY_NODES_MAX, &nodes);
	k = k ? k
	      : count(r, "SELECT count(*) FROM invitation", REGISTRY_INVITATIONS_MAX, &invitations);
	if (k < 0 || !s)
		return k < 0 ? k : -ENOMEM;
	for (s->n_buckets = 16; s->n_buckets < programs + revocations;)
		s->n_buckets *= 2;
	s->programs = calloc(programs + 1, sizeof(*s->programs));
	s->by_digest = calloc(s->n_buckets, sizeof(struct entry *));
	s->revocations = calloc(s->n_buckets, sizeof(struct revocation *));
	s->nodes = calloc(nodes + 1, sizeof(*s->nodes));
	s->invitations = calloc(invitations + 1, sizeof(*s->invitations));
	if (!s->programs || !s->by_digest || !s->revocations || !s->nodes || !s->invitations)
		return -ENOMEM;
	k = load_revocations(r, s, revocations);
	k = k ? k : load_programs(r, s, programs);
	k = k ? k : load_nodes(r, s, nodes);
	k = k ? k : load_invitations(r, s, invitations);
	if (k < 0)
		return k;
	*ret = take_ptr(s);
	return 0;
}
