/* What the files of `belay audit` share: finding the log, showing an entry. */
#pragma once

#include <jansson.h>
#include <stdbool.h>

#include "audit/note.h"
#include "base/cleanup.h"

/* After EXIT_OK … EXIT_NO_INSTANCE of cli.h. */
#define EXIT_UNSEALED \
	4 /* what is sealed is intact, but too much is not sealed, or nothing ever was */

/*
 * Opens the log's directory: `dir`, or the running instance's when NULL; then *ret_key is what the
 * instance says its key is ("" otherwise). Prints errors. Return: EXIT_OK or the exit status to
 * use.
 */
int audit_dir_open(const char *dir, int *ret_fd, char ret_key[AUDIT_KEY_TEXT_MAX]);
/* One line for people, without anything a terminal would obey. */
void audit_entry_print(const json_t *entry);

int audit_verify_main(int argc, char **argv);
int audit_tail_main(int argc, char **argv);
int audit_query_main(int argc, char **argv);
