/*
 * belay-attest: says what a process is by what the kernel says of it. It holds the right to look
 * into every process and file of the instance's reach, so it talks to the guard alone, decides
 * nothing, and believes nothing a process could have written (docs/trust.md).
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "attest/hash.h"
#include "attest/request.h"
#include "base/discard.h"
#include "base/log.h"
#include "ipc/component.h"
#include "sandbox/sandbox.h"

#define MEMORY_NAME "starts" /* what belayd keeps for the next attest */

struct state {
	struct component component;
	struct attest *attest;
	struct ipc_chan guard;
};

static void answered(void *ctx, const Belay__FromAttest *m)
{
	struct state *s = ctx;
	int r = ipc_send(&s->guard, &m->base, NULL, 0);
	/* A guard that does not read is hung: its arrow goes, and a new one comes with its
	 * successor. */
	if (r < 0 && ipc_chan_open(&s->guard))
		ipc_chan_deinit(&s->guard);
}

static int on_message(struct ipc_chan *c, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	struct state *s = c->data;
	Belay__ToAttest *m = ipc_unpack(&belay__to_attest__descriptor, buf, len);
	if (!m)
		return -EBADMSG;
	int r = attest_ask(s->attest, m, fds, n_fds, answered, s);
	ipc_free(m);
	return r;
}

static void on_closed(struct ipc_chan *c, int reason)
{
	struct state *s = c->data;
	(void)reason;
	attest_forget(s->attest, s);
}

static int on_arrow(struct component *c, enum role peer, int fd)
{
	struct state *s = c->data;
	if (peer != ROLE_GUARD) {
		close(fd);
		return -EBADMSG;
	}
	/* Questions of a guard that was replaced are nobody's. */
	attest_forget(s->attest, s);
	ipc_chan_deinit(&s->guard);
	return ipc_chan_init(&s->guard, &c->loop, fd, on_message, on_closed, s);
}

static int on_connection(
	struct component *c, const struct Belay__Connection *msg, int *fds, size_t n_fds)
{
	(void)c;
	(void)msg;
	(void)fds;
	(void)n_fds;
	return -EBADMSG;
}

int main(int argc, char **argv)
{
	static const struct component_ops ops = {
		.on_arrow = on_arrow, .on_connection = on_connection};
	static struct state s;
	struct error e = ERROR_INIT;
	int memory, r;
	r = hasher_block_signals();
	if (r == 0)
		r = component_open(&s.component, argc, argv, &ops, &s, &e);
	if (r == 0)
		r = attest_new(&s.component.loop, component_kept(&s.component, MEMORY_NAME),
			&s.attest, &memory, &e);
	if (r == 0 && (r = component_keep(&s.component, MEMORY_NAME, memory)) < 0)
		error_errno(&e, r, "cannot keep the memory of starts");
	if (r == 0)
		r = sandbox_enter(SANDBOX_ATTEST, NULL, &e);
	if (r == 0 && (r = discard_start()) < 0)
		error_errno(&e, r, "cannot start threads");
	if (r < 0) {
		log_error("%s", e.text[0] ? e.text : strerror(-r));
		return EXIT_FAILURE;
	}
	return component_run(&s.component);
}
