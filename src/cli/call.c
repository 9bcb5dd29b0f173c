/* One conversation with the instance: requests out, replies in, errors printed once, here. */
#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "ipc/control.h"
#include "ipc/ipc.h"

int cli_fail(int status, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fputs("belay: ", stderr);
	vfprintf(stderr, fmt, ap);
	fputc('\n', stderr);
	va_end(ap);
	return status;
}

void cli_close(struct cli_call *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
}

void cli_reply_freep(Belay__ControlReply **r)
{
	ipc_free(*r);
	*r = NULL;
}

int cli_next(struct cli_call *c, Belay__ControlReply **ret)
{
	int fds[FDS_PASS_MAX];
	size_t n_fds = 0;
	void *m = NULL;
	int r = ipc_recv_fd(c->fd, &belay__control_reply__descriptor, &m, fds, &n_fds);
	for (size_t i = 0; i < n_fds; i++)
		close(fds[i]);
	if (r < 0)
		return cli_fail(EXIT_NO_INSTANCE,
			"the instance did not answer: %s (its guard may be restarting; try again)",
			strerror(-r));
	_cleanup_reply_ Belay__ControlReply *reply = m;
	if (reply->error) {
		cli_fail(
			EXIT_REFUSED, "%s", reply->text[0] ? reply->text : strerror(-reply->error));
		return EXIT_REFUSED;
	}
	*ret = take_ptr(reply);
	return EXIT_OK;
}

int cli_call(struct cli_call *c, const Belay__ControlRequest *rq, const int *fds, size_t n_fds,
	Belay__ControlReply **ret)
{
	struct error e = ERROR_INIT;
	if (c->fd < 0) {
		struct instance in;
		c->fd = instance_connect(arg_dir, &in, &e);
		if (c->fd < 0)
			return cli_fail(EXIT_NO_INSTANCE, "%s", e.text);
	}
	Belay__ControlRequest m = *rq;
	m.version = CONTROL_VERSION;
	int r = ipc_send_fd(c->fd, &m.base, fds, n_fds);
	if (r < 0)
		return cli_fail(EXIT_NO_INSTANCE, "cannot ask the instance: %s", strerror(-r));
	return cli_next(c, ret);
}

int cli_ask(const Belay__ControlRequest *rq, const int *fds, size_t n_fds)
{
	_cleanup_call_ struct cli_call c = CLI_CALL_INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	int r = cli_call(&c, rq, fds, n_fds, &reply);
	if (r == EXIT_OK && reply->text[0])
		printf("%s\n", reply->text);
	return r;
}

int cli_rows(const Belay__ControlRequest *rq,
	void (*fn)(void *ctx, const Belay__ControlReply *reply), void *ctx)
{
	_cleanup_call_ struct cli_call c = CLI_CALL_INIT;
	Belay__ControlReply *reply = NULL;
	bool more = true;
	int r = cli_call(&c, rq, NULL, 0, &reply);
	while (r == EXIT_OK && more) {
		fn(ctx, reply);
		more = reply->more;
		cli_reply_freep(&reply);
		if (more)
			r = cli_next(&c, &reply);
	}
	return r;
}
