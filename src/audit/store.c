/*
 * Files of the log (store.h). All calls return; none waits for a disk but where the page cache must
 * read. Nothing is synced: the kernel writes back when it does (docs/audit.md says what that means
 * for a power cut).
 */
#include "audit/store.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "base/fds.h"

/* N as x001/x234/067. */
static size_t number_path(uint64_t n, char *p, size_t size)
{
	char digits[40];
	int len = snprintf(digits, sizeof(digits), "%021llu", (unsigned long long)n);
	size_t groups = (size_t)len / 3, first = 0, out = 0;
	while (first + 1 < groups && !memcmp(digits + 3 * first, "000", 3))
		first++;
	for (size_t g = first; g < groups; g++)
		out += (size_t)snprintf(p + out, size - out, "%s%.3s%s", g + 1 < groups ? "x" : "",
			digits + 3 * g, g + 1 < groups ? "/" : "");
	return out;
}

void store_tile_path(int level, uint64_t n, unsigned width, char ret[STORE_PATH_MAX])
{
	size_t k = level == STORE_ENTRIES
			   ? (size_t)snprintf(ret, STORE_PATH_MAX, "tile/entries/")
			   : (size_t)snprintf(ret, STORE_PATH_MAX, "tile/%d/", level);
	k += number_path(n, ret + k, STORE_PATH_MAX - k);
	if (width)
		snprintf(ret + k, STORE_PATH_MAX - k, ".p/%u", width);
}

void store_partial_dir(int level, uint64_t n, char ret[STORE_PATH_MAX])
{
	store_tile_path(level, n, 0, ret);
	size_t k = strlen(ret);
	snprintf(ret + k, STORE_PATH_MAX - k, ".p");
}

void store_live_path(uint64_t n, char ret[STORE_PATH_MAX])
{
	snprintf(ret, STORE_PATH_MAX, "live.%llu", (unsigned long long)n);
}

static int make_parents(int dirfd, const char *path)
{
	char p[STORE_PATH_MAX];
	snprintf(p, sizeof(p), "%s", path);
	for (char *s = strchr(p, '/'); s; s = strchr(s + 1, '/')) {
		*s = '\0';
		if (mkdirat(dirfd, p, 0700) < 0 && errno != EEXIST)
			return -errno;
		*s = '/';
	}
	return 0;
}

int store_rename(int dirfd, const char *from, const char *to)
{
	if (renameat(dirfd, from, dirfd, to) == 0)
		return 0;
	if (errno != ENOENT)
		return -errno;
	int r = make_parents(dirfd, to);
	if (!r && renameat(dirfd, from, dirfd, to) < 0)
		r = -errno;
	return r;
}

int store_put(int dirfd, const char *path, const void *data, size_t len)
{
	_cleanup_close_ int fd =
		openat(dirfd, "tmp", O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = fds_write_all(fd, data, len);
	if (!r)
		r = store_rename(dirfd, "tmp", path);
	if (r < 0)
		(void)unlinkat(dirfd, "tmp", 0); /* give a full disk its bytes back */
	return r;
}

int store_exists(int dirfd, const char *path)
{
	if (faccessat(dirfd, path, F_OK, AT_SYMLINK_NOFOLLOW) == 0)
		return 1;
	return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
}

void store_drop_partial(int dirfd, int level, uint64_t n, unsigned width)
{
	char p[STORE_PATH_MAX];
	store_tile_path(level, n, width, p);
	(void)unlinkat(dirfd, p, 0);
	store_partial_dir(level, n, p);
	(void)unlinkat(dirfd, p, AT_REMOVEDIR);
}

int store_entry_next(
	const uint8_t *bundle, size_t len, size_t *off, const uint8_t **ret, size_t *ret_len)
{
	size_t left = len - *off;
	if (!left)
		return 0;
	if (left < 2)
		return -EBADMSG;
	size_t n = (size_t)bundle[*off] << 8 | bundle[*off + 1];
	if (n > left - 2)
		return -EBADMSG;
	*ret = bundle + *off + 2;
	*ret_len = n;
	*off += 2 + n;
	return 1;
}
