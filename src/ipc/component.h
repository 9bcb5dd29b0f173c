/*
 * What every component process has in common: what it inherits, the socket to the dispatcher over which
 * its arrows and connections come, and the socket to belayd to which it gives what must outlive it.
 *
 * Life of a component: belayd forks, drops to the role's uid, execs `belay-ROLE --heritage TEXT`;
 * component_open() parses that and checks each descriptor's kind; the process sets up, enters its
 * sandbox, and component_run() serves the loop until the dispatcher's socket closes, which ends it: a
 * component without an instance has nothing to do and nobody to check it.
 */
#pragma once

#include <uv.h>

#include "base/error.h"
#include "ipc/ipc.h"

enum role {
	ROLE_NONE,
#define ROLE(id, name, number) ROLE_##id = number,
#include "ipc/role.def"
#undef ROLE
	_ROLE_N
};

const char *role_name(enum role role);
/* ROLE_NONE if there is no such role. */
enum role role_parse(const char *name);

#define HERITAGE_KEPT_MAX 4096 /* descriptors a component may have belayd keep */
#define HERITAGE_NAME_MAX 48

struct heritage_kept {
	char name[HERITAGE_NAME_MAX]; /* [a-z0-9-]+ */
	int fd;
};

/* The complete list of what a component inherits, besides 0, 1 and 2 (docs/trust.md). */
struct heritage {
	enum role role;
	bool host;	   /* host instance, else private */
	uint32_t generation; /* counts starts of this role in this instance */
	int dispatcher;	   /* SEQPACKET: ToComponent in, FromComponent out */
	int belayd;	   /* SEQPACKET: ToBelayd out (component_keep) */
	int state_dir;	   /* guard, signer: directory of this role's files (O_PATH not set), else -1 */
	int memory;	   /* guard: state table; enforce: journal. A memfd belayd keeps. Else -1 */
	uint32_t owner_uid; /* who may administer: the private instance's user, or 0 */
	struct heritage_kept *kept; /* given with component_keep() by predecessors of this role */
	size_t n_kept;
	char dir[256]; /* the instance's directory, for messages only */
};

struct component;
struct component_ops {
	/* An arrow to `peer` opened; takes fd. An older arrow to the same role is to be replaced. */
	int (*on_arrow)(struct component *c, enum role peer, int fd);
	/* An accepted connection (dispatcher passes CONTROL to guard, LINK to link, DATA to conn). Takes fds by setting slots to -1. */
	int (*on_connection)(struct component *c, const struct Belay__Connection *msg, int *fds,
		size_t n_fds);
	/* Guard only: a component started or ended; and answers to Publish. May be NULL. */
	int (*on_notice)(struct component *c, const struct Belay__ToComponent *msg);
};

struct component {
	uv_loop_t loop;
	struct heritage heritage;
	struct ipc_chan dispatcher;
	struct ipc_chan belayd;
	const struct component_ops *ops;
	void *data;
};

/* Parses the heritage, starts log and loop, makes the process non-dumpable, no core, no new privileges. */
int component_open(struct component *c, int argc, char **argv, const struct component_ops *ops,
	void *data, struct error *e) _must_check_;
/* Serves until the dispatcher goes. Call after the sandbox is entered. Return: exit status. */
int component_run(struct component *c);
/* Gives belayd a duplicate of fd under name (replacing) for this role's successors, or drops it (fd -1). */
int component_keep(struct component *c, const char *name, int fd) _must_check_;
/* Takes the kept descriptor of that name out of the heritage; -1 if there is none. */
int component_kept(struct component *c, const char *name);
