/* The table of known processes: process.c has the essay. */
#pragma once

#include "guard/guard.h"

int processes_init(struct guard *g) _must_check_;
void processes_deinit(struct guard *g);
size_t processes_count(const struct guard *g);
/* The tree a known, living process belongs to, or 0. */
uint64_t process_tree(struct guard *g, uint32_t pid, uint64_t start_time);
/* Any of the evidence's ancestors, or the process itself, runs inside a tree. */
bool process_inside_tree(struct guard *g, const Belay__Evidence *e);
/* The subject of a living process as last found, whatever its age; NULL if unknown. */
struct subject *process_subject(struct guard *g, uint32_t pid, uint64_t start_time);
/* process_ask() about a process that is known and lives; false if it is not: fn is not called. */
bool process_ask_again(struct guard *g, uint32_t pid, uint64_t start_time, process_fn fn, void *ctx,
	struct process_wait **ret);
/* The living process of that pid: its tree and subject as last found. False if it is not known. */
bool process_known(struct guard *g, uint32_t pid, uint64_t *ret_tree, struct subject **ret);
/*
 * Until when (monotonic ms) what is known of the subject's process decides; 0: no more. One that
 * has ended or was never looked at here changes no more: UINT64_MAX.
 */
uint64_t process_holds_until(struct guard *g, const struct subject *s);
/* Its evidence is younger than its lease. */
bool process_fresh(struct guard *g, uint32_t pid, uint64_t start_time);
void process_tree_gone(struct guard *g, uint64_t tree);
