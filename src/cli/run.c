/*
 * `belay run`: hands over to belay-run, a program of its own, so that what prepares a process has
 * no other code in it. It becomes the program: no Belay process stays behind.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"

/* Tries one place; returns only if there is no such program. */
static void try_exec(const char *dir, const char *rest, char **argv)
{
	char path[512];
	int n = snprintf(path, sizeof(path), "%s%s", dir, rest);
	if (n > 0 && (size_t)n < sizeof(path))
		execv(path, argv);
}

int cmd_run(int argc, char **argv)
{
	if (argc < 2)
		return cli_usage("run", false);
	if (!strcmp(argv[1], "--help"))
		return cli_usage("run", true);
	if (arg_dir)
		setenv("BELAY_DIR", arg_dir, 1);
	char self[400];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	self[n > 0 ? n : 0] = '\0';
	char *slash = strrchr(self, '/');
	if (slash)
		*slash = '\0';
	argv[0] = "belay-run";
	try_exec(self, "/belay-run", argv);
	try_exec(self, "/../run/belay-run", argv); /* the build tree */
	try_exec(BELAY_LIBEXECDIR, "/belay-run", argv);
	return cli_fail(EXIT_CANNOT_RUN, "cannot find belay-run beside %s or in %s: %s", self,
		BELAY_LIBEXECDIR, strerror(errno));
}
