/* `belay policy test`: does the policy decide the cases as their author says, and which rules did
 * none of them try? */
#include <fcntl.h>
#include <jansson.h>
#include <string.h>
#include <time.h>

#include "base/fds.h"
#include "cli/cli.h"
#include "cli/policy.h"
#include "policy/cases.h"

struct tally {
	const struct policy *p;
	const char *file;
	uint8_t *tried; /* by rule */
	uint32_t failed;
	json_t *failures; /* NULL: for people */
};

static void usage(FILE *f)
{
	fputs("usage: belay policy test [--json] POLICY CASES\n"
	      "Asks POLICY every case of CASES (docs/policy.md, Trying a policy out). Exit status "
	      "1: "
	      "some were\n"
	      "decided otherwise than expected. Also says which rules decided none of them.\n",
		f);
}

static void failure(struct tally *t, const struct policy_case *x, const char *expected,
	const char *was, const char *advice)
{
	t->failed++;
	if (!t->failures) {
		printf("%s:%u: %s%sexpected %s; it is %s\n", t->file, x->line,
			x->name ? x->name : "", x->name ? ": " : "", expected, was);
		if (advice[0])
			printf("  %s\n", advice);
		return;
	}
	json_array_append_new(
		t->failures, json_pack("{s:s,s:i,s:s,s:s,s:s,s:s}", "file", t->file, "line",
				     (int)x->line, "name", x->name ? x->name : "", "expected",
				     expected, "was", was, "advice", advice));
}

static void try_case(struct tally *t, const struct policy_case *x)
{
	struct policy_ask ask = x->ask;
	struct policy_explanation e;
	struct error error = ERROR_INIT;
	char address[ADDR_TEXT_MAX], expected[CLI_TEXT_MAX + POLICY_NAME_MAX];
	ask.now_s = x->has_time ? policy_from_local(t->p, x->local_s) : time(NULL);
	snprintf(expected, sizeof(expected), "%s%s%.*s%s%s", x->allow ? "allowed" : "refused",
		x->rule ? " by " : "", POLICY_NAME_MAX, x->rule ? x->rule : "",
		x->encrypt ? ", encrypted" : "", x->permissive ? ", permissive" : "");
	if (policy_ask(t->p, &ask, &e, address, &error) < 0) {
		failure(t, x, expected, error.text[0] ? error.text : "no question", "");
		return;
	}
	const struct policy_verdict *v = &e.verdict;
	if (v->rule != POLICY_RULE_NONE)
		t->tried[v->rule] = 1;
	if (v->permissive_rule != POLICY_RULE_NONE)
		t->tried[v->permissive_rule] = 1;
	bool right = v->allow == x->allow && (!x->rule || !strcmp(x->rule, v->rule_name)) &&
		     (!x->encrypt || v->protection == POLICY_ENCRYPT) &&
		     (!x->permissive || v->permissive);
	if (!right)
		failure(t, x, expected, e.text, e.advice);
}

static int report(const struct tally *t, uint32_t cases)
{
	uint32_t n = policy_rules(t->p), tried = 0;
	json_t *never = json_array();
	for (uint32_t i = 0; i < n; i++) {
		tried += t->tried[i];
		if (!t->tried[i] && t->failures)
			json_array_append_new(never, json_string(policy_rule_name(t->p, i)));
		else if (!t->tried[i])
			printf("%s:%u: no case is decided by %s\n", policy_source(t->p),
				policy_rule_line(t->p, i), policy_rule_name(t->p, i));
	}
	if (t->failures) {
		json_t *all = json_pack("{s:I,s:I,s:O,s:I,s:O}", "cases", (json_int_t)cases,
			"failed", (json_int_t)t->failed, "failures", t->failures, "rules",
			(json_int_t)n, "untried", never);
		json_dumpf(all, stdout, JSON_INDENT(2));
		putchar('\n');
		json_decref(all);
	} else {
		printf("%u cases, %u failed; %u of %u rules tried\n", cases, t->failed, tried, n);
	}
	json_decref(never);
	return t->failed ? EXIT_REFUSED : EXIT_OK;
}

static int read_cases(const char *file, struct policy_cases *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	_cleanup_diagnostics_ struct policy_diagnostics d = {0};
	struct policy_compile_options o = {.source = file};
	int r = fds_read_file(AT_FDCWD, file, POLICY_TEXT_MAX, &text, &len);
	if (r < 0)
		return cli_fail(EXIT_USAGE, "cannot read the cases %s: %s", file, strerror(-r));
	r = policy_cases_read(text, len, &o, &d, ret);
	_cleanup_free_ char *said = policy_diagnostics_format(&d, file, text, len);
	if (said)
		fputs(said, stderr);
	return r < 0 ? EXIT_USAGE : EXIT_OK;
}

int policy_test_main(int argc, char **argv)
{
	bool json = argc > 1 && !strcmp(argv[1], "--json");
	if (argc != 3 + json || argv[1 + json][0] == '-') {
		bool help = argc > 1 && !strcmp(argv[1], "--help");
		usage(help ? stdout : stderr);
		return help ? EXIT_OK : EXIT_USAGE;
	}
	_cleanup_policy_file_ struct policy_file f;
	_cleanup_policy_ struct policy *p = NULL;
	_cleanup_cases_ struct policy_cases cases = {0};
	int r = policy_read_open(argv[1 + json], &f, &p);
	if (r == EXIT_OK)
		r = read_cases(argv[2 + json], &cases);
	if (r != EXIT_OK)
		return r;
	_cleanup_free_ uint8_t *tried = calloc(policy_rules(p) + 1, 1);
	struct tally t = {.p = p, .file = argv[2 + json], .tried = tried};
	if (!tried)
		return cli_fail(EXIT_REFUSED, "out of memory");
	t.failures = json ? json_array() : NULL;
	for (uint32_t i = 0; i < cases.n; i++)
		try_case(&t, &cases.list[i]);
	r = report(&t, cases.n);
	json_decref(t.failures);
	return r;
}
