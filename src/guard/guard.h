/*
 * The guard: every question ends here, every order starts here, every decision is logged here
 * before it takes effect. One thread, one loop; nothing in it blocks but the registry and the audit
 * log's disc.
 *
 * The tables, and who ends an entry:
 *   subject   what a process was found to be; shared by reference, immutable
 *   process   (pid, start time) -> subject, leased; ends with its pidfd
 *   bind      one listener or bound datagram socket; ends when the fabric says the socket is gone
 *   grant     (principal, transport, destination) -> mark; ends by policy, revocation, or its
 * listener channel   one connection; ends when fabric or conn says so, or when we end it job one
 * question of enforce being answered Binds, channels and trees are mirrored in the
 * state table (state.h) before they take effect.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

#include "base/addr.h"
#include "base/error.h"
#include "base/secret.h"
#include "common.pb-c.h"
#include "enforce.pb-c.h"
#include "guard/arrow.h"
#include "ipc/component.h"

#define EVIDENCE_LEASE_MS 1000 /* evidence older than this is taken again before it decides */
#define SUBJECT_PROGRAMS_MAX 8
#define NAME_MAX_LEN 64 /* program, group, rule, node: with NUL */
#define USER_MAX_LEN 33
#define CHANNEL_ID_LEN 16
#define REASON_MAX 160

#define PROCESSES_MAX 16384
#define BINDS_MAX 8192
#define CHANNELS_MAX 65536
#define GRANTS_MAX 16384
#define TREES_MAX 4096
#define JOBS_MAX 4096
#define MARK_MIN 16u         /* smaller marks are the fabric's own */
#define MARK_MAX 0xfffffff0u /* and greater ones */
#define NODE_ADDRESSES_MAX 32

struct registry;
struct policies;
struct remote;
struct state_table;
struct exec_question;
struct process_wait;
struct limit;
struct shares;
struct repeats;

/* ---- subjects: what we know about one end ---- */

struct subject {
	unsigned refs;
	uint64_t facts;            /* matched under these (guard.facts) */
	struct subject *successor; /* the same evidence matched under newer facts, or NULL */
	Belay__Evidence *evidence; /* ipc_free() */
	uint8_t n_programs, n_groups;
	char programs[SUBJECT_PROGRAMS_MAX]
		     [NAME_MAX_LEN]; /* enrolled names that match; revoked ones never */
	char groups[SUBJECT_PROGRAMS_MAX][NAME_MAX_LEN];
	char user[USER_MAX_LEN];  /* for people and for other nodes; uid decides on this node */
	char node[NAME_MAX_LEN];  /* empty: this node */
	char why_not[REASON_MAX]; /* why nothing matches, for `belay why` */
	uint64_t principal; /* keyed hash of node, uid and programs (or, unknown, the digests) */
	bool revoked;       /* matches a revoked program: everything is refused */
};

struct subject *subject_ref(struct subject *s);
void subject_unref(struct subject *s);
/* Takes evidence. Matches it with the registry; NULL when out of memory (evidence is freed then,
 * too). */
struct subject *subject_local(struct guard *g, Belay__Evidence *evidence);
/* An end on another node, by that node's word; names are checked and bounded. Takes evidence. */
struct subject *subject_remote(struct guard *g, Belay__Evidence *evidence, const char *node,
	char *const *programs, size_t n_programs, char *const *groups, size_t n_groups,
	const char *user);
/* One of the state table: as it was matched then. Takes evidence. */
struct subject *subject_restored(struct guard *g, Belay__Evidence *evidence, const char *node,
	char *const *programs, size_t n_programs, char *const *groups, size_t n_groups,
	const char *user, uint64_t principal);
/* Program name for people: the first match, else the base name of the executable. */
const char *subject_name(const struct subject *s);

/* ---- verdicts ---- */

struct verdict {
	bool allow;
	Belay__Protection protection;
	uint64_t idle_ms;        /* 0: none */
	uint32_t connections;    /* limit on open channels under limit_rule, 0: none */
	char rule[NAME_MAX_LEN]; /* the deciding rule: its name, else "line N"; empty: none */
	char limit_rule[NAME_MAX_LEN];
	uint32_t rate, rate_s; /* new channels under rate_rule in so many seconds, 0: no limit */
	char rate_rule[NAME_MAX_LEN];
	bool permissive;      /* allowed, but only to see what would be refused; why says so */
	char why[REASON_MAX]; /* a refusal's reason */
};

/* A place under a rule's limit of connections, and in a share, while one is being opened (limit.h).
 */
struct seat {
	char limit_rule[NAME_MAX_LEN]; /* empty: none */
	uint64_t who;                  /* whose share of the channels (share.h); 0: none */
};

/* What is asked of the policy. */
struct endpoint_question {
	Belay__Operation operation;
	Belay__Transport transport;
	const struct subject *from, *to; /* to NULL: not yet known, outside, or a bind */
	const struct addr *address;
	const char *unix_path;      /* TRANSPORT_UNIX, instead of an address */
	const char *to_node;        /* the node the address belongs to; NULL or "": this one */
	bool caller_only;           /* before the other end is known: could any rule allow it? */
	bool outside;               /* the address belongs to no node: plain or nothing */
	bool dns;                   /* a name query to the fabric's relay */
	const struct addr *visitor; /* OP_PUBLISH: who came from outside, or NULL */
};

/* The current policy's verdict; no effect, no entry. Default deny; no policy: deny. */
void decide_ask(struct guard *g, const struct endpoint_question *q, struct verdict *ret);
/*
 * Logs the decision, remembers a refusal for `belay why`. Negative when the log cannot be written:
 * then an allow must not take effect.
 */
int decide_record(struct guard *g, const struct endpoint_question *q, const struct verdict *v,
	uint64_t tree) _must_check_;
/* What would have to change for it to be allowed. */
void decide_advice(struct guard *g, const struct endpoint_question *q, char *text, size_t len);
/* `connect to 127.0.0.1:6379`, for notices and refusals. */
#define DECIDE_WHAT_MAX 256
void decide_what(const struct endpoint_question *q, char text[DECIDE_WHAT_MAX]);
/* A refusal in full, for a reason of our own rather than the policy's. */
void verdict_deny(struct verdict *v, const char *fmt, ...) _printf_(2, 3);

/* ---- processes ---- */

struct process;
/* s is borrowed, NULL with error set. */
typedef void (*process_fn)(struct guard *g, void *ctx, int error, struct subject *s);
struct process_wait;
/*
 * What is the process behind pidfd now? Within the lease of earlier evidence fn is called before
 * this returns. *ret (may be NULL) is what process_forget_wait() takes; NULL when fn was already
 * called.
 */
void process_ask(struct guard *g, uint32_t pid, int pidfd, uint64_t tree, bool at_exec,
	process_fn fn, void *ctx, struct process_wait **ret);
void process_forget_wait(struct process_wait *w);

/* ---- binds ---- */

struct bind {
	LIST_ENTRY(bind) link; /* hash chain by port */
	struct addr addr;
	Belay__Transport transport;
	bool v6only, listening, pending; /* pending: decided, the fabric has not done it yet */
	bool unseen;                     /* restored, not yet confirmed by the fabric */
	bool chosen;                     /* its port was the kernel's choice: judged as port 0 */
	uint64_t inode, tree, who;       /* who: whose share it counts in (share.h) */
	uint32_t pid;
	struct subject *subject;
	char rule[NAME_MAX_LEN];
	uint64_t publish; /* id of the outside listening address, 0: none */
	int slot;
};

/* The listener a connection to `to` reaches: exact before wildcard; a dual-stack :: also takes
 * IPv4. */
struct bind *bind_find(struct guard *g, Belay__Transport transport, const struct addr *to);
/* Which listener that was: while its program is looked at, another may take its place. */
struct bind_seen {
	uint64_t inode, principal;
};
struct bind_seen bind_see(const struct bind *b);
bool bind_is_still(struct guard *g, Belay__Transport transport, const struct addr *to,
	const struct bind_seen *seen);
/* The listener's subject, attested again when its lease is over and its process lives. */
void bind_subject(
	struct guard *g, struct bind *b, process_fn fn, void *ctx, struct process_wait **ret);

/* ---- channels ---- */

enum channel_via {
	CHANNEL_DIRECT, /* one kernel connection inside the fabric */
	CHANNEL_LOCAL,  /* through our conn, both ends here (encrypt on one node) */
	CHANNEL_REMOTE, /* through conn to another node */
	CHANNEL_PLAIN,  /* through conn to or from outside of Belay */
};

struct channel {
	LIST_ENTRY(channel) by_id, by_name;
	TAILQ_ENTRY(channel) link;
	uint8_t id[CHANNEL_ID_LEN];
	enum channel_via via;
	Belay__Transport transport;
	Belay__Protection protection;
	struct addr a, b;          /* names of the connecting and the accepting side */
	struct addr dialed;        /* local: our own end towards the listener (the far end is b) */
	char *why_ending;          /* ordered to end, and why; NULL: not yet */
	struct subject *from, *to; /* to may be NULL (outside) */
	bool initiator;            /* remote: our program is the connecting one */
	bool dns, published; /* to the relay of name queries; from outside to a published port */
	bool leased;         /* made under a lease, and recorded after */
	bool unseen, held;   /* to be confirmed by the fabric; confirmed by conn */
	uint32_t mark;
	uint32_t looked; /* the round in which its programs were looked at last (relook.c) */
	uint32_t late;   /* ends of earlier sockets of these names that are still to be told */
	uint64_t tree, started_ms, started_wall_ms, idle_limit_ms;
	uint64_t bytes_ab, bytes_ba, idle_ms, stats_ms; /* as of the last count, at stats_ms */
	char rule[NAME_MAX_LEN], limit_rule[NAME_MAX_LEN];
	uint64_t who; /* whose share it counts in (share.h) */
	int slot;
};

/* Template's subjects are borrowed. Mirrors into the state table and audits the start before it
 * returns. */
int channel_start(
	struct guard *g, const struct channel *template, struct channel **ret) _must_check_;
/*
 * Ends it for a reason of ours: sockets destroyed, keys erased, the far node told, audited. Frees
 * c.
 */
void channel_end(struct guard *g, struct channel *c, const char *reason);
/* It has ended by itself (the other side already knows, or the socket is gone): audit and free. */
void channel_ended(struct guard *g, struct channel *c, const char *reason);
struct channel *channel_find(struct guard *g, const uint8_t id[CHANNEL_ID_LEN]);
struct channel *channel_find_names(
	struct guard *g, Belay__Transport transport, const struct addr *a, const struct addr *b);
int channel_new_id(uint8_t ret[CHANNEL_ID_LEN]) _must_check_;

/* ---- jobs: questions of enforce ---- */

struct job {
	TAILQ_ENTRY(job) link;
	struct guard *guard;
	uint64_t question; /* enforce's id */
	uint32_t enforce;  /* arrow generation that asked: an answer to a dead one is dropped */
	Belay__Question__Call call;
	Belay__Transport transport;
	uint64_t tree, peer_tree;
	uint32_t pid, family, peer_pid;
	bool v6only, lease_wanted;
	Belay__Lease lease; /* to go with the answer; generation 0: none */
	int backlog;
	char unix_path[256];
	int pidfd, sock;
	int peer;                        /* a pair's other end, until conn has it */
	uint8_t channel[CHANNEL_ID_LEN]; /* the channel being opened through conn */
	struct addr address, local;
	struct subject *caller, *listener;
	struct verdict verdict;
	struct seat seat;
	uint64_t who;              /* whose share of questions it counts in (share.h) */
	struct call *pending;      /* an arrow's answer awaited */
	struct process_wait *wait; /* evidence awaited */
	struct bind *bind;         /* an order on it is out; NULL when it ended meanwhile */
	struct bind_seen seen;     /* connect, datagram: the listener whose program is looked at */
	struct exec_question *exec;
	void (*again)(struct job *j); /* job_settle() */
	bool settled;
	uint32_t mark;
	uint64_t started_ns;
	void *remote; /* remote.c's */
	struct later *later;
};

/* Ends the job with errno for the program (0 or negative). notice NULL or one line for its stderr.
 */
void job_answer(struct job *j, int error, const char *notice);
/*
 * Before a refusal because of what others hold: the fabric may not have told yet that they let go.
 * It is asked to, then the job begins anew at `start`. False: that has been done, or cannot be.
 */
bool job_settle(struct job *j, void (*start)(struct job *j));
/*
 * Nobody refused it, somebody died under it: it waits for the successor (and the node's link, if
 * node is given) and is asked again; when nobody comes back its answer is error, with that notice.
 */
void job_later(struct job *j, int error, const char *node, const char *notice);
/* Its process could not be looked at. */
void job_unidentified(struct job *j, int error);
/* The usual refusal: recorded, EACCES, `belay: refused …`. */
void job_refuse(struct job *j, const struct endpoint_question *q, const struct verdict *v);

/* ---- what other files call in connect.c ---- */

/* Pair the job's socket towards j->address; fn gets FromFabric with the other end as descriptor 0.
 */
int connect_pair(struct job *j, call_fn fn) _must_check_;
/* The fabric connects the job's socket; c: datagrams, the channel it has to there, else NULL. */
void connect_order(struct job *j, const struct channel *c);
/* To where no node is: by a `plain` rule, through conn. */
void connect_outside(struct job *j);
/* Its answer: j->local is the program's name, descriptor 0 the other end. False: j is answered. */
bool connect_paired(struct job *j, int error, const void *from_fabric, size_t n_fds) _must_check_;

/* ---- remote.c: the node-to-node side ---- */

int remote_init(struct guard *g, struct error *e) _must_check_;
void remote_deinit(struct guard *g);
/* Which node an address belongs to: NULL when none of ours; valid until the loop turns. */
const char *remote_node_of(struct guard *g, const struct addr *a);
/*
 * Takes over a connect whose caller alone was qualified, to an address of node. 0: the job is
 * remote.c's and will be answered; negative: it is still the caller's, to be answered with that.
 */
int remote_connect(struct job *j, const char *node) _must_check_;
void remote_job_gone(struct job *j); /* j->remote is to be dropped */
void remote_channel_ended(struct guard *g, const struct channel *c, const char *reason);
/* Leases between nodes: the facts, or a listener of ours, have changed; conn has opened a channel.
 */
void remote_judge(struct guard *g);
void remote_stocks_judge(struct guard *g);
void remote_stock_listener_gone(struct guard *g, Belay__Transport transport, const struct addr *a);
void remote_stock_used(struct guard *g, const uint8_t *id, const struct addr *local);
void remote_arrow_up(struct guard *g, enum role role); /* link, conn, signer */
void remote_dispatcher_up(struct guard *g);
void remote_arrow_down(struct guard *g, enum role role);
/* Messages that answer no call of ours. Negative: a surprise. */
int remote_link_message(struct guard *g, const void *from_link);
int remote_conn_message(struct guard *g, const void *from_conn);
int remote_listen_answer(struct guard *g, const void *listen);
/* Node verbs of the command line. Answers with control_reply() now or later. */
void remote_control(struct guard *g, uint64_t client, const void *node_request);
void remote_status(struct guard *g, char *ret_node, size_t len);

/* ---- control connections ---- */

/*
 * Answers the request of a client (a number, so that an answer to one that has left is dropped).
 * `reply` is a Belay__ControlReply; one with `more` set does not end the request.
 */
void control_reply(struct guard *g, uint64_t client, const void *reply);
void control_error(struct guard *g, uint64_t client, int error, const char *fmt, ...)
	_printf_(4, 5);

/* ---- the process ---- */

struct guard {
	struct component component;
	struct arrow arrows[_ROLE_N];
	uv_timer_t calls_timer, idle_timer;
	uv_timer_t relook_timer;
	uint32_t relook_round;
	uint64_t idle_due; /* monotonic ms the idle timer stands at */
	struct registry *registry;
	struct state_table *state;
	struct policies *policies;   /* policies.h */
	struct processes *processes; /* process.h */
	struct binds *binds;         /* bind.h */
	struct grants *grants;       /* grant.h */
	struct channels *channels;   /* channel.h */
	struct leases *leases;       /* lease.h */
	SLIST_HEAD(, limit) limits;  /* limit.h */
	struct times *times;         /* times.h */
	struct trees *trees;         /* tree.h */
	struct jobs *jobs;
	struct laters *laters;     /* job.h */
	struct refusals *refusals; /* refusals.h */
	struct shares *shares;     /* share.h */
	struct repeats *repeats;   /* repeats.h */
	struct controls *controls; /* control.h */
	struct auditing *auditing; /* auditing.h */
	struct remote *remote;
	struct parts *parts;     /* parts.h: what we know of the other components */
	char node[NAME_MAX_LEN]; /* this node's name, empty before `belay node init` */
	struct addr addresses[NODE_ADDRESSES_MAX]; /* own addresses besides loopback (port 0) */
	size_t n_addresses;
	struct addr resolvers[4]; /* name servers of this host, port: theirs; queries to port 53
				   * of their address go to the relay */
	size_t n_resolvers;
	uint8_t hash_key[16]; /* the state table's: for tables a program can fill, and principals */
	uint64_t facts; /* counts changes of registry and policy: older matches are made again */
	uint64_t started_ms;
	char state_path[HERITAGE_DIR_MAX + 64]; /* of our directory; for people */
	bool dumping, dump_again; /* the fabric is listing its sockets; and is to do so again */
	bool restored; /* the fabric has been held against the tables: questions are answered */
};

/* g's component has its loop, heritage and sockets; the rest of *g is zeroed. */
int guard_open(struct guard *g, struct error *e) _must_check_;
void guard_close(struct guard *g);
/* Own addresses or the node's name changed: the fabric is told. */
void guard_addresses_changed(struct guard *g);
/* Orders the end of the connection with these two names. */
void guard_end_connection(struct guard *g, const struct addr *a, const struct addr *b);
/* Asks belayd to replace a component that surprised us. */
void guard_distrust(struct guard *g, enum role role, const char *why);
/* Loopback, any, or one of this node's own. */
bool guard_owns(const struct guard *g, const struct addr *a);
