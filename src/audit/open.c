/*
 * Opening the log (audit.h). Input: our own directory after any crash, or after somebody tampered
 * with it. Cut off are only a torn last entry and a torn last note of the history; whatever is
 * sealed and gone or altered is -EUCLEAN. That all older tiles are right is for verify to say; here
 * only the right edge is read.
 *
 * Cost: a search over bundle names, the tiles of the right edge, the live bundle.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>

#include "audit/log-private.h"
#include "base/clock.h"
#include "base/fds.h"

#define HISTORY_TAIL (4 * AUDIT_NOTE_MAX)

static int missing(struct error *e, const char *what)
{
	return error_set(e, -EUCLEAN,
		"cannot open the audit log: %s (restore it from a copy; or, to begin a new log, "
		"move its directory aside together with the signer's audit.key and audit.last, "
		"beside it in state/signer)",
		what);
}

/* Number of full bundles: they exist without gaps, so a search in steps of powers of two finds the
 * end. */
static int bundles_count(int dir, uint64_t *ret)
{
	char p[STORE_PATH_MAX];
	uint64_t n = 0, step = 1;
	int r;
	for (;; step *= 2) {
		store_tile_path(STORE_ENTRIES, n + step - 1, 0, p);
		if ((r = store_exists(dir, p)) < 0)
			return r;
		if (!r)
			break;
		n += step;
	}
	for (step /= 2; step; step /= 2) {
		store_tile_path(STORE_ENTRIES, n + step - 1, 0, p);
		if ((r = store_exists(dir, p)) < 0)
			return r;
		if (r)
			n += step;
	}
	*ret = n;
	return 0;
}

/* Fills row[level] for `nodes` hashes at that level from the full tiles of the level below. */
static int row_load(int dir, struct tree_row *row, unsigned level, uint64_t nodes)
{
	row->n = (unsigned)(nodes % TREE_TILE);
	for (unsigned i = 0; i < row->n; i++) {
		char p[STORE_PATH_MAX];
		_cleanup_free_ char *tile = NULL;
		size_t len = 0;
		store_tile_path((int)level - 1, nodes - row->n + i, 0, p);
		int r = fds_read_file(dir, p, STORE_TILE_LEN, &tile, &len);
		if (r < 0)
			return r;
		if (len != STORE_TILE_LEN)
			return -EUCLEAN;
		tree_perfect_root((const uint8_t(*)[TREE_HASH_LEN])tile, TREE_TILE, row->hash[i]);
	}
	return 0;
}

static int edge_load(struct audit_log *log, struct error *e)
{
	int r = bundles_count(log->dir, &log->bundle);
	if (r < 0)
		return error_errno(e, r, "cannot read the audit log's directory");
	for (unsigned l = 1; l < TREE_LEVELS; l++) {
		uint64_t nodes = (log->bundle * TREE_TILE) >> (8 * l);
		r = row_load(log->dir, &log->tree.row[l], l, nodes);
		if (r == -ENOENT || r == -EUCLEAN || r == -EFBIG)
			return missing(e, "a tile of it is missing or cut");
		if (r < 0)
			return error_errno(e, r, "cannot read the audit log's tiles");
	}
	tree_resume(&log->tree, log->bundle * TREE_TILE);
	return 0;
}

/* The checkpoint's root, compared when the tree passes its size. */
static int sealed_check(const struct audit_log *log, struct error *e)
{
	uint8_t root[TREE_HASH_LEN];
	if (!log->sealed.size || log->tree.size != log->sealed.size)
		return 0;
	tree_root(&log->tree, root);
	if (memcmp(root, log->sealed.root, sizeof(root)) != 0)
		return missing(e, "entries its last checkpoint covers were altered");
	return 0;
}

static int live_load(struct audit_log *log, struct error *e)
{
	char p[STORE_PATH_MAX];
	_cleanup_free_ char *buf = NULL;
	size_t len = 0, off = 0, n;
	const uint8_t *entry;
	store_live_path(log->bundle, p);
	log->live = openat(log->dir, p, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	int r = log->live < 0 ? -errno : fds_read_file(log->dir, p, STORE_BUNDLE_MAX, &buf, &len);
	if (r < 0)
		return error_errno(e, r, "cannot open the audit log's %s", p);
	if ((r = sealed_check(log, e)) < 0)
		return r;
	while ((r = store_entry_next((uint8_t *)buf, len, &off, &entry, &n)) > 0) {
		uint8_t leaf[TREE_HASH_LEN];
		if (log->tree.size - log->bundle * TREE_TILE == TREE_TILE)
			return missing(e, "its live bundle holds too many entries");
		tree_leaf_hash(entry, n, leaf);
		tree_append(&log->tree, leaf);
		if ((r = sealed_check(log, e)) < 0)
			return r;
	}
	if (log->sealed.size > log->tree.size)
		return missing(e, "entries its last checkpoint covers are missing");
	if (r == -EBADMSG && ftruncate(log->live, (off_t)off) < 0)
		return error_errno(e, -errno, "cannot cut a torn entry off the audit log");
	log->live_len = (off_t)off;
	return 0;
}

static int key_load(struct audit_log *log, struct error *e)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	int r = fds_read_file(log->dir, "key.pub", AUDIT_KEY_TEXT_MAX, &text, &len);
	if (r == -ENOENT)
		return 0;
	if (!r)
		r = audit_key_parse(text, len, &log->key);
	if (!r)
		r = audit_key_format(&log->key, log->key_text);
	return r < 0 ? missing(e, "its key.pub cannot be read") : 0;
}

static int checkpoint_load(struct audit_log *log, struct error *e)
{
	_cleanup_free_ char *note = NULL;
	size_t len;
	int r = fds_read_file(log->dir, "checkpoint", AUDIT_NOTE_MAX, &note, &len);
	if (r == -ENOENT)
		return log->history_len ? missing(e, "its checkpoint is missing") : 0;
	if (!r)
		r = audit_note_parse(note, len, &log->sealed);
	if (!r)
		r = audit_note_verify(note, &log->sealed, &log->key);
	return r < 0 ? missing(e, "its checkpoint is not the pinned key's") : 0;
}

/*
 * Cuts a note off the history that a crash left half written: everything up to the last note's
 * empty line stays. Makes the file in a new log, so that its absence means something.
 */
static int history_mend(struct audit_log *log, struct error *e)
{
	char tail[HISTORY_TAIL];
	_cleanup_close_ int fd =
		openat(log->dir, "checkpoints", O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	off_t end = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
	if (end < 0)
		return error_errno(e, -errno, "cannot open the audit log's checkpoints");
	off_t from = end > HISTORY_TAIL ? end - HISTORY_TAIL : 0, keep = -1;
	ssize_t n = pread(fd, tail, sizeof(tail), from);
	if (n < 0)
		return error_errno(e, -errno, "cannot read the audit log's checkpoints");
	/* Two kinds of empty line: within a note, before its signatures; and after a note, behind
	 * one. */
	for (ssize_t i = 2, l = 0; i <= n; i++) {
		if (tail[i - 1] != '\n')
			continue;
		bool empty = tail[i - 2] == '\n';
		if (empty && i - l > 4 && !memcmp(tail + l, "\xe2\x80\x94", 3))
			keep = from + i;
		if (!empty)
			for (l = i - 1; l > 0 && tail[l - 1] != '\n'; l--)
				;
	}
	if (keep < 0 && from)
		return missing(e, "its history of checkpoints cannot be read");
	log->history_len = keep < 0 ? 0 : keep;
	if (log->history_len != end && ftruncate(fd, log->history_len) < 0)
		return error_errno(e, -errno, "cannot cut a torn checkpoint off the audit log");
	return 0;
}

int audit_open(int dirfd, struct audit_log **ret, struct error *e)
{
	_cleanup_audit_ struct audit_log *log = calloc(1, sizeof(*log));
	if (!log)
		return error_set(e, -ENOMEM, "cannot open the audit log: no memory");
	log->live = -1;
	tree_init(&log->tree);
	log->dir = openat(dirfd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (log->dir < 0)
		return error_errno(e, -errno, "cannot open the audit log's directory");
	if (flock(log->dir, LOCK_EX | LOCK_NB) < 0)
		return error_set(e, errno == EWOULDBLOCK ? -EBUSY : -errno,
			"cannot open the audit log: another process is writing it");
	int r = key_load(log, e);
	if (!r)
		r = history_mend(log, e);
	if (!r)
		r = checkpoint_load(log, e);
	if (!r)
		r = edge_load(log, e);
	if (!r)
		r = live_load(log, e);
	if (r < 0)
		return r;
	if (audit_unsealed(log))
		log->unsealed_since = clock_mono_ms();
	*ret = take_ptr(log);
	return 0;
}
