/*
 * What every component process has in common: what it inherits, the socket to the dispatcher over
 * which its arrows and connections come, and the socket to belayd to which it gives what must
 * outlive it.
 *
 * Life of a component: belayd forks, drops to the role's uid, execs `belay-ROLE --heritage TEXT`;
 * component_open() parses that and checks each descriptor's kind; the process sets up, enters its
 * sandbox, and component_run() serves the loop until the dispatcher's socket closes, which ends it:
 * a component without an instance has nothing to do and nobody to check it.
 */
#pragma once

#include <uv.h>

#include "base/error.h"
#include "ipc/heritage.h"
#include "ipc/ipc.h"

struct component;
struct Belay__Connection;
struct Belay__ToComponent;

/* Every call: 0, or negative when the message was a surprise: the component then ends. */
struct component_ops {
	/* An arrow to `peer` opened; takes fd. An older arrow to the same role is to be replaced.
	 */
	int (*on_arrow)(struct component *c, enum role peer, int fd);
	/* An accepted connection (dispatcher passes CONTROL to guard, LINK to link, DATA to conn).
	 * Takes fds by setting slots to -1. */
	int (*on_connection)(
		struct component *c, const struct Belay__Connection *msg, int *fds, size_t n_fds);
	/* Guard only: a component started or ended; answers to Publish and Listen. May be NULL. */
	int (*on_notice)(struct component *c, const struct Belay__ToComponent *msg);
	/* Dispatcher only, whose socket leads to belayd and carries ToDispatcher: every message as
	 * it is. */
	ipc_message_fn on_raw;
};

struct component {
	uv_loop_t loop;
	struct heritage heritage;
	struct ipc_chan dispatcher;
	struct ipc_chan belayd;
	const struct component_ops *ops;
	void *data;
	uint32_t peer[_ROLE_N]; /* generation at the other end of the newest arrow to each role */
	bool failed;            /* ended by a surprise, not by the instance: exit status 1 */
};

/* Parses the heritage, starts log and loop, makes the process non-dumpable, no core, no new
 * privileges. */
int component_open(struct component *c, int argc, char **argv, const struct component_ops *ops,
	void *data, struct error *e) _must_check_;
/* Serves until the dispatcher goes. Call after the sandbox is entered. Return: exit status. */
int component_run(struct component *c);
/* The kernel ends this process with belayd; again after each change of ids, which undoes it. */
void component_tie(void);
/* Gives belayd a duplicate of fd under name (replacing) for this role's successors, or drops it (fd
 * -1). */
int component_keep(struct component *c, const char *name, int fd) _must_check_;
/* Everything given so far would outlive this process now. False: some of it is still on its way. */
bool component_kept_all(const struct component *c);
/* Takes the kept descriptor of that name out of the heritage; -1 if there is none. */
int component_kept(struct component *c, const char *name);
/* Has belayd end that start of a component, and only that: it surprised us. Dispatcher and guard.
 */
int component_reject(
	struct component *c, enum role role, uint32_t generation, const char *why) _must_check_;
/* Somebody keeps us waiting for longer than is good: belayd asks all whether they live. */
void component_look(struct component *c);
