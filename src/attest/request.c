/*
 * Questions of the guard (request.h). A request holds its descriptors until it is answered; it is
 * answered exactly once, or forgotten. Order: read all facts, get all hashes (some from workers),
 * check the process again, answer.
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
#include "base/clock.h"
#include "base/log.h"

struct request;
struct pending {
	struct request *request;
	struct wanted *wanted;
};

struct request {
	LIST_ENTRY(request) link;
	struct attest *attest;
	attest_answer_fn fn;
	void *ctx;
	uint64_t id;
	bool is_file;
	unsigned open; /* hashes under way, and one while they are being started */
	struct error why;
	Belay__FileFacts file;
	struct digest file_digest;
	struct pending pending[REQUEST_FILES_MAX];
	struct reading reading;
};

struct attest {
	struct hasher *hasher;
	struct memory *memory;
	LIST_HEAD(, request) requests;
	size_t n;
};

int attest_new(uv_loop_t *loop, int memory, struct attest **ret, int *ret_memory, struct error *e)
{
	struct attest *a = calloc(1, sizeof(*a));
	int r = a ? hasher_new(loop, &a->hasher) : -ENOMEM;
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

static void request_free(struct request *q)
{
	for (size_t i = 0; i < q->reading.n_wanted; i++)
		hash_forget(q->attest->hasher, &q->pending[i]);
	reading_done(&q->reading);
	LIST_REMOVE(q, link);
	q->attest->n--;
	free(q);
}

static void answer(struct request *q, int error)
{
	static struct evidence_msg msg; /* one thread; 15 KiB are too much for each stack */
	Belay__FromAttest m = BELAY__FROM_ATTEST__INIT;
	m.id = q->id;
	m.error = error;
	if (error) {
		m.why = q->why.text;
	} else if (q->is_file) {
		q->file.sha256.data = q->file_digest.bytes;
		q->file.sha256.len = DIGEST_LEN;
		m.file = &q->file;
	} else {
		evidence_to_msg(&q->reading.evidence, &msg);
		m.evidence = &msg.msg;
	}
	if (q->fn)
		q->fn(q->ctx, &m);
	request_free(q);
}

static const char *hash_error(int error)
{
	return error == -ETXTBSY  ? "somebody has it open for writing"
	       : error == -EAGAIN ? "it changed while it was read"
	       : error == -EFBIG  ? "it is too large"
	       : error == -EBUSY  ? "too many files are being read"
				  : strerror(-error);
}

static void settle(struct request *q)
{
	if (--q->open)
		return;
	int r = q->why.code;
	if (r == 0 && !q->is_file)
		r = reading_finish(&q->reading, q->attest->memory, &q->why);
	answer(q, r);
}

static void hashed(void *ctx, int error, const struct digest *digest)
{
	struct pending *p = ctx;
	struct request *q = p->request;
	if (error == 0)
		*p->wanted->to = *digest;
	else if (p->wanted->required && q->why.code == 0)
		error_set(&q->why, error, "its file cannot be hashed: %s", hash_error(error));
	settle(q);
}

static void hash_all(struct request *q)
{
	q->open = 1;
	for (size_t i = 0; i < q->reading.n_wanted; i++) {
		struct pending *p = &q->pending[i];
		struct digest d;
		*p = (struct pending){.request = q, .wanted = &q->reading.wanted[i]};
		q->open++;
		int r = hash_get(
			q->attest->hasher, p->wanted->fd, p->wanted->settled, &d, hashed, p);
		if (r != -EINPROGRESS)
			hashed(p, r, &d);
	}
	settle(q);
}

static void ask_process(struct request *q, const Belay__AttestProcess *m, int pidfd)
{
	int r = reading_take(&q->reading, q->attest->memory, m->pid, pidfd, m->at_exec, &q->why);
	if (r < 0)
		answer(q, r);
	else
		hash_all(q);
}

static void ask_file(struct request *q, int fd)
{
	struct stat st;
	struct program_facts look;
	char link[64], path[PATH_MAX] = "";
	q->is_file = true;
	q->reading.n_wanted = 1;
	q->reading.wanted[0] = (struct wanted){.fd = fd, .required = true, .to = &q->file_digest};
	belay__file_facts__init(&q->file);
	if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
		answer(q, error_set(&q->why, -EINVAL, "it is not a regular file"));
		return;
	}
	int r = program_look(fd, &look);
	if (r < 0) {
		answer(q, error_errno(&q->why, r, "it cannot be read"));
		return;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, path, sizeof(path) - 1) < 0)
		path[0] = '\0';
	q->file.size = (uint64_t)st.st_size;
	q->file.elf = look.elf;
	q->file.script = look.script;
	q->file.interpreter = look.elf && program_is_interpreter(path, &st);
	hash_all(q);
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
	q->attest = a;
	q->fn = fn;
	q->ctx = ctx;
	q->id = m->id;
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
