/*
 * The writer of the log (audit.h). State in memory: the right edge of the tree, the offset in the
 * live bundle, the last checkpoint. State on disk at any instant (so a kill between any two calls
 * loses nothing but a torn entry):
 *
 *   - full bundles 0 … B-1 exist, and with each all full tiles it completes (tiles are written
 * before the bundle gets its name);
 *   - live.B holds whole entries and at most one torn one at its end;
 *   - `checkpoint` is whole and covers a prefix of the entries; its partial tiles exist.
 *
 * A full disk: an entry that did not fit is cut off again; a bundle whose tiles did not fit stays
 * live and the next append tries again first.
 *
 * Cost of an append: one pwritev(2) and two hashes; each 256th about ten calls more. No allocation.
 */
#include "audit/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/uio.h>

#include "audit/log-private.h"
#include "base/clock.h"
#include "base/fds.h"

static uint64_t live_count(const struct audit_log *log)
{
	return log->tree.size - log->bundle * TREE_TILE;
}

static int live_open(struct audit_log *log)
{
	char p[STORE_PATH_MAX];
	store_live_path(log->bundle, p);
	log->live = openat(log->dir, p, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	return log->live < 0 ? -errno : 0;
}

/* Closes a full bundle: its tiles, then its name, then a new live file. Each step may be repeated.
 */
static int bundle_close(struct audit_log *log)
{
	char p[STORE_PATH_MAX], live[STORE_PATH_MAX];
	if (live_count(log) == TREE_TILE) {
		for (unsigned l = 0; l < TREE_LEVELS && log->tree.row[l].n == TREE_TILE; l++) {
			store_tile_path((int)l, tree_row_tile(&log->tree, l), 0, p);
			int r = store_put(log->dir, p, log->tree.row[l].hash, STORE_TILE_LEN);
			if (r < 0)
				return r;
		}
		store_tile_path(STORE_ENTRIES, log->bundle, 0, p);
		store_live_path(log->bundle, live);
		int r = store_rename(log->dir, live, p);
		if (r < 0)
			return r;
		if (log->live >= 0)
			close(log->live);
		log->live = -1;
		log->live_len = 0;
		log->bundle++;
	}
	return log->live < 0 ? live_open(log) : 0;
}

int audit_append(struct audit_log *log, const char *json, size_t len, uint64_t *ret_index)
{
	uint8_t head[2] = {(uint8_t)(len >> 8), (uint8_t)len}, leaf[TREE_HASH_LEN];
	struct iovec iov[2] = {{head, sizeof(head)}, {(void *)json, len}};
	if (!len || len > AUDIT_ENTRY_MAX)
		return -EMSGSIZE;
	if (log->broken)
		return -EIO;
	int r = bundle_close(log); /* only what an earlier append could not finish */
	if (r < 0)
		return r;
	ssize_t n;
	do
		n = pwritev(log->live, iov, 2, log->live_len);
	while (n < 0 && errno == EINTR);
	if (n != (ssize_t)(sizeof(head) + len)) {
		r = n < 0 ? -errno : -ENOSPC;
		/* Bytes that stay behind could be taken for an entry after a crash. */
		if (n > 0 && ftruncate(log->live, log->live_len) < 0)
			log->broken = true;
		return r;
	}
	tree_leaf_hash(json, len, leaf);
	tree_append(&log->tree, leaf);
	log->live_len += n;
	if (ret_index)
		*ret_index = log->tree.size - 1;
	if (!log->unsealed_since)
		log->unsealed_since = clock_mono_ms();
	if (live_count(log) == TREE_TILE)
		(void)bundle_close(log); /* the entry is in; what failed is tried again */
	return 0;
}

int audit_record(struct audit_log *log, const struct audit_record *r)
{
	int n = audit_record_write(r, log->text, sizeof(log->text));
	return n < 0 ? n : audit_append(log, log->text, (size_t)n, NULL);
}

uint64_t audit_size(const struct audit_log *log)
{
	return log->tree.size;
}

uint64_t audit_unsealed(const struct audit_log *log)
{
	return log->tree.size - log->sealed.size;
}

const char *audit_key_text(const struct audit_log *log)
{
	return log->key_text;
}

int audit_key_set(
	struct audit_log *log, const char *name, const uint8_t public_key[32], struct error *e)
{
	struct audit_key k = {0};
	char text[AUDIT_KEY_TEXT_MAX], file[AUDIT_KEY_TEXT_MAX + 1];
	if (!audit_name_valid(name))
		return error_set(e, -EINVAL, "the audit key's name is not valid");
	snprintf(k.name, sizeof(k.name), "%s", name);
	memcpy(k.public_key, public_key, sizeof(k.public_key));
	int r = audit_key_format(&k, text);
	if (r < 0)
		return error_errno(e, r, "cannot name the audit key");
	if (log->key_text[0]) {
		if (!strcmp(text, log->key_text))
			return 0;
		return error_set(e, -EKEYREJECTED,
			"the audit log is pinned to another key, %s (to begin a new log, move its "
			"directory aside)",
			log->key_text);
	}
	r = store_put(
		log->dir, "key.pub", file, (size_t)snprintf(file, sizeof(file), "%s\n", text));
	if (r < 0)
		return error_errno(e, r, "cannot write the audit log's key.pub");
	log->key = k;
	memcpy(log->key_text, text, sizeof(text));
	return 0;
}

uint64_t audit_checkpoint_wait_ms(const struct audit_log *log, uint64_t now)
{
	if (log->pending || !audit_unsealed(log) || !log->key_text[0])
		return UINT64_MAX;
	uint64_t due = log->unsealed_since + AUDIT_SEAL_MS;
	if (now < log->retry_at)
		return log->retry_at - now;
	if (audit_unsealed(log) >= AUDIT_SEAL_ENTRIES || now >= due)
		return 0;
	return due - now;
}

/* The partial tiles that a tree of this size has, put or dropped. */
static int partials_put(struct audit_log *log)
{
	char p[STORE_PATH_MAX];
	for (unsigned l = 0; l < TREE_LEVELS; l++) {
		uint64_t nodes = log->tree.size >> (8 * l);
		unsigned w = (unsigned)(nodes % TREE_TILE);
		if (!w)
			continue;
		store_tile_path((int)l, nodes / TREE_TILE, w, p);
		int r = store_put(log->dir, p, log->tree.row[l].hash, (size_t)w * TREE_HASH_LEN);
		if (r < 0)
			return r;
	}
	if (!log->live_len)
		return 0;
	const void *bundle = mmap(NULL, (size_t)log->live_len, PROT_READ, MAP_SHARED, log->live, 0);
	if (bundle == MAP_FAILED)
		return -errno;
	store_tile_path(STORE_ENTRIES, log->bundle, (unsigned)live_count(log), p);
	int r = store_put(log->dir, p, bundle, (size_t)log->live_len);
	munmap((void *)bundle, (size_t)log->live_len);
	return r;
}

static void partials_drop(struct audit_log *log, uint64_t size, uint64_t keep)
{
	for (int l = STORE_ENTRIES; l < TREE_LEVELS; l++) {
		unsigned shift = l < 0 ? 0 : 8 * (unsigned)l;
		uint64_t nodes = size >> shift;
		if (nodes % TREE_TILE && nodes != keep >> shift)
			store_drop_partial(
				log->dir, l, nodes / TREE_TILE, (unsigned)(nodes % TREE_TILE));
	}
}

int audit_checkpoint_root(
	struct audit_log *log, uint64_t *ret_size, uint8_t ret_root[AUDIT_ROOT_LEN])
{
	if (log->pending)
		return -EALREADY;
	int r = bundle_close(log);
	if (!r)
		r = partials_put(log);
	if (r < 0) {
		audit_checkpoint_failed(log);
		return r;
	}
	log->pending = true;
	log->pending_size = log->tree.size;
	tree_root(&log->tree, log->pending_root);
	/* Entries from now on wait for the next one. */
	log->unsealed_since = 0;
	*ret_size = log->pending_size;
	memcpy(ret_root, log->pending_root, AUDIT_ROOT_LEN);
	return 0;
}

/* Keeps a checkpoint for good: the first of a writer's life and one for each bundle after that. */
static int history_put(struct audit_log *log, uint64_t size, const char *note, size_t len)
{
	struct iovec iov[2] = {{(void *)note, len}, {(void *)"\n", 1}};
	if (log->history_size && log->history_size / TREE_TILE == size / TREE_TILE)
		return 0;
	_cleanup_close_ int fd =
		openat(log->dir, "checkpoints", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	ssize_t n = pwritev(fd, iov, 2, log->history_len);
	if (n != (ssize_t)len + 1) {
		int r = n < 0 ? -errno : -ENOSPC;
		if (n > 0 && ftruncate(fd, log->history_len) < 0)
			log->broken = true;
		return r;
	}
	log->history_len += n;
	log->history_size = size;
	return 0;
}

/*
 * The history first, so that a published checkpoint is never missing from it. But the very first
 * checkpoint comes before its history, so that a history without a checkpoint always means that
 * somebody took it away.
 */
static int checkpoint_publish(struct audit_log *log, uint64_t size, const char *note, size_t len)
{
	bool first = !log->history_len;
	int r = first ? 0 : history_put(log, size, note, len);
	if (!r)
		r = store_put(log->dir, "checkpoint", note, len);
	if (!r && first)
		r = history_put(log, size, note, len);
	return r;
}

int audit_checkpoint_put(struct audit_log *log, const char *note, size_t len)
{
	struct audit_checkpoint c;
	if (!log->pending)
		return -EPROTO;
	int r = audit_note_parse(note, len, &c);
	if (!r)
		r = audit_note_verify(note, &c, &log->key);
	if (!r && (c.size != log->pending_size ||
			  memcmp(c.root, log->pending_root, AUDIT_ROOT_LEN) != 0))
		r = -EBADMSG;
	if (!r)
		r = checkpoint_publish(log, c.size, note, len);
	if (r < 0) {
		audit_checkpoint_failed(log);
		return r;
	}
	partials_drop(log, log->sealed.size, c.size);
	log->sealed = c;
	log->pending = false;
	log->retry_at = 0;
	return 0;
}

void audit_checkpoint_failed(struct audit_log *log)
{
	log->pending = false;
	log->retry_at = clock_mono_ms() + AUDIT_SEAL_MS;
	if (!log->unsealed_since)
		log->unsealed_since = clock_mono_ms();
}

struct audit_log *audit_close(struct audit_log *log)
{
	if (!log)
		return NULL;
	if (log->live >= 0)
		close(log->live);
	if (log->dir >= 0)
		close(log->dir);
	free(log);
	return NULL;
}
