/*
 * The command line: one file per subcommand, each `int cmd_NAME(int argc, char **argv)` with
 * argv[0] the subcommand's name, returning an exit status. Errors are one line, `belay: cannot …:
 * why (try …)`.
 */
#pragma once

#include <stdbool.h>
#include <stdio.h>

#include "base/error.h"
#include "control.pb-c.h"

enum exit_status {
	EXIT_OK = 0,
	EXIT_REFUSED =
		1, /* the answer is no: verification failed, check found errors, request refused */
	EXIT_USAGE = 2,       /* the command line is wrong; nothing was done */
	EXIT_NO_INSTANCE = 3, /* no instance answers */
	EXIT_CANNOT_RUN = 126,
	EXIT_NOT_FOUND = 127,
};

#define COMMAND(name, function, synopsis, help) int function(int argc, char **argv);
#include "cli/commands.def"
#undef COMMAND

/* --dir of the global options, or NULL. */
extern const char *arg_dir;

/* Prints `belay: TEXT` on standard error and returns status. */
int cli_fail(int status, const char *fmt, ...) _printf_(2, 3);
/* Prints the subcommand's usage and returns EXIT_USAGE (or EXIT_OK after --help). */
int cli_usage(const char *command, bool asked);

struct cli_call {
	int fd; /* the connection; -1 before the first call */
};

/*
 * One request to the instance. Connects on first use; prints the error itself. On success *ret is
 * the first reply (ipc_free it), error field already checked. Return: EXIT_OK or the exit status to
 * use.
 */
int cli_call(struct cli_call *c, const Belay__ControlRequest *rq, const int *fds, size_t n_fds,
	Belay__ControlReply **ret);
/* The next of several replies (`more` was set in the last). Same returns. */
int cli_next(struct cli_call *c, Belay__ControlReply **ret);
/* A request whose answer is one text: printed. */
int cli_ask(const Belay__ControlRequest *rq, const int *fds, size_t n_fds);
/* A request with rows, in as many replies as it takes: fn gets each. */
int cli_rows(const Belay__ControlRequest *rq,
	void (*fn)(void *ctx, const Belay__ControlReply *reply), void *ctx);
void cli_close(struct cli_call *c);
#define CLI_CALL_INIT    \
	{                \
		.fd = -1 \
	}
#define _cleanup_call_ _cleanup_(cli_close)
#define _cleanup_reply_ _cleanup_(cli_reply_freep)
void cli_reply_freep(Belay__ControlReply **r);

/* "alpha/127.0.0.1:6379", "3m 5s", "1.2 GiB": what tables print. Static buffers are not used. */
#define CLI_TEXT_MAX 96
void cli_format_addr(const Belay__Addr *a, char text[CLI_TEXT_MAX]);
void cli_format_ms(uint64_t ms, char text[CLI_TEXT_MAX]);
void cli_format_bytes(uint64_t n, char text[CLI_TEXT_MAX]);

/* A table on a terminal: columns as wide as their widest cell. */
struct cli_table;
struct cli_table *cli_table_new(size_t columns, const char *const *titles);
void cli_table_cell(struct cli_table *t, const char *fmt, ...) _printf_(2, 3);
/* Prints and frees. */
void cli_table_print(struct cli_table *t);
