/*
 * Verification (verify.h). Input: files anybody may have written; nothing read here is believed
 * before it matches what was computed from the entries and signed. A writer may be at work: entries
 * only ever grow and are written before the tiles and checkpoints that cover them, so the order of
 * reading is checkpoint, entries, tiles.
 */
#include "audit/verify.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "audit/reader.h"
#include "audit/store.h"
#include "base/fds.h"

#define HISTORY_MAX (256u * 1024 * 1024)
#define ROUNDS_MAX 100 /* checkpoints that may come while we verify */
#define PROGRESS_STEP 1024
#define NOTE_LINES 5 /* newlines of a note with one signature */

struct mark {
	uint64_t size;
	uint8_t root[AUDIT_ROOT_LEN];
};

struct verify {
	int dir;
	const struct audit_verify_options *o;
	struct audit_report *report;
	struct error *e;
	struct tree tree;
	struct audit_reader reader;
	struct mark *marks; /* kept checkpoints, sizes ascending */
	size_t n_marks, next_mark;
	uint64_t total; /* for progress */
};

static int altered(struct verify *v, const char *what, uint64_t n)
{
	return error_set(v->e, -EUCLEAN, "%s %llu", what, (unsigned long long)n);
}

int audit_key_read(int dirfd, struct audit_key *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = fds_read_file(dirfd, "key.pub", AUDIT_KEY_TEXT_MAX, &text, &len);
	/* Exactly as it was written, so that no byte of it can change unseen. */
	if (!r && (!len || text[len - 1] != '\n'))
		r = -EBADMSG;
	return r < 0 ? r : audit_key_parse(text, len, ret);
}

static int note_check(struct verify *v, const char *note, size_t len, struct audit_checkpoint *c)
{
	int r = audit_note_parse(note, len, c);
	if (r < 0)
		return error_set(v->e, -EUCLEAN, "a checkpoint is malformed");
	if (audit_note_verify(note, c, &v->report->key) < 0)
		return error_set(
			v->e, -EKEYREJECTED, "a checkpoint is not signed by the log's key");
	return 0;
}

/* ---- tiles ---- */

/* The file must be a prefix of want, `len` bytes long. absent_ok: 0 also if there is no such file.
 */
static int file_compare(
	struct verify *v, const char *path, const void *want, size_t len, bool absent_ok)
{
	_cleanup_free_ char *got = NULL;
	size_t n = 0;
	int r = fds_read_file(v->dir, path, len, &got, &n);
	if (r == -ENOENT)
		return absent_ok ? 0 : -ENOENT;
	if (r == -EFBIG || (!r && (n != len || memcmp(got, want, len) != 0)))
		return error_set(v->e, -EUCLEAN, "%s is not what the entries give", path);
	return r < 0 ? error_errno(v->e, r, "cannot read %s", path) : 0;
}

/* What the first n hashes (entries) of the tile (bundle) at the right edge look like as a file. */
static const void *edge_data(const struct verify *v, int level, unsigned n, size_t *ret_len)
{
	if (level == STORE_ENTRIES) {
		*ret_len = v->reader.end[n];
		return v->reader.bundle;
	}
	*ret_len = (size_t)n * TREE_HASH_LEN;
	return v->tree.row[level].hash;
}

/* Every partial tile that lies about must be a prefix; 1: one is longer than what was read so far.
 */
static int partials_check(struct verify *v, int level, uint64_t tile, unsigned have)
{
	char p[STORE_PATH_MAX];
	int r = 0;
	store_partial_dir(level, tile, p);
	int fd = openat(v->dir, p, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	if (!d) {
		if (fd >= 0)
			close(fd);
		return 0;
	}
	for (struct dirent *f; !r && (f = readdir(d));) {
		char *end;
		size_t len;
		if (f->d_name[0] == '.')
			continue;
		unsigned long w = strtoul(f->d_name, &end, 10);
		if (*end || w < 1 || w >= TREE_TILE) {
			r = error_set(v->e, -EUCLEAN, "%s/%s does not belong there", p, f->d_name);
		} else if (w > have) {
			r = 1;
		} else {
			const void *want = edge_data(v, level, (unsigned)w, &len);
			store_tile_path(level, tile, (unsigned)w, p);
			r = file_compare(v, p, want, len, true); /* a writer may have dropped it */
			store_partial_dir(level, tile, p);
		}
	}
	closedir(d);
	return r;
}

/* After the 256th entry of a bundle: every tile it completed. Those of a bundle still live may be
 * missing. */
static int bundle_check(struct verify *v)
{
	uint64_t n = v->tree.size / TREE_TILE - 1;
	int r = partials_check(v, STORE_ENTRIES, n, TREE_TILE);
	for (unsigned l = 0; !r && l < TREE_LEVELS && v->tree.row[l].n == TREE_TILE; l++) {
		char p[STORE_PATH_MAX];
		uint64_t tile = tree_row_tile(&v->tree, l);
		store_tile_path((int)l, tile, 0, p);
		r = file_compare(v, p, v->tree.row[l].hash, STORE_TILE_LEN, !v->reader.full);
		if (r == -ENOENT)
			return error_set(v->e, -EUCLEAN, "%s is missing", p);
		if (!r)
			r = partials_check(v, (int)l, tile, TREE_TILE);
	}
	return r;
}

/* ---- entries ---- */

static int marks_check(struct verify *v)
{
	uint8_t root[TREE_HASH_LEN];
	bool known = false;
	for (; v->next_mark < v->n_marks && v->marks[v->next_mark].size == v->tree.size;
		v->next_mark++) {
		if (!known)
			tree_root(&v->tree, root);
		known = true;
		if (memcmp(root, v->marks[v->next_mark].root, sizeof(root)) != 0)
			return altered(v, "the log contradicts the earlier checkpoint of size",
				v->tree.size);
	}
	return 0;
}

/* Reads entries until the tree has `size`, or to the end. 0, or 1 when the end came first. */
static int advance(struct verify *v, uint64_t size)
{
	while (v->tree.size < size) {
		const char *entry;
		size_t len;
		uint8_t leaf[TREE_HASH_LEN];
		int r = audit_reader_next(&v->reader, &entry, &len);
		if (r == -EBADMSG)
			return altered(v, "the log is cut or malformed at entry", v->tree.size);
		if (r < 0)
			return error_errno(v->e, r, "cannot read the log's entries");
		if (!r)
			return 1;
		if (audit_record_check(entry, len) < 0)
			return altered(v, "not an audit entry:", v->tree.size);
		tree_leaf_hash(entry, len, leaf);
		tree_append(&v->tree, leaf);
		if (v->o->progress && v->tree.size % PROGRESS_STEP == 0)
			v->o->progress(v->o->data, v->tree.size, v->total);
		r = marks_check(v);
		if (!r && v->tree.size % TREE_TILE == 0)
			r = bundle_check(v);
		if (r)
			return r < 0 ? r
				     : altered(v, "a partial tile is too long near entry",
					       v->tree.size);
	}
	return 0;
}

/* ---- checkpoints ---- */

/* Length of the note at p, its closing empty line excluded; 0 if it is not complete. */
static size_t note_span(const char *p, size_t len)
{
	const char *text = memmem(p, len, "\n\n", 2);
	if (!text)
		return 0;
	size_t k = (size_t)(text - p) + 2;
	const char *end = memmem(p + k, len - k, "\n\n", 2);
	return end ? (size_t)(end - p) + 1 : 0;
}

/* What is left of a note whose writer died: it has no whole signature line yet. */
static bool note_torn(const char *p, size_t len)
{
	size_t lines = 0;
	for (size_t i = 0; i < len; i++)
		lines += p[i] == '\n';
	return len < AUDIT_NOTE_MAX && lines < NOTE_LINES;
}

static int mark_add(struct verify *v, size_t *cap, const struct audit_checkpoint *c)
{
	if (v->n_marks && v->marks[v->n_marks - 1].size > c->size)
		return altered(v, "the kept checkpoints go backwards at size", c->size);
	if (v->n_marks == *cap) {
		size_t bigger = *cap ? *cap * 2 : 64;
		struct mark *m = reallocarray(v->marks, bigger, sizeof(*m));
		if (!m)
			return -ENOMEM;
		v->marks = m;
		*cap = bigger;
	}
	struct mark *m = &v->marks[v->n_marks++];
	m->size = c->size;
	memcpy(m->root, c->root, sizeof(m->root));
	return 0;
}

static int history_load(struct verify *v)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0, cap = 0, off = 0;
	int r = fds_read_file(v->dir, "checkpoints", HISTORY_MAX, &text, &len);
	if (r == -ENOENT)
		return error_set(v->e, -EUCLEAN, "the file checkpoints is missing");
	while (!r && off < len) {
		struct audit_checkpoint c;
		size_t n = note_span(text + off, len - off);
		if (!n && note_torn(text + off, len - off))
			break;
		/* The last note may have lost only its empty line. */
		r = note_check(v, text + off, n ? n : len - off, &c);
		if (!r)
			r = mark_add(v, &cap, &c);
		off += n ? n + 1 : len - off;
	}
	if (r < 0 && !(v->e && v->e->code))
		return error_errno(v->e, r, "cannot read the log's kept checkpoints");
	return r;
}

/* The newest: 0, 1 if there never was one. */
static int checkpoint_load(struct verify *v, struct audit_checkpoint *ret)
{
	_cleanup_free_ char *note = NULL;
	size_t len;
	int r = fds_read_file(v->dir, "checkpoint", AUDIT_NOTE_MAX, &note, &len);
	if (r == -ENOENT)
		return v->n_marks ? error_set(v->e, -EUCLEAN, "the file checkpoint is missing") : 1;
	if (r == -EFBIG)
		return error_set(v->e, -EUCLEAN, "a checkpoint is malformed");
	return r < 0 ? error_errno(v->e, r, "cannot read the checkpoint")
		     : note_check(v, note, len, ret);
}

/* The tiles a reader of this checkpoint needs. -ENOENT: one is missing, or a newer checkpoint took
 * its place. */
static int sealed_tiles_check(struct verify *v, uint64_t size)
{
	for (int l = STORE_ENTRIES; l < TREE_LEVELS; l++) {
		char p[STORE_PATH_MAX];
		size_t len;
		uint64_t nodes = l < 0 ? size : size >> (8 * (unsigned)l);
		unsigned w = (unsigned)(nodes % TREE_TILE);
		if (!w)
			continue;
		const void *want = edge_data(v, l, w, &len);
		store_tile_path(l, nodes / TREE_TILE, w, p);
		int r = file_compare(v, p, want, len, false);
		if (r == -ENOENT)
			(void)error_set(v->e, -EUCLEAN, "%s is missing", p);
		if (r)
			return r;
	}
	return 0;
}

static int checkpoint_check(struct verify *v, const struct audit_checkpoint *c)
{
	uint8_t root[TREE_HASH_LEN];
	int r = advance(v, c->size);
	if (r == 1)
		return error_set(v->e, -EUCLEAN,
			"the checkpoint covers %llu entries, only %llu are there",
			(unsigned long long)c->size, (unsigned long long)v->tree.size);
	if (r)
		return r;
	tree_root(&v->tree, root);
	if (memcmp(root, c->root, sizeof(root)) != 0)
		return altered(
			v, "the entries do not give the root of the checkpoint of size", c->size);
	return sealed_tiles_check(v, c->size);
}

/* Up to the newest checkpoint, following it if a writer moves it on. */
static int sealed_check(struct verify *v)
{
	struct audit_checkpoint c = {0}, seen = {0};
	for (int i = 0; i < ROUNDS_MAX; i++) {
		int r = checkpoint_load(v, &c);
		if (r)
			return r < 0 ? r : 0;
		if (i && c.size == seen.size)
			return -EUCLEAN; /* e says which tile is missing */
		if (c.size < v->tree.size)
			return altered(v, "the checkpoint went back to size", c.size);
		v->total = c.size;
		r = checkpoint_check(v, &c);
		if (!r) {
			v->report->sealed = c.size;
			memcpy(v->report->root, c.root, sizeof(c.root));
			if (v->e)
				*v->e = (struct error)ERROR_INIT;
		}
		if (r != -ENOENT)
			return r;
		seen = c;
	}
	return -EUCLEAN;
}

/* The rest, which only framing, schema and left-over tiles can speak for. */
static int unsealed_check(struct verify *v)
{
	for (int again = 0; again < ROUNDS_MAX; again++) {
		int r = advance(v, TREE_SIZE_MAX);
		uint64_t size = v->tree.size;
		if (r < 0)
			return r;
		r = 0;
		for (int l = STORE_ENTRIES; !r && l < TREE_LEVELS; l++) {
			uint64_t nodes = l < 0 ? size : size >> (8 * (unsigned)l);
			r = partials_check(v, l, nodes / TREE_TILE, (unsigned)(nodes % TREE_TILE));
		}
		if (r <= 0)
			return r;
		/* A tile of entries we have not seen: they came meanwhile, or they were taken away.
		 */
		if (advance(v, size + 1) == 1)
			return altered(
				v, "a tile shows entries that are missing after entry", size);
	}
	return error_set(v->e, -EBUSY, "the log grows faster than it can be verified");
}

static int verify_run(struct verify *v)
{
	int r = history_load(v);
	if (!r && v->o->since) {
		/* Merged in its place: marks are compared in the order of their sizes. */
		size_t cap = 0, i = v->n_marks;
		struct audit_checkpoint last = *v->o->since;
		last.size = v->n_marks && v->marks[i - 1].size > last.size ? v->marks[i - 1].size
									   : last.size;
		cap = v->n_marks;
		r = mark_add(v, &cap, &last);
		for (; !r && i && v->marks[i - 1].size > v->o->since->size; i--)
			v->marks[i] = v->marks[i - 1];
		if (!r) {
			v->marks[i].size = v->o->since->size;
			memcpy(v->marks[i].root, v->o->since->root, AUDIT_ROOT_LEN);
		}
	}
	if (!r)
		r = marks_check(v); /* of size 0, if any */
	if (!r)
		r = sealed_check(v);
	if (!r)
		r = unsealed_check(v);
	if (r < 0)
		return r;
	v->report->entries = v->tree.size;
	v->report->torn = v->reader.torn;
	v->report->checkpoints = v->next_mark;
	if (v->next_mark < v->n_marks)
		return altered(v, "an earlier checkpoint covers more entries than are there:",
			v->marks[v->n_marks - 1].size);
	uint64_t open = v->tree.size - v->report->sealed;
	if (!v->report->sealed && v->tree.size)
		return error_set(v->e, -ENODATA, "no checkpoint was ever signed");
	if (open > v->o->unsealed_max)
		return error_set(v->e, -ENODATA,
			"%llu entries after the last checkpoint are not sealed",
			(unsigned long long)open);
	return 0;
}

int audit_verify(
	int dirfd, const struct audit_verify_options *o, struct audit_report *ret, struct error *e)
{
	memset(ret, 0, sizeof(*ret));
	int r = audit_key_read(dirfd, &ret->key);
	if (r < 0)
		return r == -EBADMSG ? error_set(e, -EUCLEAN, "key.pub is malformed")
				     : error_errno(e, r, "cannot read key.pub");
	if (o->key &&
		(strcmp(o->key->name, ret->key.name) != 0 ||
			memcmp(o->key->public_key, ret->key.public_key, ED25519_PUBLIC_LEN) != 0))
		return error_set(e, -EKEYREJECTED, "the log is another key's than the one given");
	struct verify *v = calloc(1, sizeof(*v));
	if (!v)
		return error_set(e, -ENOMEM, "no memory");
	v->dir = dirfd;
	v->o = o;
	v->report = ret;
	v->e = e;
	tree_init(&v->tree);
	r = audit_reader_init(&v->reader, dirfd, 0);
	if (!r)
		r = verify_run(v);
	audit_reader_deinit(&v->reader);
	free(v->marks);
	free(v);
	return r;
}
