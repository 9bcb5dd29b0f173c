/*
 * Questions of the guard (request.h). What cannot wait is looked at on the loop: who asks for whom.
 * The rest (files, the process's memory and mappings) is one piece of work of a thread (workers.h):
 * read all facts, get all hashes, check the process again. A request is answered exactly once, or
 * forgotten; at its deadline whatever its thread is doing.
 */
#include "attest/request.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/queue.h>
#include <unistd.h>

#include "attest/hash.h"
#include "attest/process.h"
#include "attest/program.h"
#include "attest/workers.h"
#include "base/discard.h"
#include "base/log.h"

#define NOBODY UINT32_MAX /* files to be enrolled count for no user of a process */

struct request {
	struct work work; /* first: it is the request */
	LIST_ENTRY(request) link;
	struct attest *attest;
	attest_answer_fn fn;
	void *ctx;
	uint64_t id;
	int file_fd; /* -1: a process is asked about */
	int error;   /* what run() found */
	struct error why;
	Belay__FileFacts file;
	struct digest file_digest;
	struct reading reading;
};

struct attest {
	struct hasher *hasher;
	struct memory *memory;
	struct known known;
	struct workers *workers;
	LIST_HEAD(, request) requests;
	size_t n;
};

int attest_new(uv_loop_t *loop, int memory, struct attest **ret, int *ret_memory, struct error *e)
{
	struct attest *a = calloc(1, sizeof(*a));
	int r = a ? hasher_new(loop, &a->hasher) : -ENOMEM;
	if (r == 0)
		r = workers_new(loop, &a->workers);
	if (r == 0)
		r = libraries_new(&a->known.libraries);
	if (r == 0)
		r = ancestors_new(&a->known.ancestors);
	if (r == 0) {
		r = memory_open(memory, &a->memory, ret_memory);
		/* One that cannot be used is forgotten: processes then have no remembered start. */
		if (r < 0 && memory >= 0)
			r = memory_open(-1, &a->memory, ret_memory);
	}
	if (r < 0)
		return error_errno(e, r, "cannot start attest");
	LIST_INIT(&a->requests);
	*ret = a;
	return 0;
}

/* ---- on a thread ---- */

static const char *hash_error(int error)
{
	return error == -ETXTBSY  ? "somebody has it open for writing"
	       : error == -EAGAIN ? "it changed while it was read"
	       : error == -EFBIG  ? "it is too large"
				  : strerror(-error);
}

static int hash_all(struct request *q)
{
	struct reading *r = &q->reading;
	for (size_t i = 0; i < r->n_wanted; i++) {
		const struct wanted *w = &r->wanted[i];
		int k = hash_get(q->attest->hasher, w->fd, w->settled, w->to);
		if (k < 0 && w->required)
			return error_set(
				&q->why, k, "its file cannot be hashed: %s", hash_error(k));
	}
	return 0;
}

static int look_at_process(struct request *q)
{
	struct reading *r = &q->reading;
	int k = reading_take(r, q->attest->memory, &q->attest->known, &q->why);
	k = k < 0 ? k : hash_all(q);
	return k < 0 ? k : reading_finish(r, q->attest->memory, &q->why);
}

static int look_at_file(struct request *q)
{
	struct stat st;
	struct program_facts look;
	char link[64], path[PATH_MAX] = "";
	int fd = q->file_fd;
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))
		return error_set(&q->why, -EINVAL, "it is not a regular file");
	int r = program_look(fd, &look);
	if (r < 0)
		return error_errno(&q->why, r, "it cannot be read");
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) < 0)
		path[0] = '\0';
	q->file.size = (uint64_t)st.st_size;
	q->file.elf = look.elf;
	q->file.script = look.script;
	q->file.interpreter = look.elf && program_is_interpreter(path, &st);
	r = hash_get(q->attest->hasher, fd, false, &q->file_digest);
	return r < 0 ? error_set(&q->why, r, "its file cannot be hashed: %s", hash_error(r)) : 0;
}

static void request_run(struct work *w)
{
	struct request *q = (struct request *)w;
	q->error = q->file_fd < 0 ? look_at_process(q) : look_at_file(q);
	/* Here, because closing may wait as well. */
	reading_close(&q->reading);
	if (q->file_fd >= 0)
		close(take_fd(&q->file_fd));
}

/* ---- on the loop ---- */

static void request_free(struct request *q)
{
	reading_close(&q->reading);
	if (q->file_fd >= 0)
		(void)fds_discard(q->file_fd);
	LIST_REMOVE(q, link);
	q->attest->n--;
	free(q);
}

static void request_release(struct work *w)
{
	request_free((struct request *)w);
}

static void answer(struct request *q, int error, const char *why)
{
	static struct evidence_msg msg; /* the loop's; 15 KiB are too much for each stack */
	Belay__FromAttest m = BELAY__FROM_ATTEST__INIT;
	m.id = q->id;
	m.error = error;
	if (error) {
		m.why = (char *)(uintptr_t)why;
	} else if (q->file.base.descriptor) {
		q->file.sha256.data = q->file_digest.bytes;
		q->file.sha256.len = DIGEST_LEN;
		m.file = &q->file;
	} else {
		evidence_to_msg(&q->reading.evidence, &msg);
		m.evidence = &msg.msg;
	}
	if (q->fn)
		q->fn(q->ctx, &m);
	q->fn = NULL;
}

/* Late, the thread still writes to the request: nothing it touches is read. */
static void request_done(struct work *w, int error)
{
	struct request *q = (struct request *)w;
	if (!error) {
		answer(q, q->error, q->why.text);
		return;
	}
	log_warn("a question about process %u is given up: its files or memory do not answer",
		w->process);
	/* Not ETIMEDOUT: for the guard that is an attest that does not answer. */
	answer(q, -EIO, "its files do not answer in time (a file system that hangs?)");
}

static void start(struct request *q, int r)
{
	if (r == 0 && (r = workers_add(q->attest->workers, &q->work)) < 0)
		error_errno(&q->why, r, "no thread to look at it");
	if (r == 0)
		return;
	answer(q, r, q->why.text);
	request_free(q);
}

static void ask_process(struct request *q, const Belay__AttestProcess *m, int pidfd)
{
	int r = reading_open(&q->reading, m->pid, pidfd, m->at_exec, &q->why);
	q->work.user = q->reading.evidence.uid;
	q->work.process = m->pid;
	start(q, r);
}

static void ask_file(struct request *q, int fd)
{
	q->file_fd = fd;
	belay__file_facts__init(&q->file);
	start(q, 0);
}

int attest_ask(struct attest *a, const Belay__ToAttest *m, int *fds, size_t n_fds,
	attest_answer_fn fn, void *ctx)
{
	bool process = m->body_case == BELAY__TO_ATTEST__BODY_PROCESS;
	if (n_fds != 1 || (!process && m->body_case != BELAY__TO_ATTEST__BODY_FILE))
		return -EBADMSG;
	struct request *q = a->n < REQUESTS_MAX ? calloc(1, sizeof(*q)) : NULL;
	if (!q) {
		Belay__FromAttest busy = BELAY__FROM_ATTEST__INIT;
		busy.id = m->id;
		busy.error = -EBUSY;
		busy.why = (char *)"too many questions at once";
		fn(ctx, &busy);
		return 0;
	}
	*q = (struct request){.attest = a, .fn = fn, .ctx = ctx, .id = m->id, .file_fd = -1};
	q->work = (struct work){.user = NOBODY,
		.run = request_run,
		.done = request_done,
		.release = request_release};
	reading_init(&q->reading);
	LIST_INSERT_HEAD(&a->requests, q, link);
	a->n++;
	if (process)
		ask_process(q, m->process, take_fd(&fds[0]));
	else
		ask_file(q, take_fd(&fds[0]));
	return 0;
}

void attest_forget(struct attest *a, void *ctx)
{
	struct request *q;
	LIST_FOREACH (q, &a->requests, link)
		if (q->ctx == ctx)
			q->fn = NULL;
}

size_t attest_open_requests(const struct attest *a)
{
	return a->n;
}
