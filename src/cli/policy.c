/*
 * `belay policy init|check|load|show`: the policy is compiled here, in the person's own process;
 * the instance gets a checked image in a sealed memfd and decides whether to put it in force.
 */
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/policy.h"
#include "crypto/sha256.h"
#include "ipc/ipc.h"
#include "policy/cases.h"

static const char starting_point[] =
	"# What programs may do under Belay. Nothing is allowed that no rule allows; a rule that "
	"denies\n"
	"# beats any that allows; the order of rules never matters. docs/policy.md has all of it.\n"
	"#\n"
	"#   belay policy check policy.yaml      all errors at once, with their places\n"
	"#   belay policy load policy.yaml       puts it in force; what it refuses ends at once\n"
	"#   belay policy explain --from shell --to cache policy.yaml\n"
	"version: 1\n"
	"\n"
	"dns: true            # programs may resolve names\n"
	"run: any             # any program may run, contained; `enrolled`: only enrolled ones\n"
	"\n"
	"# Names for lists of programs. `enrolled` takes the group given by `belay enroll "
	"--group`.\n"
	"#groups:\n"
	"#  clients: [shell, bench]\n"
	"\n"
	"# Programs are named as `belay enroll FILE --as NAME` named them. Take the # away from "
	"what you want.\n"
	"rules:\n"
	"#  - name: cache-listens                # redis-server, enrolled as cache, may open its "
	"port\n"
	"#    allow: bind\n"
	"#    from: { program: cache }\n"
	"#    port: 6379\n"
	"#\n"
	"#  - name: shell-to-cache               # redis-cli, enrolled as shell, may connect to "
	"it\n"
	"#    allow: connect\n"
	"#    from: { program: shell }\n"
	"#    to: { program: cache }\n"
	"#    port: 6379\n"
	"#    idle: 10m                          # ends a connection nobody uses\n"
	"#    connections: 100                   # at once\n"
	"#\n"
	"#  - name: other-node                   # the same from another node; always encrypted\n"
	"#    allow: connect\n"
	"#    from: { program: shell, node: alpha }\n"
	"#    to: { program: cache, node: beta }\n"
	"#    port: 6379\n"
	"#\n"
	"#  - name: web-to-database            # a Unix socket, of streams or datagrams, by its "
	"path\n"
	"#    allow: connect\n"
	"#    from: { program: shell }\n"
	"#    unix: /run/postgresql/.s.PGSQL.5432\n"
	"#\n"
	"#  - name: pipe-for-others              # a named pipe that others than its run see\n"
	"#    allow: bind\n"
	"#    from: { program: shell }\n"
	"#    fifo: /run/pipes/**\n"
	"#\n"
	"#  - name: web-outside                  # a destination outside Belay: nobody vouches for "
	"it\n"
	"#    allow: connect\n"
	"#    from: { program: curl }\n"
	"#    plain: true\n"
	"#    address: 192.0.2.0/24\n"
	"#    port: 443\n";

int policy_read(const char *file, struct policy_file *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->name = file;
	int r = fds_read_file(AT_FDCWD, file, POLICY_TEXT_MAX, &ret->text, &ret->len);
	if (r < 0)
		return cli_fail(EXIT_USAGE, "cannot read the policy %s: %s", file, strerror(-r));
	const char *slash = strrchr(file, '/');
	struct policy_compile_options o = {.source = slash ? slash + 1 : file};
	r = policy_compile(
		ret->text, ret->len, &o, &ret->diagnostics, &ret->image, &ret->image_len);
	if (r < 0 && r != -EINVAL)
		return cli_fail(EXIT_REFUSED, "cannot compile %s: %s", file, strerror(-r));
	return EXIT_OK;
}

void policy_file_deinit(struct policy_file *f)
{
	free(f->text);
	free(f->image);
	policy_diagnostics_deinit(&f->diagnostics);
}

void policy_print_diagnostics(const struct policy_file *f)
{
	_cleanup_free_ char *text =
		policy_diagnostics_format(&f->diagnostics, f->name, f->text, f->len);
	if (text)
		fputs(text, stderr);
}

int policy_time_parse(const struct policy *p, const char *text, int64_t *ret)
{
	int64_t local;
	*ret = time(NULL);
	if (!text)
		return 0;
	int r = policy_time_read(text, &local);
	if (r == 0)
		*ret = policy_from_local(p, local);
	return r;
}

int policy_open(const struct policy_file *f, struct policy **ret)
{
	struct error e = ERROR_INIT;
	int r = policy_image_open(f->image, f->image_len, ret, &e);
	return r < 0 ? cli_fail(EXIT_REFUSED, "%s", e.text) : EXIT_OK;
}

int policy_read_open(const char *file, struct policy_file *f, struct policy **ret)
{
	int r = policy_read(file, f);
	if (r != EXIT_OK)
		return r;
	policy_print_diagnostics(f);
	return f->image ? policy_open(f, ret) : EXIT_USAGE;
}

static int init(int argc, char **argv)
{
	if (argc != 1)
		return cli_usage("policy", !strcmp(argv[1], "--help"));
	fputs(starting_point, stdout);
	return EXIT_OK;
}

static void print_json(const struct policy_file *f)
{
	const struct policy_diagnostics *d = &f->diagnostics;
	json_t *list = json_array();
	for (size_t i = 0; i < d->n; i++) {
		const struct policy_diagnostic *x = &d->list[i];
		json_t *j = json_pack("{s:s,s:s,s:i,s:i,s:s,s:s}", "file", f->name, "severity",
			x->warning ? "warning" : "error", "line", (int)x->line, "column",
			(int)x->column, "text", x->text, "hint", x->hint);
		/* Text that is not UTF-8 cannot be JSON: say where, not what. */
		if (!j)
			j = json_pack("{s:s,s:i,s:i}", "severity", x->warning ? "warning" : "error",
				"line", (int)x->line, "column", (int)x->column);
		json_array_append_new(list, j);
	}
	json_t *all = json_pack("{s:b,s:I,s:I,s:o}", "ok", f->image != NULL, "errors",
		(json_int_t)d->n_errors, "warnings", (json_int_t)d->n_warnings, "diagnostics",
		list);
	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
}

static int check(int argc, char **argv)
{
	bool json = argc == 3 && !strcmp(argv[1], "--json");
	if (argc != 2 + json || argv[1 + json][0] == '-')
		return cli_usage("policy", argc > 1 && !strcmp(argv[1], "--help"));
	_cleanup_policy_file_ struct policy_file f;
	int r = policy_read(argv[1 + json], &f);
	if (r != EXIT_OK)
		return r;
	if (json) {
		print_json(&f);
		return f.image ? EXIT_OK : EXIT_REFUSED;
	}
	policy_print_diagnostics(&f);
	if (!f.image)
		return cli_fail(EXIT_REFUSED, "%s: %zu error%s", f.name, f.diagnostics.n_errors,
			f.diagnostics.n_errors == 1 ? "" : "s");
	_cleanup_policy_ struct policy *p = NULL;
	r = policy_open(&f, &p);
	if (r != EXIT_OK)
		return r;
	printf("%s: good, %u rule%s\n", f.name, policy_rules(p), policy_rules(p) == 1 ? "" : "s");
	return EXIT_OK;
}

static int load(int argc, char **argv)
{
	if (argc != 2 || argv[1][0] == '-')
		return cli_usage("policy", argc == 2 && !strcmp(argv[1], "--help"));
	_cleanup_policy_file_ struct policy_file f;
	int r = policy_read(argv[1], &f);
	if (r != EXIT_OK)
		return r;
	policy_print_diagnostics(&f);
	if (!f.image)
		return cli_fail(
			EXIT_REFUSED, "%s is not loaded; the policy in force stays", f.name);
	_cleanup_close_ int fd = fds_memfd("belay-policy", f.image, f.image_len);
	if (fd < 0)
		return cli_fail(EXIT_REFUSED, "cannot hand the policy over: %s", strerror(-fd));
	uint8_t digest[SHA256_LEN];
	sha256_of(f.text, f.len, digest);
	Belay__PolicyLoadRequest m = BELAY__POLICY_LOAD_REQUEST__INIT;
	m.source_name = (char *)f.name;
	m.source_sha256 = (ProtobufCBinaryData){sizeof(digest), digest};
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_POLICY_LOAD;
	rq.policy_load = &m;
	_cleanup_call_ struct cli_call c = CLI_CALL_INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	r = cli_call(&c, &rq, &fd, 1, &reply);
	if (r == EXIT_REFUSED)
		return cli_fail(r, "%s is not loaded; the policy in force stays", f.name);
	if (r == EXIT_OK)
		printf("%s\n", reply->text[0] ? reply->text : "loaded");
	return r;
}

static int show_file(const char *name)
{
	_cleanup_policy_file_ struct policy_file f;
	_cleanup_policy_ struct policy *p = NULL;
	int r = policy_read_open(name, &f, &p);
	for (uint32_t i = 0; r == EXIT_OK && i <= policy_rules(p); i++) {
		_cleanup_free_ char *text = NULL;
		if (policy_format(p, i ? i - 1 : POLICY_RULE_NONE, &text) < 0)
			return cli_fail(EXIT_REFUSED, "out of memory");
		fputs(text, stdout);
	}
	return r;
}

static void print_text(void *ctx, const Belay__ControlReply *reply)
{
	(void)ctx;
	fputs(reply->text, stdout);
}

static int show(int argc, char **argv)
{
	if (argc == 2 && argv[1][0] != '-')
		return show_file(argv[1]);
	if (argc != 1)
		return cli_usage("policy", !strcmp(argv[1], "--help"));
	Belay__PolicyShowRequest m = BELAY__POLICY_SHOW_REQUEST__INIT;
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_POLICY_SHOW;
	rq.policy_show = &m;
	return cli_rows(&rq, print_text, NULL);
}

int cmd_policy(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*main)(int argc, char **argv);
	} verbs[] = {{"init", init}, {"check", check}, {"load", load}, {"show", show},
		{"explain", policy_explain_main}, {"test", policy_test_main},
		{"diff", policy_diff_main}, {"learn", policy_learn_main}};
	for (size_t i = 0; argc > 1 && i < ARRAY_LEN(verbs); i++)
		if (!strcmp(argv[1], verbs[i].name))
			return verbs[i].main(argc - 1, argv + 1);
	return cli_usage("policy", argc > 1 && !strcmp(argv[1], "--help"));
}
