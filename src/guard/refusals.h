/*
 * What was refused lately, for `belay why`. Bounded: when it is full, whoever has most of it loses
 * his oldest, so that nobody can drive out what others were refused. The audit log has the whole
 * history.
 */
#pragma once

#include <sys/queue.h>

#include "guard/share.h"

#define REFUSALS_MAX 256

struct refusal {
	TAILQ_ENTRY(refusal) link;
	uint64_t key; /* of those alike, with pid: one entry */
	share_who who;
	uint64_t when_ms; /* of the last, wall clock */
	uint64_t count;
	uint32_t pid, uid;
	char text[320], rule[NAME_MAX_LEN], advice[512];
	char from[NAME_MAX_LEN], to[NAME_MAX_LEN], address[ADDR_TEXT_MAX];
};

int refusals_init(struct guard *g) _must_check_;
void refusals_deinit(struct guard *g);
void refusals_add(struct guard *g, const struct refusal *r);
/* The same of the same process: counted, and the newest again. False: there is none. */
bool refusals_again(struct guard *g, uint64_t key, uint32_t pid, uint64_t when_ms);
/* Newest first: the i-th that matches pid (0: any) and address (NULL or empty: any), the one asked
 * for or the visitor's, with or without port; NULL at the end. */
const struct refusal *refusals_get(struct guard *g, size_t *i, uint32_t pid, const char *address);
