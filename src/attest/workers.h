/*
 * Threads for what may wait. Looking at a hostile process or its files can: a file system that a
 * program serves answers when it likes, or never. So each question is worked on by a thread of its
 * own, and is answered at its deadline at the latest; a thread that got stuck stays so until the
 * kernel lets it go, and costs its process and, WORKERS_PER_USER of them, its user, nobody else.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

#include "base/cleanup.h"

#define WORKERS_MAX 64
#define WORKERS_PER_USER 16
#define WORKERS_PER_PROCESS 2
#define WORKERS_KEPT 2        /* idle threads beyond these end */
#define WORK_DEADLINE_MS 4000 /* less than the guard waits before it replaces attest */

struct work {
	TAILQ_ENTRY(work) link;
	uint32_t user, process; /* whom it counts for; process 0: none */
	uint64_t deadline_ms;
	bool late, running;
	void (*run)(struct work *);
	/*
	 * Both on the loop. done: once; -ETIMEDOUT while run() may still be at work on it. release:
	 * last, nobody uses it any more.
	 */
	void (*done)(struct work *, int error);
	void (*release)(struct work *);
};

struct workers;
int workers_new(uv_loop_t *loop, struct workers **ret) _must_check_;
/* The caller has set user, process and functions. Negative: no thread, nothing is called. */
int workers_add(struct workers *w, struct work *k) _must_check_;
