/*
 * The state table: what must be known of the time before this guard's start, in a memfd that belayd
 * keeps. Records of one or two fixed-size slots behind a header; state_table.c knows bytes, state.c
 * knows our structs, restore.c reads them back and holds them against what fabric and conn say
 * exists.
 *
 * A record counts when its valid flag is set and its checksum (keyed, over slot, length and
 * payload) holds; the flag is written last. A change is a new record before the old one is dropped.
 * So a kill at any instant leaves each record either whole or void; a void one makes the successor
 * end what it described, never allow it.
 */
#pragma once

#include "guard/guard.h"

#define STATE_SLOT_LEN 512u /* a channel's record with names of ordinary length takes one */
#define STATE_PAYLOAD_MAX (2 * STATE_SLOT_LEN - 24u)
#define STATE_SLOTS_MAX 131072u
#define STATE_MEMORY_LEN ((size_t)STATE_SLOTS_MAX * STATE_SLOT_LEN)
#define STATE_KEY_LEN 16u

struct state_table;

/* ---- bytes (state_table.c); no knowledge of the guard ---- */

/*
 * Maps the memfd (of STATE_MEMORY_LEN bytes), making it a table if it is not one (then
 * *ret_fresh). The key is the table's: random, drawn at its creation, and the same for all
 * successors.
 */
int state_table_open(int memfd, struct state_table **ret, bool *ret_fresh) _must_check_;
void state_table_close(struct state_table *t);
const uint8_t *state_table_key(const struct state_table *t);
/* Return: slot (> 0), -ENOSPC when full, -EMSGSIZE. */
int state_table_put(struct state_table *t, const void *payload, size_t len) _must_check_;
void state_table_drop(struct state_table *t, int slot);
/* Length and payload of a valid record, 0 if the slot holds none. Broken records read as none. */
size_t state_table_get(const struct state_table *t, int slot, const void **ret);
/* Of a record just put or got: what it tells of is in the audit log too. */
void state_table_set_logged(struct state_table *t, int slot);
bool state_table_logged(const struct state_table *t, int slot);
size_t state_table_used(const struct state_table *t);
int state_table_slots(const struct state_table *t); /* one past the highest slot */

/* ---- our structs (state.c). Return: the new slot, or negative: then the effect must not happen
 * ---- */

int state_put_tree(struct guard *g, uint64_t tree, uint32_t pid, uint32_t uid, const char *as,
	bool ran) _must_check_;
int state_put_bind(struct guard *g, const struct bind *b) _must_check_;
int state_put_channel(struct guard *g, const struct channel *c) _must_check_;
int state_put_lease(
	struct guard *g, uint32_t lease, uint32_t generation, const struct channel *c) _must_check_;
void state_drop(struct guard *g, int slot);

/* ---- restore.c ---- */

/* Reads the table into our own tables, everything marked unseen. */
int restore_load(struct guard *g) _must_check_;
/*
 * A fresh fabric arrow: tells it its configuration, asks what exists, ends what we do not know
 * there and here, then declares the arrow ready.
 */
void restore_fabric_up(struct guard *g);
/* The fabric lost count of what ended: it is asked again what exists. */
void restore_again(struct guard *g);
/* The fabric's configuration as it is now. Flushes its grants. */
int restore_config(struct guard *g) _must_check_;
/* A fresh conn arrow: channels it does not hold have ended. */
void restore_conn_up(struct guard *g);
