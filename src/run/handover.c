/*
 * The hand-over. When the filter is in force nobody answers its calls yet, connect among them: this
 * process could not come back to an instance one of whose parts dies at that moment. So the request
 * is made by a second thread, which has no filter: it connects again, through the directory's
 * descriptor, and asks again, until an instance has taken the tree or refuses it. A token makes
 * asking twice the same as asking once. The thread has ended before the program is executed.
 *
 * Input: replies of the instance, and the program's own command line. Cost: one thread a start.
 */
#include "run/handover.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/fds.h"
#include "ipc/control.h"
#include "ipc/ipc.h"

#define HANDOVER_WAIT_MS 30000u /* for successors; longer than a hung part lives */
#define HANDOVER_PAUSE_MS 10
#define RUN_ARGV_MAX 64 /* arguments told to the instance, for people to read */
#define RUN_ARGV_BYTES_MAX 4096

/* 0: taken. -EAGAIN: a part of the instance died, or said that it is restarting. */
static int reply_read(int control, struct error *e)
{
	int fds[FDS_PASS_MAX];
	size_t n_fds = 0;
	void *reply = NULL;
	int c = ipc_recv_fd(control, &belay__control_reply__descriptor, &reply, fds, &n_fds);
	if (c < 0)
		return error_errno(e, c == -EPIPE || c == -ECONNRESET ? -EAGAIN : c,
			"the instance does not answer (try `belay status`)");
	const Belay__ControlReply *a = reply;
	if (a->error) {
		bool again = a->error == -EAGAIN || a->error == -ECANCELED;
		c = again ? -EAGAIN : -EACCES;
		error_set(e, c, "%s", a->text[0] ? a->text : strerror(abs(a->error)));
	}
	for (size_t i = 0; i < n_fds; i++)
		close(fds[i]);
	ipc_free(reply);
	return c;
}

static int request(int control, const Belay__ControlRequest *q, int notify, struct error *e)
{
	int fds[] = {notify, STDERR_FILENO};
	size_t n_fds = fcntl(STDERR_FILENO, F_GETFD) < 0 ? 1 : 2;
	int c = ipc_send_fd(control, &q->base, fds, n_fds);
	if (c < 0 && c != -EPIPE && c != -ECONNRESET)
		return error_errno(e, c, "cannot reach the instance");
	/* What it said before it closed counts; nothing said is nothing done. */
	return reply_read(control, e);
}

static void arguments(char **argv, Belay__RunRequest *run, char **short_argv)
{
	run->argv = argv;
	for (size_t bytes = 0; argv[run->n_argv] && run->n_argv < RUN_ARGV_MAX; run->n_argv++) {
		bytes += strlen(argv[run->n_argv]);
		if (run->n_argv && bytes > RUN_ARGV_BYTES_MAX)
			break;
	}
	if (strlen(argv[0]) > RUN_ARGV_BYTES_MAX) {
		*short_argv = basename(argv[0]);
		run->argv = short_argv;
		run->n_argv = 1;
	}
}

static int ask(struct handover *h, int notify, struct error *e)
{
	uint8_t token[HANDOVER_TOKEN_LEN];
	char *short_argv;
	Belay__RunRequest run = BELAY__RUN_REQUEST__INIT;
	Belay__ControlRequest q = BELAY__CONTROL_REQUEST__INIT;
	if (getrandom(token, sizeof(token), 0) != (ssize_t)sizeof(token))
		return error_errno(e, -errno, "cannot make a token");
	run.as = (char *)(uintptr_t)(h->as ? h->as : "");
	run.token = (ProtobufCBinaryData){sizeof(token), token};
	arguments(h->argv, &run, &short_argv);
	q.version = CONTROL_VERSION;
	q.body_case = BELAY__CONTROL_REQUEST__BODY_RUN;
	q.run = &run;
	const struct timespec pause = {.tv_nsec = HANDOVER_PAUSE_MS * 1000000L};
	for (uint64_t until = clock_mono_ms() + HANDOVER_WAIT_MS;;) {
		if (h->control < 0)
			h->control = instance_reconnect(h->dir);
		if (h->control < 0)
			return error_errno(
				e, h->control, "the instance went away (try `belay status`)");
		int c = request(h->control, &q, notify, e);
		close(take_fd(&h->control));
		if (c != -EAGAIN || clock_mono_ms() >= until)
			return c;
		nanosleep(&pause, NULL);
	}
}

static void *hand_over(void *data)
{
	struct handover *h = data;
	int notify;
	if (read(h->go[0], &notify, sizeof(notify)) == (ssize_t)sizeof(notify))
		h->result = ask(h, notify, &h->error);
	else
		h->result = -ECANCELED;
	return NULL;
}

int handover_open(struct handover *h, struct error *e)
{
	if (pipe2(h->go, O_CLOEXEC) < 0)
		return error_errno(e, -errno, "cannot make a pipe");
	int r = pthread_create(&h->thread, NULL, hand_over, h);
	return r ? error_errno(e, -r, "cannot start a thread") : 0;
}

int handover_finish(struct handover *h, int notify, struct error *e)
{
	if (notify >= 0 && write(h->go[1], &notify, sizeof(notify)) != (ssize_t)sizeof(notify))
		return error_errno(e, -errno, "cannot hand the filter over");
	close(h->go[1]);
	pthread_join(h->thread, NULL);
	close(h->go[0]);
	if (h->control >= 0)
		close(take_fd(&h->control));
	close(h->dir);
	if (h->result < 0)
		*e = h->error;
	return h->result;
}
