/*
 * The policy in force. Its image comes from an administrator through a sealed memfd, or from our
 * own directory; either way policy_image_open() checks all of it before one byte decides anything.
 *
 * A load is atomic: new image checked, written beside the old one and renamed, the entry logged,
 * then one pointer changes. A failure at any step leaves the old policy in force and on the disc.
 */
#include "guard/policies.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "base/hex.h"
#include "base/log.h"
#include "guard/auditing.h"
#include "guard/judge.h"
#include "guard/times.h"

#define POLICY_FILE "policy.image"
#define POLICY_FILE_NEW "policy.image.new"

struct policies {
	struct policy *current;
	const void *image; /* mapped; lives as long as current */
	size_t len;
	uint8_t sha256[32];
	uint64_t loaded_ms;
};

static void policies_drop(struct policies *p)
{
	policy_close(p->current);
	if (p->image)
		munmap((void *)(uintptr_t)p->image, p->len);
	*p = (struct policies){0};
}

/* Checks and opens an image held in a sealed memfd. */
static int policies_open(int memfd, struct policies *ret, struct error *e)
{
	struct policies p = {0};
	int r = fds_map(memfd, POLICY_IMAGE_MAX, &p.image, &p.len);
	if (r < 0)
		return error_errno(e, r, "cannot read the compiled policy");
	r = policy_image_open(p.image, p.len, &p.current, e);
	if (r < 0) {
		policies_drop(&p);
		return r;
	}
	crypto_hash_sha256(p.sha256, p.image, p.len);
	p.loaded_ms = clock_wall_ms();
	*ret = p;
	return 0;
}

int policies_init(struct guard *g)
{
	g->policies = calloc(1, sizeof(*g->policies));
	if (!g->policies)
		return -ENOMEM;
	_cleanup_free_ char *image = NULL;
	size_t len;
	int dir = g->component.heritage.state_dir;
	int r = fds_read_file(dir, POLICY_FILE, POLICY_IMAGE_MAX, &image, &len);
	if (r == -ENOENT)
		return 0;
	struct error e = ERROR_INIT;
	_cleanup_close_ int memfd = r < 0 ? r : fds_memfd("policy", image, len);
	if (memfd < 0)
		error_errno(&e, memfd, "cannot read the policy kept on disc");
	else
		r = policies_open(memfd, g->policies, &e);
	if (e.code)
		log_error("%s; everything is refused until a policy is loaded", e.text);
	struct stat st;
	if (g->policies->current && fstatat(dir, POLICY_FILE, &st, 0) == 0)
		g->policies->loaded_ms = (uint64_t)st.st_mtime * 1000;
	return r == -ENOMEM ? r : 0;
}

void policies_deinit(struct guard *g)
{
	if (g->policies)
		policies_drop(g->policies);
	free(g->policies);
	g->policies = NULL;
}

static int policies_persist(int dir, const struct policies *p)
{
	_cleanup_close_ int fd =
		openat(dir, POLICY_FILE_NEW, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	int r = fds_write_all(fd, p->image, p->len);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r == 0 && renameat(dir, POLICY_FILE_NEW, dir, POLICY_FILE) < 0)
		r = -errno;
	if (r == 0 && fsync(dir) < 0)
		r = -errno;
	if (r < 0)
		(void)unlinkat(dir, POLICY_FILE_NEW, 0);
	return r;
}

int policies_load(struct guard *g, int memfd, const char *source, uint32_t uid, struct error *e)
{
	struct policies fresh;
	int r = policies_open(memfd, &fresh, e);
	if (r < 0)
		return r;
	char digest[65], detail[REASON_MAX];
	hex_encode(fresh.sha256, 32, digest);
	snprintf(detail, sizeof(detail), "%.64s: %" PRIu32 " rules", source,
		policy_rules(fresh.current));
	r = auditing_policy(g, uid, detail, fresh.sha256, policy_rules(fresh.current));
	if (r < 0)
		error_errno(e, r, "cannot log the policy, so the old one stays in force");
	else if ((r = policies_persist(g->component.heritage.state_dir, &fresh)) < 0)
		error_errno(e, r, "cannot keep the policy on disc, so the old one stays in force");
	if (r < 0) {
		policies_drop(&fresh);
		return r;
	}
	policies_drop(g->policies);
	*g->policies = fresh;
	judge_all(g, "policy");
	times_arm(g);
	return 0;
}

const struct policy *policies_current(const struct guard *g)
{
	return g->policies->current;
}

uint64_t policies_loaded_ms(const struct guard *g)
{
	return g->policies->loaded_ms;
}

void policies_describe(const struct guard *g, char *text, size_t len)
{
	const struct policies *p = g->policies;
	char digest[65] = "";
	hex_encode(p->sha256, 32, digest);
	if (p->current)
		snprintf(text, len, "%.96s (sha256 %.16s)", policy_source(p->current), digest);
	else
		text[0] = '\0';
}
