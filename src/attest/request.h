/* The guard's questions: each is read, hashed and answered, several at a time. */
#pragma once

#include <uv.h>

#include "attest.pb-c.h"
#include "base/error.h"

#define REQUESTS_MAX 512

struct attest;
/* The answer to a question; m lives during the call only. */
typedef void (*attest_answer_fn)(void *ctx, const Belay__FromAttest *m);

/* memory: kept by an earlier attest, or -1; *ret_memory is to be kept for the next. */
int attest_new(uv_loop_t *loop, int memory, struct attest **ret, int *ret_memory,
	struct error *e) _must_check_;
/* Takes fds by setting the slots to -1. Negative: the question is not one the guard asks. */
int attest_ask(struct attest *a, const Belay__ToAttest *m, int *fds, size_t n_fds,
	attest_answer_fn fn, void *ctx) _must_check_;
/* Whoever asked is gone: no more answers to ctx. */
void attest_forget(struct attest *a, void *ctx);
size_t attest_open_requests(const struct attest *a);
