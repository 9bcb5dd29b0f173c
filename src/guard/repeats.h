/*
 * Entries that repeat: what is refused in a loop must not fill the log's disc. The first few
 * alike within a second are logged one by one; the rest become one entry a second that says how
 * many they were, so that the counts add up. Who is refused in too many different ways at once has
 * what exceeds his share counted together, whatever it was about.
 *
 * What is counted and not yet written is lost when the guard is killed: at most a second's.
 */
#pragma once

#include "audit/record.h"
#include "guard/share.h"

#define REPEATS_MAX 1024       /* kinds of entries being counted */
#define REPEATS_PER_WHO 32     /* of one user or node; beyond, all his others are one kind */
#define REPEATS_FIRST 3        /* alike, logged one by one */
#define REPEATS_WINDOW_MS 1000 /* then counted for so long */

int repeats_init(struct guard *g) _must_check_;
/* Writes what was counted. */
void repeats_deinit(struct guard *g);
/* The key says what is alike; the record is copied if need be. Return: as auditing_write(). */
int repeats_record(
	struct guard *g, uint64_t key, share_who who, const struct audit_record *r) _must_check_;
