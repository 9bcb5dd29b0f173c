/* `belay enroll`, `unenroll`, `programs`: which programs the instance knows, by what they are. */
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/hex.h"
#include "cli/cli.h"
#include "ipc/ipc.h"

#define ENROLL_NAMES_MAX 16

enum {
	OPT_AS = 256,
	OPT_NAME,
	OPT_GROUP,
	OPT_JIT,
	OPT_LIBRARY,
	OPT_SCRIPT,
	OPT_INTERPRETER,
	OPT_NOT_INTERPRETER
};

static int enroll_parse(int argc, char **argv, Belay__EnrollRequest *m)
{
	static const struct option options[] = {
		{"as", required_argument, NULL, OPT_AS},
		{"name", required_argument, NULL, OPT_NAME},
		{"group", required_argument, NULL, OPT_GROUP},
		{"jit", no_argument, NULL, OPT_JIT},
		{"library", no_argument, NULL, OPT_LIBRARY},
		{"script", required_argument, NULL, OPT_SCRIPT},
		{"interpreter", no_argument, NULL, OPT_INTERPRETER},
		{"not-interpreter", no_argument, NULL, OPT_NOT_INTERPRETER},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int o;
	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case OPT_AS:
			m->name = optarg;
			break;
		case OPT_NAME:
			if (m->n_argv0 == ENROLL_NAMES_MAX)
				return cli_fail(EXIT_USAGE, "too many --name (at most %d)",
					ENROLL_NAMES_MAX);
			m->argv0[m->n_argv0++] = optarg;
			break;
		case OPT_GROUP:
			m->group = optarg;
			break;
		case OPT_JIT:
			m->jit = true;
			break;
		case OPT_LIBRARY:
			m->library = true;
			break;
		case OPT_SCRIPT:
			m->script_path = optarg;
			break;
		case OPT_INTERPRETER:
			m->interpreter = 1;
			break;
		case OPT_NOT_INTERPRETER:
			m->interpreter = -1;
			break;
		case 'h':
			puts("  --as NAME         the name policy uses\n"
			     "  --name ARGV0      permitted base name of argv[0] (narrows; may be "
			     "repeated;\n"
			     "                    a multi-call binary is told apart by it)\n"
			     "  --script FILE     FILE run by the interpreter given: interpreter "
			     "plus script\n"
			     "  --group GROUP     put the program into a group\n"
			     "  --jit             the program may make executable memory\n"
			     "  --library         a library programs may map, wherever it lies\n"
			     "  --interpreter, --not-interpreter   overrule what Belay found");
			return -1;
		default:
			return EXIT_USAGE;
		}
	}
	return optind == argc - 1 && m->name[0] ? EXIT_OK : cli_usage("enroll", false);
}

/* A path is shown, never trusted: what counts is the descriptor's content. */
static int open_program(const char *path, char **ret_real)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		return -errno;
	*ret_real = realpath(path, NULL);
	return fd;
}

static char *default_argv0(const char *path, const char *real)
{
	const char *a = strrchr(path, '/'), *b = strrchr(real ? real : path, '/');
	a = a ? a + 1 : path;
	b = b ? b + 1 : real;
	/* Enrolled through a link of another name: a multi-call binary, told apart by that name. */
	return b && strcmp(a, b) ? strdup(a) : NULL;
}

int cmd_enroll(int argc, char **argv)
{
	char *names[ENROLL_NAMES_MAX + 1];
	Belay__EnrollRequest m = BELAY__ENROLL_REQUEST__INIT;
	m.argv0 = names;
	int r = enroll_parse(argc, argv, &m);
	if (r)
		return r < 0 ? EXIT_OK : r;
	const char *path = argv[optind];
	_cleanup_free_ char *real = NULL, *script_real = NULL, *argv0 = NULL;
	_cleanup_close_ int fd = open_program(path, &real), script = -1;
	if (fd < 0)
		return cli_fail(EXIT_REFUSED, "cannot enroll %s: %s", path, strerror(-fd));
	m.path = real ? real : argv[optind];
	if (!m.n_argv0 && (argv0 = default_argv0(path, real)))
		m.argv0[m.n_argv0++] = argv0;
	int fds[2] = {fd};
	size_t n_fds = 1;
	if (m.script_path[0]) {
		script = open_program(m.script_path, &script_real);
		if (script < 0)
			return cli_fail(EXIT_REFUSED, "cannot enroll %s: %s", m.script_path,
				strerror(-script));
		if (script_real)
			m.script_path = script_real;
		fds[n_fds++] = script;
	}
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_ENROLL;
	rq.enroll = &m;
	return cli_ask(&rq, fds, n_fds);
}

int cmd_unenroll(int argc, char **argv)
{
	if (argc != 2 || argv[1][0] == '-')
		return cli_usage("unenroll", argc == 2 && !strcmp(argv[1], "--help"));
	Belay__UnenrollRequest m = BELAY__UNENROLL_REQUEST__INIT;
	m.name = argv[1];
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_UNENROLL;
	rq.unenroll = &m;
	return cli_ask(&rq, NULL, 0);
}

static void print_program_json(const Belay__ProgramRow *p)
{
	char sha[65] = "", script[65] = "";
	if (p->sha256.len == 32)
		hex_encode(p->sha256.data, 32, sha);
	if (p->script_sha256.len == 32)
		hex_encode(p->script_sha256.data, 32, script);
	json_t *names = json_array();
	for (size_t i = 0; i < p->n_argv0; i++)
		json_array_append_new(names, json_string(p->argv0[i]));
	json_t *j = json_pack("{s:s,s:s,s:I,s:s,s:o,s:s,s:b,s:b,s:b,s:b,s:s,s:I}", "name", p->name,
		"sha256", sha, "size", (json_int_t)p->size, "path", p->path, "argv0", names,
		"group", p->group, "revoked", p->revoked, "interpreter", p->interpreter, "jit",
		p->jit, "library", p->library, "script_sha256", script, "enrolled_ms",
		(json_int_t)p->enrolled_ms);
	if (j)
		json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
}

static void add_program_row(struct cli_table *t, const Belay__ProgramRow *p)
{
	char sha[65] = "", names[128] = "";
	if (p->sha256.len == 32)
		hex_encode(p->sha256.data, 32, sha);
	for (size_t i = 0, n = 0; i < p->n_argv0 && n < sizeof(names); i++)
		n += (size_t)snprintf(
			names + n, sizeof(names) - n, "%s%s", i ? "," : "", p->argv0[i]);
	cli_table_cell(t, "%s", p->name);
	cli_table_cell(t, "%.16s…", sha);
	cli_table_cell(t, "%" PRIu64, p->size);
	cli_table_cell(t, "%s", names[0] ? names : "any");
	cli_table_cell(t, "%s", p->group[0] ? p->group : "-");
	cli_table_cell(t, "%s%s%s%s", p->revoked ? "revoked " : "",
		p->interpreter ? "interpreter " : "", p->jit ? "jit " : "",
		p->library ? "library " : "");
	cli_table_cell(t, "%s%s%s", p->path, p->script_path[0] ? " + " : "", p->script_path);
}

/* ctx: the table; NULL: JSON. */
static void print_rows(void *ctx, const Belay__ControlReply *reply)
{
	for (size_t i = 0; i < reply->n_programs; i++)
		if (ctx)
			add_program_row(ctx, reply->programs[i]);
		else
			print_program_json(reply->programs[i]);
}

int cmd_programs(int argc, char **argv)
{
	bool json = argc == 2 && !strcmp(argv[1], "--json");
	if (argc > 1 && !json)
		return cli_usage("programs", !strcmp(argv[1], "--help"));
	Belay__ProgramsRequest m = BELAY__PROGRAMS_REQUEST__INIT;
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_PROGRAMS;
	rq.programs = &m;
	static const char *const titles[] = {
		"PROGRAM", "SHA-256", "SIZE", "ARGV0", "GROUP", "FLAGS", "PATH"};
	struct cli_table *t = json ? NULL : cli_table_new(ARRAY_LEN(titles), titles);
	int r = cli_rows(&rq, print_rows, t);
	if (t && r == EXIT_OK)
		cli_table_print(t);
	return r;
}
