/*
 * belayd: starts the components, keeps what must outlive them, replaces them. It reads not a byte
 * of a peer: its only input is its command line, its children's ends and their KEEP, DROP and
 * REJECT messages.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <uv.h>

#include "base/error.h"
#include "belayd/backoff.h"
#include "ipc/control.h"
#include "ipc/heritage.h"
#include "ipc/ipc.h"

#define BELAYD_UID_BASE 64400
#define BELAYD_GUARD_MEMORY (64ul << 20) /* sparse: pages come as the table fills */
#define BELAYD_ENFORCE_MEMORY (1ul << 20)
#define BELAYD_STOP_MS 2000 /* how long components may take to end by themselves */
#define BELAYD_WATCHDOG_S 10
#define BELAYD_EXEC_MS 5000 /* how long a child may take to become its executable */

struct belayd;

/* One role: the process that fills it now, if any, and what outlives that process. */
struct child {
	struct belayd *belayd;
	enum role role;
	bool wanted;
	uint32_t generation;
	struct backoff backoff;
	uv_timer_t timer; /* waits for the next start */

	/* outlives the process */
	int state_dir, memory;
	struct heritage_kept *kept;
	size_t n_kept;

	/* the process; pid 0: none */
	pid_t pid;
	int pidfd;
	uint64_t start_time, started_ms;
	bool pinged;        /* in this round, and has not answered */
	int dispatcher_end; /* our duplicate of the dispatcher's end, for its successor */
	struct ipc_chan keep;
	uv_poll_t *watch;
	char path[4096];
};

struct belayd {
	uv_loop_t loop;
	uv_signal_t sigterm, sigint, sighup;
	uv_timer_t stop_timer;
	struct instance instance;
	char state[INSTANCE_DIR_MAX + 16];
	bool host, stopping, explicit_dir;
	uid_t uid_base;
	struct addr resolvers[HERITAGE_RESOLVERS_MAX];
	size_t n_resolvers;
	int lock, dir;
	uint32_t round;                  /* of the watch-dog */
	uint64_t round_ms, round_due_ms; /* its start; its end, 0: none is on */
	uint64_t watchdog_ms;            /* 0: off */
	bool look_again;
	uv_timer_t round_timer;
	uv_poll_t asked; /* the control socket: somebody asks for something */
	uv_signal_t sigchld;
	struct ipc_chan dispatcher; /* start records to the dispatcher that lives now */
	struct child child[_ROLE_N];
};

/* place.c: directories, lock, control socket. */
int place_open(struct belayd *b, int *ret_control, struct error *e) _must_check_;
void place_close(struct belayd *b);

/* keep.c: descriptors kept for successors. */
int keep_set(struct child *c, const char *name, int *fd) _must_check_; /* takes *fd on success */
void keep_drop(struct child *c, const char *name);
bool keep_allowed(enum role role, const char *name);

/* privilege.c: what the child becomes between fork and exec. */
uid_t privilege_uid(const struct belayd *b, enum role role);
int privilege_drop(const struct belayd *b, enum role role) _must_check_;

/* spawn.c: fork and exec with exactly the heritage. */
struct spawn {
	int pid, pidfd;
	uint64_t start_time;
};
/* fds of h are replaced by what the child will see while formatting; h's own lists stay. */
int spawn_child(const struct belayd *b, const struct child *c, int dispatcher, int keep,
	struct spawn *ret, struct error *e) _must_check_;

/* watch.c: life of the children. */
int children_init(struct belayd *b, int control, struct error *e) _must_check_;
int child_start(struct child *c, struct error *e) _must_check_;
void children_stop(struct belayd *b);
void child_kill(struct child *c, int sig);

/* watchdog.c: who lives but does nothing is replaced. */
int watchdog_init(struct belayd *b, int control, struct error *e) _must_check_;
void watchdog_look(struct belayd *b);
int watchdog_pong(struct child *c, uint32_t round) _must_check_;
void watchdog_stop(struct belayd *b);

/* notify.c: tells the service manager, if there is one. */
void notify_service(const char *state);
