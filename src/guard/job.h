/* Questions of enforce: job.c has the essay. */
#pragma once

#include "guard/guard.h"

int jobs_init(struct guard *g) _must_check_;
void jobs_deinit(struct guard *g);
/* A message of enforce. Negative: a surprise. */
int jobs_message(struct guard *g, const Belay__FromEnforce *m, int *fds, size_t n_fds);
/* Pure: a question as it must be, with that many descriptors. Its address, if it has one. */
int question_check(const Belay__Question *q, size_t n_fds, struct addr *ret) _must_check_;
/* Questions asked before the fabric was held against the tables are answered now. */
void jobs_release(struct guard *g);

/* enforce wants sockets (sockets.c). Negative: a surprise. */
int jobs_sockets(struct guard *g, const Belay__SocketsWanted *q) _must_check_;

/* An entry of the table of bound addresses is about to go: no question may hold it. */
void jobs_bind_gone(struct guard *g, const struct bind *b);

/* One file for each kind; all end in job_answer(). */
void connect_start(struct job *j);
void bind_start(struct job *j);
void listen_start(struct job *j);
void datagram_start(struct job *j);
void unix_start(struct job *j, const Belay__Question *q);
void fifo_start(struct job *j, const Belay__Question *q);
void exec_start(struct job *j, const Belay__Question *q);
void exec_free(struct exec_question *x);
void disconnect_start(struct job *j);
/* The usual end of a failed order: what the kernel said; later, if who had it is away. */
void job_fail(struct job *j, int error, const char *what);
/* An order's answer that is the program's. */
void job_carried_out(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds);
/* Has j's process looked at; at_exec: as the image it has just become. */
void job_identify(struct job *j, bool at_exec, process_fn fn);
/* fn, as j's pending call, when the fabric has carried out every order given before. */
int job_barrier(struct job *j, call_fn fn) _must_check_;
/* Enforce serves the call anew: nothing has come of this question. */
void job_ask_again(struct job *j);

/* later.c */
int laters_init(struct guard *g) _must_check_;
void laters_deinit(struct guard *g);
void later_free(struct job *j);
