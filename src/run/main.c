/*
 * belay-run [--dir DIR] [--as NAME] -- PROGRAM [ARGUMENTS]: becomes PROGRAM, bound.
 *
 * Runs as the caller and is trusted for nothing: it is the program's own user tying himself. It
 * reaches the instance first, to say so before anything is changed; then it moves itself into
 * namespaces, loads the filter, hands over the filter's notify descriptor and execs in place,
 * so that pid, parent, terminal, process group and exit status are the program's own. The exec is
 * the first trapped call: there the program gets its identity. Exit status when it cannot start the
 * program: 127 not found, 126 anything else. Input: the command line.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <linux/netlink.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"
#include "base/fds.h"
#include "ipc/control.h"
#include "run/filter.h"
#include "run/handover.h"
#include "run/space.h"

#define EXIT_CANNOT 126
#define EXIT_NOT_FOUND 127

struct run {
	const char *dir, *as;
	char **argv;
	char file[PATH_MAX]; /* argv[0] as found in PATH */
	struct instance instance;
	int control;
};

static int fail(const struct run *r, int code, const char *why)
{
	fprintf(stderr, "belay: cannot run %s: %s\n", r->argv[0], why);
	return code == -ENOENT ? EXIT_NOT_FOUND : EXIT_CANNOT;
}

static _Noreturn void usage(int status)
{
	fputs("usage: belay run [--dir DIR] [--as NAME] [--] PROGRAM [ARGUMENTS]\n",
		status ? stderr : stdout);
	exit(status);
}

static void parse(struct run *r, int argc, char **argv)
{
	static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
		{"as", required_argument, NULL, 'a'}, {"help", no_argument, NULL, 'h'}, {0}};
	int c;
	while ((c = getopt_long(argc, argv, "+", options, NULL)) != -1) {
		switch (c) {
		case 'd':
			r->dir = optarg;
			break;
		case 'a':
			r->as = optarg;
			break;
		case 'h':
			usage(0);
		default:
			usage(EXIT_CANNOT);
		}
	}
	if (optind >= argc)
		usage(EXIT_CANNOT);
	r->argv = argv + optind;
}

static bool runnable(const char *path)
{
	struct stat st;
	return stat(path, &st) == 0 && S_ISREG(st.st_mode) && access(path, X_OK) == 0;
}

/*
 * Looks the program up before anything else: every exec that fails later is a trapped call, and a
 * name that is not there needs no instance to say so.
 */
static int find(struct run *r)
{
	const char *name = r->argv[0], *path = getenv("PATH");
	if (strchr(name, '/')) {
		snprintf(r->file, sizeof(r->file), "%s", name);
		return access(name, F_OK) < 0 ? -errno : 0;
	}
	if (!path)
		path = "/usr/local/bin:/usr/bin:/bin";
	for (const char *p = path; *name && p; p = strchr(p, ':') ? strchr(p, ':') + 1 : NULL) {
		int n = (int)strcspn(p, ":");
		int w = snprintf(r->file, sizeof(r->file), "%.*s%s%s", n, p, n ? "/" : "./", name);
		if (w > 0 && (size_t)w < sizeof(r->file) && runnable(r->file))
			return 0;
	}
	return -ENOENT;
}

/*
 * A query socket of the new network namespace, which the filter would refuse later. The instance
 * takes it from this process at its first exec and asks it which Unix sockets are the tree's own.
 */
static int diag_open(void)
{
	return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
}

/* Everything but the last step before the exec; the filter's notify descriptor, or negative. */
static int tie(struct error *e)
{
	int c = space_scope(e);
	if (c < 0 || (c = space_drop(e)) < 0)
		return c;
	/* Whatever the namespaces changed: those who serve this process must be able to look at it.
	 */
	prctl(PR_SET_DUMPABLE, 1, 0, 0, 0);
	int notify = filter_load();
	if (notify == -EBUSY)
		return error_set(e, notify,
			"a filter with a supervisor is already in force here (a "
			"container's, or another `belay run`), and the kernel allows one");
	if (notify < 0)
		return error_errno(e, notify, "cannot load the system call filter");
	return notify;
}

static int bind_self(struct run *r, struct error *e)
{
	const char *masked[] = {r->instance.dir, BELAY_HOST_RUN, BELAY_HOST_STATE, NULL, NULL};
	struct instance own;
	struct handover h = {.control = r->control, .as = r->as, .argv = r->argv};
	if (instance_default(&own, NULL) == 0)
		masked[3] = own.dir;
	h.dir = open(r->instance.dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	if (h.dir < 0)
		return error_errno(e, -errno, "cannot open %s", r->instance.dir);
	int c = space_enter(masked, e);
	if (c < 0)
		return c;
	_cleanup_close_ int diag = diag_open();
	if (diag < 0)
		return error_errno(e, -errno, "cannot open a socket query socket");
	if ((c = handover_open(&h, e)) < 0)
		return c;
	_cleanup_close_ int notify = tie(e);
	if (notify < 0) {
		(void)!handover_finish(&h, -1, &(struct error){0});
		return notify;
	}
	c = handover_finish(&h, notify, e);
	if (c < 0)
		return c;
	close(take_fd(&notify));
	execvp(r->file, r->argv);
	return error_errno(e, -errno, "exec failed");
}

int main(int argc, char **argv)
{
	struct run r = {.control = -1};
	struct error e = ERROR_INIT;
	parse(&r, argc, argv);
	int c = find(&r);
	if (c < 0)
		return fail(&r, c, strerror(-c));
	r.control = instance_connect(r.dir, &r.instance, &e);
	if (r.control < 0)
		return fail(&r, -EACCES, e.text);
	bind_self(&r, &e);
	return fail(&r, e.code == -ENOENT ? -EACCES : e.code, e.text);
}
