/*
 * The structures of enforce: run trees, requests (trapped calls being served), execs (processes
 * held at their new image). One thread, one loop; nothing here waits.
 *
 * A request's life: received into a journal slot (its index is the request's) → call_serve() looks
 * at the call and either answers, or asks the guard (ASKED), or waits for something (WAIT_*), after
 * which it is served again from the start. Serving twice is harmless: what was done already is
 * recognised. So a lost guard, a refill, and the death of this process have one and the same cure.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>
#include <sys/un.h>
#include <uv.h>

#include "base/addr.h"
#include "enforce.pb-c.h"
#include "enforce/journal.h"
#include "ipc/component.h"
#include "ipc/lease.h"

#define TREES_MAX (HERITAGE_KEPT_MAX / 4) /* belayd keeps up to four descriptors of each */
#define TREE_REQUESTS_MAX 1024            /* being served at once; the rest waits in the kernel */
#define NOTICES_PER_SECOND 5
#define NOTICE_MAX 480
#define GUARD_WAIT_MS 5000    /* for the guard's successor, then the call is refused */
#define AGAIN_MS 3000         /* a call is asked about anew for so long, then refused */
#define ANSWER_WAIT_MS 120000 /* for a guard that is there: longer than all it waits for itself */
#define EXEC_WAIT_MS 50       /* an execve that has not replaced the image by then has failed */
#define EXECS_MAX 1024
#define INHERITED_MAX 768 /* sockets told about in one question: IPC_MSG_MAX holds them */
#define EXEC_UNIX_MAX 16  /* connections to Unix sockets an image may inherit; more are ended */
#define TICK_MS 50        /* only while something waits */
#define TICK_SLOW_MS 2000 /* while all that waits is waiting for answers */
#define DATAGRAM_MAX 65536
#define ACTS_MAX 256    /* children acting in callers' places */
#define TREE_ACTS_MAX 4 /* of one tree: a path may lead to where nobody ever answers */
#define POOL_BATCH 32
#define POOL_LOW 12
#define POOL_MAX 128
#define LEASE_SETS 64 /* by process number */
#define LEASE_WAYS 4
#define ASKED_MAX 256

struct enforce;

struct tree {
	LIST_ENTRY(tree) link;
	struct enforce *e;
	uint64_t id;
	int notify;
	int err;   /* standard error of `belay run`, for as long as its process lives, or -1 */
	int first; /* pidfd of that process, or -1 */
	uv_poll_t *first_poll;
	int diag; /* sock_diag socket of the tree's network namespace, or -1 */
	bool sought_diag;
	bool untold; /* the guard is to hear that it is kept, when it is */
	uv_poll_t *poll;
	bool paused;
	uint32_t requests, acts;
	uint64_t notice_second;
	uint32_t notices, notices_dropped;
};

enum request_state {
	REQUEST_NONE,
	REQUEST_ASKED,        /* the guard has the question */
	REQUEST_WAIT_GUARD,   /* no arrow: asked when one opens */
	REQUEST_WAIT_SOCKETS, /* served again when the pool is filled */
	REQUEST_WAIT_SOCKET,  /* the call would block: served again when its socket is ready */
	REQUEST_WAIT_TICK,    /* the same where readiness cannot be waited for */
	REQUEST_WAIT_ACT,     /* a child does it */
};

enum answer_to { ANSWER_CONNECT, ANSWER_PLAIN, ANSWER_DATAGRAM, ANSWER_UNIX, ANSWER_FIFO };

struct request {
	enum request_state state;
	struct tree *tree;
	struct seccomp_notif n; /* a copy: the journal's may be read by a successor */
	uint64_t question;      /* the id the guard echoes; 0 when not asked */
	uint64_t since_ms, deadline_ms, again_until_ms;
	int sock;  /* duplicate of the program's socket, or -1 */
	int pidfd; /* of the process, borrowed from the target cache: valid while serving only */
	uint32_t pid;
	bool walked;  /* its path has been walked by a child: the kernel knows it now */
	bool again;   /* served before, perhaps by a predecessor: look for what is done already */
	bool watched; /* sock is in the set of sockets waited for */
	bool started; /* the guard has let the connection begin: only its end is awaited */
	enum answer_to answer_to;
	Belay__Lease lease; /* that came with the answer; generation 0: none */
	struct addr address;
	int family, type;
	int unix_fd;           /* the socket's file or the pipe's directory, O_PATH, or -1 */
	struct sockaddr_un to; /* a datagram: by what address that was found; a pipe: its name */
};

struct exec {
	pid_t tid;         /* 0: free. Seized by us */
	struct tree *tree; /* NULL when the tree went while the process was stopped */
	uint64_t tree_id;
	uint64_t deadline_ms; /* 0: not running an execve */
	bool interrupted;
	bool stopped; /* at the new image, waiting for the guard */
	pid_t pid;
	int pidfd;
	uint64_t question;
	uint64_t since_ms;
	bool allowed;                 /* the image may run; its Unix connections are judged */
	int unix_sock[EXEC_UNIX_MAX]; /* duplicates */
	uint32_t n_unix, at_unix;
};

struct act {
	pid_t pid; /* 0: free. A child of ours, not reaped yet */
	uint64_t tree, call;
	bool walk;
};

/* A remembered verdict (leased.c). */
struct leased {
	uint32_t number, generation, mark; /* generation 0: free */
	uint32_t pid;
	int pidfd, family;
	uint64_t tree, until_ms, used;
	struct addr to;
};

struct asked {
	uint32_t pid;
	struct addr to;
	uint64_t when_ms;
};

struct pool {
	int family;
	Belay__Transport transport;
	uint32_t mark, lease, generation; /* of a lease's sockets */
	uint64_t used;
	int fd[POOL_MAX];
	size_t n;
	uint64_t asked_ms; /* 0: nothing on its way */
};

#define LISTENERS_MAX \
	1024 /* Unix sockets with a file, of all trees; more: the oldest are not known */

struct listener {
	uint64_t tree; /* 0: free */
	uint32_t pid, dev, ino;
	int pidfd;
	ino_t socket; /* of one for datagrams; else 0 */
};

/* A program may send to this file for a second more: it was judged, and is found already. */
#define LEASES_MAX 32
struct lease {
	uint64_t tree; /* 0: free */
	uint32_t pid;
	ino_t socket;
	struct sockaddr_un to;
	int file, pidfd;
	uint64_t until_ms;
};

#define POOLS 4
#define POOLS_MARKED 16 /* for leases; the one unused for longest gives way */

#define UDP_SOCKETS_MAX 1024 /* of all trees; more: the oldest are not known */
struct udp_socket {
	uint64_t inode, tree; /* inode 0: free */
	pid_t pid;
	int fd; /* its number there */
};
#define WANTED_MAX 64 /* questions of sockets, whose notices are still to be shown */
struct asked_for {
	uint64_t question, tree;
};

struct enforce {
	struct component *c;
	struct ipc_chan guard;
	struct journal journal;
	struct request request[JOURNAL_SLOTS];
	struct exec exec[EXECS_MAX];
	uint32_t n_exec;
	struct act act[ACTS_MAX];
	uint32_t n_act;
	struct pool pool[POOLS + POOLS_MARKED];
	struct leased leased[LEASE_SETS][LEASE_WAYS];
	uint32_t n_leased;
	uint64_t lease_uses;
	struct asked asked[ASKED_MAX];
	struct lease_book *book; /* NULL: no guard, so no leases */
	uv_timer_t bell;
	struct listener listener[LISTENERS_MAX];
	size_t next_listener;
	int diag;        /* sock_diag socket of our own network namespace, or -1 */
	bool names_pids; /* may send as another process: CAP_SYS_ADMIN, raised for that alone */
	struct lease lease[LEASES_MAX];
	size_t next_lease;
	uv_timer_t lease_timer;
	struct udp_socket udp[UDP_SOCKETS_MAX];
	size_t next_udp;
	struct asked_for wanted[WANTED_MAX];
	size_t next_wanted;
	uint64_t cookie; /* of the fabric's network namespace; 0: not known yet */
	LIST_HEAD(, tree) trees;
	uint32_t n_trees;
	uint32_t waiting; /* requests in a WAIT or ASKED state */
	uint64_t questions, looked_ms;
	int ready; /* epoll of sockets of programs: uv_poll would change their flags */
	uv_poll_t ready_poll;
	uv_timer_t tick;
	uv_signal_t child;
};

/* ---- tree.c ---- */
int tree_add(struct enforce *e, uint64_t id, int notify, int err) _must_check_;
/* What a user offers with a run (offered.c). */
bool offered_notify(int fd);
bool offered_writable(int fd);
struct tree *tree_find(struct enforce *e, uint64_t id);
/* Everything of the tree ends; what is trapped or traps later fails closed. */
void tree_remove(struct tree *t);
/* Takes over kept descriptors and unanswered notifications of a predecessor. */
int tree_restore(struct enforce *e) _must_check_;
int tree_keep(struct tree *t, const char *suffix, int fd);
/* Takes the pidfd of the process that was `belay run`, or an error. */
void tree_watch_first(struct tree *t, int pidfd);
void tree_unpause(struct tree *t);
/* One line to the person, `belay: TEXT`; never blocks, a few a second. */
void tree_notice(struct tree *t, const char *text);

/* ---- call.c ---- */
/* Serves the request from the start; at the end it is answered or waits. */
void call_serve(struct enforce *e, struct request *r);
void call_answered(struct enforce *e, struct request *r, int error);
void call_reply(struct enforce *e, struct request *r, int error, int64_t value);
/*
 * execve, of which nothing is looked at before the new image stands; and sending on sockets that
 * may send whatever they are told, as they do under every number the filter does not trap.
 */
void call_continue(struct enforce *e, struct request *r);
/* True while the caller still waits for this very answer: what was read of it then was its own. */
bool call_valid(const struct request *r);
void call_wait(struct enforce *e, struct request *r, enum request_state state);
/* Waits until `events` (EPOLLIN, EPOLLOUT) hold on r->sock. */
void call_wait_socket(struct enforce *e, struct request *r, uint32_t events);
/* The socket's own name; port 0 when it has none. */
int call_own_name(const struct request *r, struct addr *ret);
/* The request is gone without an answer: caller or tree died. */
void call_drop(struct enforce *e, struct request *r);

/* ---- act.c: bind and listen on sockets that are not the fabric's ---- */
void act_serve(struct enforce *e, struct request *r);
/* Serves the request again when the kernel has found the path; else it is answered. */
void act_walk(struct enforce *e, struct request *r, const char *path);
/* Makes the pipe that was judged: in r->unix_fd, or in shm with a link to it there. */
void act_fifo(struct enforce *e, struct request *r, int shm);
/* True when the process that ended was one of act.c's. */
bool act_ended(struct enforce *e, pid_t pid, int status);
/* Its caller is gone: the child of the request, if it has one, ends. */
void act_gone(struct enforce *e, const struct request *r);

/* ---- connect.c ---- */
void connect_serve(struct enforce *e, struct request *r);
void connect_answered(struct enforce *e, struct request *r, int error);

/* ---- leased.c ---- */
int leased_init(struct enforce *e) _must_check_;
/* The guard's book, on a new arrow; the descriptor stays the caller's. */
int leased_book(struct enforce *e, int *fd) _must_check_;
void leased_guard_gone(struct enforce *e);
/* It executes another image. */
void leased_process_changed(struct enforce *e, uint32_t pid);
void leased_tree_gone(struct enforce *e, uint64_t tree);
/* The process is about to ask to connect: did it ask the same a moment ago? */
bool leased_asked(struct enforce *e, const struct request *r);
/* Remembers the lease that came with the request's answer. Takes the process's pidfd. */
void leased_keep(struct enforce *e, const struct request *r, int pidfd);
/* What the process that makes a socket will probably connect it to, or NULL. */
const struct leased *leased_likely(struct enforce *e, const struct request *r, int family);
/* The lease under which this very connect may be done now, and written down, or NULL. */
const struct leased *leased_find(struct enforce *e, const struct request *r);
/* It has been done: the socket's own name is `a`. */
void leased_used(struct enforce *e, const struct leased *l, const struct addr *a);

/* ---- data.c: sendto with an address, on everything but Unix sockets ---- */
void data_serve(struct enforce *e, struct request *r);
void data_answered(struct enforce *e, struct request *r, int error);

/* ---- unix.c ---- */
void unix_connect_serve(struct enforce *e, struct request *r);
void unix_pair_serve(struct enforce *e, struct request *r);
/* 0: r->unix_fd is the file; 1: the request waits; -errno. */
int unix_resolve(struct enforce *e, struct request *r, const struct sockaddr_un *sa) _must_check_;
/* That file: 0, the tree's own; 1, the guard is asked; -errno. */
int unix_judge(struct enforce *e, struct request *r) _must_check_;
void unix_connect_answered(struct enforce *e, struct request *r, int error);

/* ---- dgram.c: Unix datagram sockets ---- */
int dgram_init(struct enforce *e) _must_check_;
/* In the sandbox. */
void dgram_lower(struct enforce *e);
void dgram_socket_serve(struct enforce *e, struct request *r);
/* sendto, sendmsg and sendmmsg, of any kind of socket. */
void dgram_send_serve(struct enforce *e, struct request *r);
void dgram_answered(struct enforce *e, struct request *r, int error);
/* It is another program now. */
void dgram_image_new(struct enforce *e, uint32_t pid);

/* ---- fifo.c: named pipes ---- */
void fifo_serve(struct enforce *e, struct request *r);
void fifo_answered(struct enforce *e, struct request *r, int error);

/* ---- exec.c ---- */
void exec_serve(struct enforce *e, struct request *r);
void exec_answered(struct enforce *e, struct exec *x, int error);
void exec_tick(struct enforce *e, uint64_t now);
/* Processes of the tree that are stopped end: nobody can judge them any more. */
void exec_tree_gone(struct tree *t);
void exec_ask(struct enforce *e, struct exec *x);
/* Judged entirely: it runs on. */
void exec_release(struct enforce *e, struct exec *x, long sig);
void exec_kill(struct enforce *e, struct exec *x);
void exec_child(uv_signal_t *s, int signum);

/* ---- inherit.c: Unix sockets a new image was left ---- */
/* The image may run: judges what it holds, then lets it go. */
void inherit_start(struct enforce *e, struct exec *x);
void inherit_answered(struct enforce *e, struct exec *x, int error);
void inherit_forget(struct exec *x);

/* ---- question.c: the arrow to the guard ---- */
int question_arrow(struct enforce *e, int fd) _must_check_;
/* False: no guard; the request now waits for one. */
bool question_ask(
	struct enforce *e, struct request *r, Belay__Question *q, const int *fds, size_t n_fds);
bool question_exec(
	struct enforce *e, struct exec *x, Belay__Question *q, const int *fds, size_t n_fds);
void question_tree_gone(struct enforce *e, uint64_t tree);
void question_tick(struct enforce *e, uint64_t now);
void tick_start(struct enforce *e);
void tick_slow_start(struct enforce *e);
/* Fills a schema address from ours; `ip` must live as long as the message. */
void question_addr(Belay__Addr *to, const struct addr *from);

/* Asks for nobody who waits; what the answer says is shown. */
void question_wanted(struct enforce *e, Belay__Question *q, const int fds[2]);

/* ---- sockets.c: whose UDP sockets they are ---- */
void sockets_note(struct enforce *e, const struct request *r, int fd, int number);
void sockets_inherited(struct enforce *e, int fd);
void sockets_want(struct enforce *e, uint64_t inode, const Belay__Addr *to);

/* ---- pool.c ---- */
void pool_init(struct enforce *e);
/* Serves socket(). */
void pool_serve(struct enforce *e, struct request *r);
int pool_add(struct enforce *e, const Belay__Sockets *m, int *fds, size_t n_fds) _must_check_;
void pool_refill(struct enforce *e);
/* The arrow is new: nothing asked of the old guard will come. */
void pool_reset(struct enforce *e);
