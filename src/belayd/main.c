/*
 * belayd: the command. Exit status: 0 after an orderly end (SIGTERM, SIGINT, SIGHUP), 1 if the
 * instance could not start, 2 for a wrong command line, 3 if another belayd serves the same
 * directory.
 */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "base/log.h"
#include "belayd/belayd.h"

enum { EXIT_START = 1, EXIT_USAGE = 2, EXIT_BUSY = 3 };

static void usage(FILE *f)
{
	fputs("usage: belayd [--dir DIR] [--uid-base N] [--resolver IP[:PORT]]...\n"
	      "              [--without ROLE]... [--watchdog SECONDS] [--foreground]\n"
	      "Starts a Belay instance and keeps it running: the host's as root, else your own.\n"
	      "  --dir DIR       the instance's directory (default: /run/belay with state in\n"
	      "                  /var/lib/belay as root, else ~/.local/state/belay)\n"
	      "  --uid-base N    host instance: components run as uids N+1 to N+8 (default 64400)\n"
	      "  --resolver IP[:PORT]  the name server programs ask at IP port 53; up to four, "
	      "instead\n"
	      "                  of those in /etc/resolv.conf\n"
	      "  --without ROLE  do not start this component (to look for a fault)\n"
	      "  --watchdog SECONDS  a component that lives and does nothing for so long is "
	      "replaced\n"
	      "                  (default 10; 0: never, to look at one with a debugger)\n"
	      "  --foreground    stay in the foreground; always so\n"
	      "  --version, --help\n"
	      "Exit status: 0 ended in order, 1 could not start, 2 wrong usage, 3 already "
	      "running.\n",
		f);
}

/* Return: -1 to go on, else the exit status. */
static int parse_uid_base(struct belayd *b, const char *text)
{
	char *end;
	errno = 0;
	unsigned long n = strtoul(text, &end, 10);
	if (errno || *end || end == text || n < 1000 || n > INT_MAX - _ROLE_N) {
		fprintf(stderr, "belayd: --uid-base must be a number from 1000\n");
		return EXIT_USAGE;
	}
	b->uid_base = (uid_t)n;
	return -1;
}

static int parse_watchdog(struct belayd *b, const char *text)
{
	char *end;
	errno = 0;
	unsigned long n = strtoul(text, &end, 10);
	if (errno || *end || end == text || n > 3600) {
		fprintf(stderr, "belayd: --watchdog must be a number of seconds up to 3600\n");
		return EXIT_USAGE;
	}
	b->watchdog_ms = n * 1000;
	return -1;
}

static int parse_without(struct belayd *b, const char *name)
{
	enum role role = role_parse(name);
	if (role == ROLE_NONE) {
		fprintf(stderr, "belayd: no component is called %s\n", name);
		return EXIT_USAGE;
	}
	b->child[role].wanted = false;
	return -1;
}

static int parse_resolver(struct belayd *b, const char *text)
{
	struct addr a;
	if (addr_parse(text, &a) < 0 || addr_is_any(&a)) {
		fprintf(stderr,
			"belayd: --resolver must be an address: IP, IP:PORT or [IP6]:PORT\n");
		return EXIT_USAGE;
	}
	a.port = a.port ? a.port : 53;
	for (size_t i = 0; i < b->n_resolvers; i++)
		if (addr_same_ip(&b->resolvers[i], &a)) {
			fprintf(stderr, "belayd: programs cannot tell two resolvers at %s apart\n",
				text);
			return EXIT_USAGE;
		}
	if (b->n_resolvers == HERITAGE_RESOLVERS_MAX) {
		fprintf(stderr, "belayd: at most %d --resolver\n", HERITAGE_RESOLVERS_MAX);
		return EXIT_USAGE;
	}
	b->resolvers[b->n_resolvers++] = a;
	return -1;
}

static int parse_dir(struct belayd *b, const char *dir)
{
	char real[PATH_MAX] = "";
	/* Absolute, because components and messages name it whatever the working directory is. */
	if (dir[0] != '/' && !getcwd(real, sizeof(real)))
		return EXIT_START;
	size_t n = strlen(real);
	int m = snprintf(
		b->instance.dir, sizeof(b->instance.dir), "%s%s%s", real, n ? "/" : "", dir);
	if (m < 0 || (size_t)m >= sizeof(b->instance.dir)) {
		fprintf(stderr, "belayd: --dir is longer than %d bytes\n", INSTANCE_DIR_MAX - 1);
		return EXIT_USAGE;
	}
	b->explicit_dir = true;
	return -1;
}

static int parse(struct belayd *b, int argc, char **argv)
{
	static const struct option options[] = {{"dir", required_argument, NULL, 'd'},
		{"uid-base", required_argument, NULL, 'u'},
		{"resolver", required_argument, NULL, 'r'},
		{"without", required_argument, NULL, 'w'},
		{"watchdog", required_argument, NULL, 't'}, {"foreground", no_argument, NULL, 'f'},
		{"help", no_argument, NULL, 'h'}, {"version", no_argument, NULL, 'v'}, {0}};
	int o, r = -1;
	while (r < 0 && (o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case 'd':
			r = parse_dir(b, optarg);
			break;
		case 'u':
			r = parse_uid_base(b, optarg);
			break;
		case 'w':
			r = parse_without(b, optarg);
			break;
		case 't':
			r = parse_watchdog(b, optarg);
			break;
		case 'r':
			r = parse_resolver(b, optarg);
			break;
		case 'f':
			break;
		case 'h':
			usage(stdout);
			return 0;
		case 'v':
			puts("belayd " BELAY_VERSION);
			return 0;
		default:
			return EXIT_USAGE; /* getopt said why */
		}
	}
	if (r < 0 && optind < argc) {
		fprintf(stderr, "belayd: unexpected %s (try --help)\n", argv[optind]);
		r = EXIT_USAGE;
	}
	return r;
}

static void on_signal(uv_signal_t *s, int sig)
{
	log_info("ends: %s", strsignal(sig));
	notify_service("STOPPING=1");
	children_stop(s->data);
}

static int belayd_init(struct belayd *b, struct error *e)
{
	struct rlimit files;
	int r = uv_loop_init(&b->loop);
	if (r < 0)
		return error_errno(e, r, "cannot make the loop");
	/* Standard input is nobody's; and 0, 1, 2 must not become something else's numbers. */
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (null < 0 || dup2(null, STDIN_FILENO) < 0)
		return error_errno(e, -errno, "cannot open /dev/null");
	if (null > STDERR_FILENO)
		close(null);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	prctl(PR_SET_DUMPABLE, 0, 0, 0, 0);
	signal(SIGPIPE, SIG_IGN);
	struct {
		uv_signal_t *handle;
		int sig;
	} signals[] = {{&b->sigterm, SIGTERM}, {&b->sigint, SIGINT}, {&b->sighup, SIGHUP}};
	for (size_t i = 0; i < ARRAY_LEN(signals); i++) {
		uv_signal_init(&b->loop, signals[i].handle);
		signals[i].handle->data = b;
		uv_signal_start(signals[i].handle, on_signal, signals[i].sig);
	}
	return 0;
}

static int belayd_place(struct belayd *b, int *ret_control, struct error *e)
{
	b->host = getuid() == 0;
	if (!b->explicit_dir) {
		int r = instance_default(&b->instance, e);
		if (r < 0)
			return r;
	}
	if (b->host && !b->explicit_dir)
		snprintf(b->state, sizeof(b->state), "%s", BELAY_HOST_STATE);
	else
		snprintf(b->state, sizeof(b->state), "%s/state", b->instance.dir);
	return place_open(b, ret_control, e);
}

static int belayd_run(struct belayd *b, struct error *e)
{
	int control = -1;
	int r = belayd_init(b, e);
	if (!r)
		r = belayd_place(b, &control, e);
	if (!r)
		r = children_init(b, control, e);
	if (r < 0)
		return r;
	printf("belayd: ready: %s instance in %s\n", b->host ? "host" : "private", b->instance.dir);
	fflush(stdout);
	notify_service("READY=1");
	uv_run(&b->loop, UV_RUN_DEFAULT);
	place_close(b);
	return 0;
}

int main(int argc, char **argv)
{
	static struct belayd b = {.lock = -1,
		.dir = -1,
		.uid_base = BELAYD_UID_BASE,
		.watchdog_ms = BELAYD_WATCHDOG_S * 1000};
	for (int i = 1; i < _ROLE_N; i++)
		b.child[i] = (struct child){.belayd = &b,
			.role = (enum role)i,
			.wanted = true,
			.state_dir = -1,
			.memory = -1,
			.pidfd = -1,
			.dispatcher_end = -1};
	int status = parse(&b, argc, argv);
	if (status >= 0)
		return status;
	log_init("belayd");
	struct error e = ERROR_INIT;
	int r = belayd_run(&b, &e);
	if (!r)
		return 0;
	fprintf(stderr, "belayd: %s\n", e.text);
	return r == -EBUSY ? EXIT_BUSY : EXIT_START;
}
