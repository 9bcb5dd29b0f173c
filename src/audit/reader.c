/* Reading entries (reader.h). */
#include "audit/reader.h"

#include <errno.h>
#include <string.h>

#include "audit/store.h"
#include "base/fds.h"

void audit_reader_deinit(struct audit_reader *r)
{
	free(r->bundle);
	r->bundle = NULL;
	r->loaded = false;
}

/* Loads the bundle that holds `index`, or more of it, and keeps off. -ENOENT: it does not exist
 * yet. */
static int bundle_load(struct audit_reader *r)
{
	char full[STORE_PATH_MAX], live[STORE_PATH_MAX], *buf = NULL;
	size_t len = 0;
	uint64_t n = r->index / TREE_TILE;
	store_tile_path(STORE_ENTRIES, n, 0, full);
	store_live_path(n, live);
	bool named = true;
	int k = fds_read_file(r->dir, full, STORE_BUNDLE_MAX, &buf, &len);
	if (k == -ENOENT) {
		named = false;
		k = fds_read_file(r->dir, live, STORE_BUNDLE_MAX, &buf, &len);
	}
	if (k == -ENOENT) { /* renamed between the two */
		named = true;
		k = fds_read_file(r->dir, full, STORE_BUNDLE_MAX, &buf, &len);
	}
	if (k < 0)
		return k == -EFBIG ? -EBADMSG : k;
	free(r->bundle);
	r->bundle = (uint8_t *)buf;
	r->len = len;
	r->full = named;
	r->loaded = true;
	return r->off > len ? -EBADMSG : 0;
}

/* One entry of the loaded bundle. */
static int bundle_next(struct audit_reader *r, const char **ret, size_t *ret_len)
{
	const uint8_t *p;
	size_t i = (size_t)(r->index % TREE_TILE);
	if (r->off && !i)
		return 0; /* all 256 are read */
	int k = store_entry_next(r->bundle, r->len, &r->off, &p, ret_len);
	r->torn = k == -EBADMSG && !r->full;
	if (k <= 0)
		return r->torn ? 0 : k;
	*ret = (const char *)p;
	r->end[i + 1] = r->off;
	r->index++;
	return 1;
}

int audit_reader_next(struct audit_reader *r, const char **ret, size_t *ret_len)
{
	for (int tries = 0; tries < 3; tries++) {
		int k = r->loaded ? bundle_next(r, ret, ret_len) : 0;
		if (k)
			return k;
		bool at_end = r->loaded && r->off && r->index % TREE_TILE == 0;
		if (r->loaded && (r->full || at_end)) {
			/* A named bundle holds exactly 256; nothing may follow them. */
			if (!at_end || r->off != r->len)
				return -EBADMSG;
			r->loaded = false;
			r->off = 0;
		}
		k = bundle_load(r);
		if (k == -ENOENT)
			return 0;
		if (k < 0)
			return k;
		/* Nothing new in a live bundle: the present end. */
		if (!r->full && r->off == r->len)
			return 0;
	}
	return 0;
}

int audit_reader_init(struct audit_reader *r, int dirfd, uint64_t index)
{
	const char *p;
	size_t n;
	memset(r, 0, sizeof(*r));
	r->dir = dirfd;
	r->index = index - index % TREE_TILE;
	while (r->index < index) {
		int k = audit_reader_next(r, &p, &n);
		if (k <= 0) {
			audit_reader_deinit(r);
			return k < 0 ? k : -ENOENT;
		}
	}
	return 0;
}

int audit_reader_count(int dirfd, uint64_t *ret)
{
	char p[STORE_PATH_MAX];
	struct audit_reader r;
	const char *entry;
	size_t len;
	uint64_t n = 0, step = 1;
	int k;
	/* Bundles have no gaps (verify checks): look for the last one in growing, then shrinking
	 * steps. */
	for (bool grow = true; step; step = grow ? step * 2 : step / 2) {
		store_tile_path(STORE_ENTRIES, n + step - 1, 0, p);
		k = store_exists(dirfd, p);
		if (k < 0)
			return k;
		if (k)
			n += step;
		else
			grow = false;
	}
	k = audit_reader_init(&r, dirfd, n * TREE_TILE);
	while (k >= 0 && (k = audit_reader_next(&r, &entry, &len)) > 0)
		;
	*ret = r.index;
	audit_reader_deinit(&r);
	return k < 0 ? k : 0;
}
