/* `belay policy explain`: the verdict on two programs, its rule, and what would have to differ. */
#include <getopt.h>
#include <jansson.h>
#include <pwd.h>
#include <string.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/policy.h"
#include "ipc/ipc.h"

static void usage(FILE *f)
{
	fputs("usage: belay policy explain --from NAME [--to NAME] [--address A:P|PATH] [--op OP]\n"
	      "                            [--user U] [--group G] [--unit UNIT] [--at TIME] "
	      "[--plain] [--udp]\n"
	      "                            [--json] [FILE]\n"
	      "Who may do what, by FILE, or else by the policy in force. OP: connect (default), "
	      "run,\n"
	      "bind, publish, accept. NAME may be NODE/NAME for a program of another node. TIME: "
	      "2026-12-24T18:00\n"
	      "in the policy's time zone; now if left out. Exit status 1: refused.\n",
		f);
}

struct arguments {
	struct policy_ask ask;
	const char *user, *file, *at;
	bool json;
};

static bool parse_op(const char *text, enum policy_op *ret)
{
	*ret = policy_op_parse(text);
	return *ret != POLICY_OP_NONE;
}

static int parse_user(struct arguments *a)
{
	char *end;
	a->ask.uid = (uint32_t)getuid();
	if (!a->user)
		return EXIT_OK;
	unsigned long v = strtoul(a->user, &end, 10);
	const struct passwd *pw = NULL;
	if (!*end && v < UINT32_MAX) {
		a->ask.uid = (uint32_t)v;
		return EXIT_OK;
	}
	a->ask.user = a->user;
	pw = getpwnam(a->user);
	if (!pw && !(a->ask.from && strchr(a->ask.from, '/')))
		return cli_fail(EXIT_USAGE, "there is no user '%s' on this host", a->user);
	if (pw)
		a->ask.uid = pw->pw_uid;
	return EXIT_OK;
}

static int parse(int argc, char **argv, struct arguments *a)
{
	enum {
		FROM = 'f',
		TO = 't',
		ADDRESS = 'a',
		OP = 'o',
		USER = 'u',
		GROUP = 'g',
		UNIT = 'n',
		AT = 'w',
		PLAIN = 'p',
		UDP = 'd',
		JSON = 'j',
		HELP = 'h'
	};
	static const struct option options[] = {
		{"from", required_argument, NULL, FROM},
		{"to", required_argument, NULL, TO},
		{"address", required_argument, NULL, ADDRESS},
		{"op", required_argument, NULL, OP},
		{"user", required_argument, NULL, USER},
		{"group", required_argument, NULL, GROUP},
		{"unit", required_argument, NULL, UNIT},
		{"at", required_argument, NULL, AT},
		{"plain", no_argument, NULL, PLAIN},
		{"udp", no_argument, NULL, UDP},
		{"json", no_argument, NULL, JSON},
		{"help", no_argument, NULL, HELP},
		{0},
	};
	int o;
	*a = (struct arguments){.ask.op = POLICY_OP_CONNECT};
	while ((o = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (o) {
		case FROM:
			a->ask.from = optarg;
			break;
		case TO:
			a->ask.to = optarg;
			break;
		case ADDRESS:
			a->ask.address = optarg;
			break;
		case OP:
			if (!parse_op(optarg, &a->ask.op))
				return cli_fail(EXIT_USAGE,
					"there is no operation '%s' (try --help)", optarg);
			break;
		case USER:
			a->user = optarg;
			break;
		case GROUP:
			a->ask.group = optarg;
			break;
		case UNIT:
			a->ask.unit = optarg;
			break;
		case AT:
			a->at = optarg;
			break;
		case PLAIN:
			a->ask.plain = true;
			break;
		case UDP:
			a->ask.udp = true;
			break;
		case JSON:
			a->json = true;
			break;
		default:
			usage(o == HELP ? stdout : stderr);
			return o == HELP ? -1 : EXIT_USAGE;
		}
	}
	a->file = optind < argc ? argv[optind++] : NULL;
	if (optind < argc || !a->ask.from) {
		usage(stderr);
		return EXIT_USAGE;
	}
	return parse_user(a);
}

static void print_json(
	const struct policy *p, const struct policy_explanation *x, const char *address)
{
	static const char *const protections[] = {"isolate", "encrypt", "plain"};
	const struct policy_verdict *v = &x->verdict;
	json_t *j = json_pack("{s:b,s:s,s:s,s:s,s:i,s:s,s:s}", "allow", v->allow, "text", x->text,
		"advice", x->advice, "rule", v->rule_name, "line", (int)v->line, "file",
		policy_source(p), "address", address);
	if (j && v->allow)
		json_object_update_new(
			j, json_pack("{s:s,s:I,s:I,s:I,s:I,s:b}", "protection",
				   protections[v->protection], "idle_ms", (json_int_t)v->idle_ms,
				   "connections", (json_int_t)v->connections, "rate",
				   (json_int_t)v->rate, "rate_s", (json_int_t)v->rate_s,
				   "permissive", v->permissive));
	if (j && x->nearest != POLICY_RULE_NONE)
		json_object_set_new(j, "nearest", json_string(policy_rule_name(p, x->nearest)));
	json_dumpf(j, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(j);
}

static void print_text(const struct policy_explanation *x, const char *address)
{
	static const char *const protections[] = {
		"isolated in this kernel", "encrypted", "as the program sends it"};
	const struct policy_verdict *v = &x->verdict;
	char idle[CLI_TEXT_MAX];
	puts(x->text);
	if (address[0])
		printf("  at %s\n", address);
	if (x->advice[0])
		printf("  %s\n", x->advice);
	if (!v->allow || v->reason != POLICY_ALLOWED_RULE)
		return;
	printf("  protection: %s\n", protections[v->protection]);
	cli_format_ms(v->idle_ms, idle);
	if (v->idle_ms)
		printf("  ends when idle for %s\n", idle);
	if (v->connections)
		printf("  at most %u connections at once\n", v->connections);
	if (v->rate)
		printf("  at most %u new ones in %u s\n", v->rate, v->rate_s);
}

static int explain_file(const struct arguments *a)
{
	_cleanup_policy_file_ struct policy_file f;
	_cleanup_policy_ struct policy *p = NULL;
	struct policy_explanation x;
	struct error e = ERROR_INIT;
	char address[ADDR_TEXT_MAX];
	int r = policy_read(a->file, &f);
	if (r != EXIT_OK)
		return r;
	if (!f.image) {
		policy_print_diagnostics(&f);
		return EXIT_USAGE;
	}
	if (policy_image_open(f.image, f.image_len, &p, &e) < 0)
		return cli_fail(EXIT_USAGE, "%s", e.text);
	struct policy_ask ask = a->ask;
	if (policy_time_parse(p, a->at, &ask.now_s) < 0)
		return cli_fail(EXIT_USAGE, "'%s' is no time (try 2026-12-24T18:00)", a->at);
	if (policy_ask(p, &ask, &x, address, &e) < 0)
		return cli_fail(EXIT_USAGE, "%s", e.text[0] ? e.text : "cannot ask that");
	if (a->json)
		print_json(p, &x, address);
	else
		print_text(&x, address);
	return x.verdict.allow ? EXIT_OK : EXIT_REFUSED;
}

static int explain_loaded(const struct arguments *a)
{
	Belay__ExplainRequest m = BELAY__EXPLAIN_REQUEST__INIT;
	if (a->ask.plain || a->ask.udp || a->ask.group || a->ask.unit || a->at)
		return cli_fail(
			EXIT_USAGE, "--plain, --udp, --group, --unit and --at need a policy FILE");
	m.from = (char *)a->ask.from;
	m.to = (char *)(a->ask.to ? a->ask.to : "");
	m.address = (char *)(a->ask.address ? a->ask.address : "");
	m.operation = (Belay__Operation)a->ask.op;
	char uid[16];
	snprintf(uid, sizeof(uid), "%u", a->ask.uid);
	m.user = uid; /* names are this host's, and resolved here */
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_EXPLAIN;
	rq.explain = &m;
	_cleanup_call_ struct cli_call c = CLI_CALL_INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	int r = cli_call(&c, &rq, NULL, 0, &reply);
	if (r != EXIT_OK)
		return r;
	puts(a->json && reply->json[0] ? reply->json : reply->text);
	json_t *j = json_loads(reply->json, 0, NULL);
	r = json_is_true(json_object_get(j, "allow")) ? EXIT_OK : EXIT_REFUSED;
	json_decref(j);
	return r;
}

int policy_explain_main(int argc, char **argv)
{
	struct arguments a;
	optind = 0;
	int r = parse(argc, argv, &a);
	if (r != EXIT_OK)
		return r < 0 ? EXIT_OK : r;
	return a.file ? explain_file(&a) : explain_loaded(&a);
}
