/* `belay`: finds the subcommand and hands over. Global options come before it. */
#include <getopt.h>
#include <string.h>

#include "cli/cli.h"

const char *arg_dir;

struct command {
	const char *name;
	int (*main)(int argc, char **argv);
	const char *synopsis, *help;
};

static const struct command commands[] = {
#define COMMAND(name, function, synopsis, help) {name, function, synopsis, help},
#include "cli/commands.def"
#undef COMMAND
};

static void print_help(FILE *f)
{
	fputs("usage: belay [--dir DIR] COMMAND [ARG]…\n\n", f);
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		fprintf(f, "  %-9s %s\n", commands[i].name, commands[i].help);
	fputs("\n  belay COMMAND --help tells more; --dir (or BELAY_DIR) names the instance's "
	      "directory.\n"
	      "exit status: 0 yes, 1 no, 2 wrong usage, 3 no instance answers; `belay run` gives "
	      "the program's\n",
		f);
}

int cli_usage(const char *name, bool asked)
{
	for (size_t i = 0; i < ARRAY_LEN(commands); i++)
		if (!strcmp(commands[i].name, name))
			fprintf(asked ? stdout : stderr, "usage: belay %s %s\n%s: %s\n", name,
				commands[i].synopsis, name, commands[i].help);
	return asked ? EXIT_OK : EXIT_USAGE;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{"dir", required_argument, NULL, 'd'},
		{"help", no_argument, NULL, 'h'},
		{"version", no_argument, NULL, 'v'},
		{0},
	};
	int o;
	while ((o = getopt_long(argc, argv, "+hv", options, NULL)) != -1) {
		switch (o) {
		case 'd':
			arg_dir = optarg;
			break;
		case 'h':
			print_help(stdout);
			return EXIT_OK;
		case 'v':
			puts("belay " BELAY_VERSION);
			return EXIT_OK;
		default:
			return EXIT_USAGE;
		}
	}
	if (optind == argc) {
		print_help(stderr);
		return EXIT_USAGE;
	}
	const char *name = argv[optind];
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(commands[i].name, name))
			continue;
		argc -= optind;
		argv += optind;
		optind = 0; /* glibc: start over, for the subcommand's own options */
		return commands[i].main(argc, argv);
	}
	return cli_fail(EXIT_USAGE, "there is no command '%s' (try belay --help)", name);
}
