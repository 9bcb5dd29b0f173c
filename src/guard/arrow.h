/*
 * The guard's side of its arrows to the other components: requests by id, answered once.
 *
 * An arrow may vanish and come back at any time. A call whose effect may be asked for twice is kept
 * (CALL_RESEND) and sent again to the successor; any other call fails with -EPIPE when the arrow
 * goes. A call made while the arrow is away waits for it, at most until its time-out. Every call
 * ends in exactly one call_fn, unless it is cancelled first. An answer nobody asked for is a
 * surprise: it closes that arrow and is audited.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#include "base/cleanup.h"
#include "ipc/component.h"

struct guard;
struct call;

#define ARROW_CALLS_MAX 8192 /* open calls of one arrow; beyond that new ones fail: -ENOBUFS */
#define CALL_FDS_MAX 4       /* descriptors a call keeps that may be sent later or again */

enum call_flags {
	CALL_RESEND = 1, /* idempotent: send again to a successor */
	CALL_NOWAIT = 2, /* fail with -EPIPE at once while the arrow is away */
	CALL_STREAM = 4, /* several answers may come; the callee ends it with call_done() */
};

/*
 * The answer: error 0 and the unpacked FromX envelope (freed by the caller of this function, as are
 * the descriptors left in fds), or a negative errno and reply NULL.
 */
typedef void (*call_fn)(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds);

/* What the guard knows of one kind of arrow; main.c has the table. */
struct arrow_ops {
	const ProtobufCMessageDescriptor *from; /* the envelope that comes in */
	/* A message that answers no call. Negative: a surprise. */
	int (*event)(struct guard *g, const void *message, int *fds, size_t n_fds);
	void (*up)(struct guard *g); /* fresh arrow; calls arrow_set_ready() now or later */
	void (*down)(struct guard *g);
	unsigned timeout_ms;
};

struct arrow {
	struct ipc_chan chan;
	const struct arrow_ops *ops;
	enum role role;
	struct guard *guard;
	uint64_t last_id;
	uint32_t opened; /* how often the arrow was opened: its generation for questions */
	size_t n_calls;
	TAILQ_HEAD(call_list, call) calls; /* in the order of their deadlines */
	struct call *current;              /* being answered */
	bool ready; /* false until the set-up of a fresh arrow is done (fabric: reconcile) */
};

/* ops: _ROLE_N entries, `from` NULL where there is no arrow. */
int arrows_init(struct guard *g, const struct arrow_ops *ops) _must_check_;
void arrows_deinit(struct guard *g);
/* An arrow opened; takes fd. Calls that may be asked again are, as soon as arrow_set_ready(). */
int arrow_open(struct guard *g, enum role role, int fd) _must_check_;
void arrow_set_ready(struct guard *g, enum role role);
bool arrow_up(const struct guard *g, enum role role);
/* Ends an arrow after a surprise, audited. */
void arrow_surprise(struct guard *g, enum role role, const char *what);

/*
 * Sends envelope `msg` (any ToX: `id` is filled in) and remembers fn. *ret (may be NULL) is what
 * arrow_cancel() takes; it is invalid once fn was called. fds stay the caller's. A negative return
 * means that fn will not be called. arrow_call_setup() also sends while the arrow is not ready.
 */
int arrow_call(struct guard *g, enum role role, ProtobufCMessage *msg, const int *fds, size_t n_fds,
	unsigned flags, call_fn fn, void *ctx, struct call **ret) _must_check_;
int arrow_call_setup(struct guard *g, enum role role, ProtobufCMessage *msg, unsigned flags,
	call_fn fn, void *ctx) _must_check_;
/* fn will not be called; NULL is fine. The effect may still happen: not for the fabric's orders. */
void arrow_cancel(struct call *call);
void call_done(struct guard *g, enum role role); /* within a CALL_STREAM's fn: that was the last */
/* No answer expected. While the arrow is away: -EPIPE. */
int arrow_send(struct guard *g, enum role role, ProtobufCMessage *msg, const int *fds,
	size_t n_fds) _must_check_;
/*
 * An order to the fabric of which only failure matters: it is logged with `what`. The message is
 * any Belay__ToFabric.
 */
int arrow_order(struct guard *g, void *to_fabric, const char *what) _must_check_;
