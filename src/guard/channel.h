/* The channel table's inner functions; guard.h has what remote.c needs. */
#pragma once

#include "guard/guard.h"

#define ENDED_MAX 128

struct ended { /* for `belay channels --ended` */
	uint8_t id[CHANNEL_ID_LEN];
	struct channel copy; /* subjects NULL; rule, addresses, bytes */
	char from[NAME_MAX_LEN], to[NAME_MAX_LEN], from_user[USER_MAX_LEN], to_user[USER_MAX_LEN];
	char from_node[NAME_MAX_LEN], to_node[NAME_MAX_LEN];
	uint32_t from_pid, to_pid, from_uid, to_uid;
	uint64_t ended_ms;
	char reason[64];
};

int channels_init(struct guard *g) _must_check_;
void channels_deinit(struct guard *g);
size_t channels_count(const struct guard *g);
/* In the order they started; NULL at the end. */
struct channel *channel_first(struct guard *g);
struct channel *channel_next(struct channel *c);
const struct ended *channel_ended_get(struct guard *g, size_t i); /* newest first */
int channel_restore(
	struct guard *g, const struct channel *template, struct channel **ret) _must_check_;
/* Its beginning, which has a record in the state table, goes to the audit log. */
int channel_log(struct guard *g, const struct channel *c) _must_check_;
/* The pair it is, with these ends, as a question; q borrows from c. */
void channel_question(const struct channel *c, const struct subject *from, const struct subject *to,
	struct endpoint_question *q);
/* One of its ends runs another image now, which was allowed. */
int channel_adopt(
	struct guard *g, struct channel *c, bool accepting, struct subject *s) _must_check_;
/* Through conn on one node, the accepting program sees our dial as its peer. */
struct channel *channel_find_dialed(
	struct guard *g, const struct addr *dialed, const struct addr *b);
/* Facts may have changed while the channel was being made. May end it. */
void channel_judge_one(struct guard *g, struct channel *c, const char *reason);
void channel_judge(struct guard *g, const char *reason);
/* Ends all that `what` matches by reference: a revoked subject, a lost listener, … */
void channel_end_listener(struct guard *g, const struct bind *b, const char *reason);
/* What fabric and conn counted. */
void channel_flow(struct guard *g, const struct addr *a, const struct addr *b, uint64_t ab,
	uint64_t ba, uint64_t idle_ms);
void channel_count(struct channel *c, uint64_t ab, uint64_t ba, uint64_t idle_ms);
/* The fabric says the connection is gone. */
void channel_socket_gone(
	struct guard *g, const struct addr *a, const struct addr *b, uint64_t ab, uint64_t ba);
/* Asks for counts of all channels, then fn(ctx) once (at once when nobody can be asked). */
void channel_refresh(struct guard *g, void (*fn)(struct guard *g, uint64_t ctx), uint64_t ctx);
