/*
 * What code a process can run besides its executable: its executable mappings, judged by where they
 * come from. A mapping is compared by the device and inode that are mapped, never by its path's
 * text alone.
 */
#pragma once

#include <stdbool.h>
#include <sys/stat.h>

#include "attest/library.h"
#include "attest/parse.h"
#include "identity/evidence.h"

#define MAPS_FOREIGN_MAX 32      /* the limit of evidence.def */
#define MAPS_TEXT_MAX (8u << 20) /* the text of /proc/PID/maps, where the kernel has no query */
#define MAPS_MAX 262144u /* mappings looked at; four times what the kernel allows by default */

struct maps_foreign {
	char path[EVIDENCE_FOREIGN_PATH];
	uint64_t dev, ino; /* as the kernel maps them */
	int fd;            /* the file (O_PATH), or -1 if it could not be found any more */
	bool settled;      /* nobody governed can write it */
};

struct maps_result {
	bool anonymous; /* executable memory without a file */
	size_t n_foreign;
	struct maps_foreign foreign[MAPS_FOREIGN_MAX];
};
void maps_result_done(struct maps_result *r);

/*
 * proc: /proc/PID; exe, exe_st: its executable. text: read the text even where the kernel has the
 * query, for tests. -E2BIG with more foreign mappings than fit; -errno.
 */
int maps_judge(int proc, int exe, const struct stat *exe_st, bool text, struct libraries *known,
	struct maps_result *ret) _must_check_;

/* Each mapping, or each executable one. fn's negative return ends it. */
typedef int (*maps_fn)(void *ctx, const struct mapping *m);
int maps_each(int maps, bool executable, bool text, maps_fn fn, void *ctx) _must_check_;
