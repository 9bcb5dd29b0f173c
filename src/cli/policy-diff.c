/* `belay policy diff`: what another policy would change, with an example of each; and what of the
 * log. */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "cli/policy.h"
#include "cli/recorded.h"
#include "policy/diff.h"

#define RANDOM_QUESTIONS 200000u

static void usage(FILE *f)
{
	fputs("usage: belay policy diff [--json] [--log [DIR]] OLD NEW\n"
	      "Asks both policies the same questions, made from what their rules say, and shows "
	      "what\n"
	      "changes: each once, with an example. --log asks what the audit log recorded, "
	      "instead.\n"
	      "Exit status 0: no difference was found; 1: there are some.\n",
		f);
}

static void describe(const struct policy *p, const struct policy_verdict *v, char text[160])
{
	static const char *const protections[] = {"isolate", "encrypt", "plain"};
	const char *rule = v->rule != POLICY_RULE_NONE ? v->rule_name : "";
	int n = snprintf(
		text, 160, "%s%s%s", v->allow ? "allowed" : "refused", rule[0] ? " by " : "", rule);
	if (!rule[0] && !v->allow)
		n += snprintf(text + n, 160 - (size_t)n, ": no rule allows it");
	else if (rule[0])
		n += snprintf(text + n, 160 - (size_t)n, " (%.40s:%u)", policy_source(p), v->line);
	if (v->allow && n < 150)
		snprintf(text + n, 160 - (size_t)n, ", %s%s", protections[v->protection],
			v->permissive ? ", permissive" : "");
}

static void print_example(const struct policy_ask *q, bool times)
{
	char when[32];
	time_t t = (time_t)q->now_s;
	struct tm tm;
	printf("  such as: %s", q->from && q->from[0] ? q->from : "somebody unknown");
	if (q->user)
		printf(" (user %s)", q->user);
	else if (q->uid != 4242)
		printf(" (uid %u)", q->uid);
	if (q->group)
		printf(" (group %s)", q->group);
	if (q->unit)
		printf(" (unit %s)", q->unit);
	printf(", %s%s", policy_op_name(q->op), q->plain ? " outside" : "");
	if (q->to)
		printf(" %s", q->to);
	if (q->op != POLICY_OP_RUN && q->address)
		printf(" at %s%s", q->address, q->udp && q->address[0] != '/' ? " (UDP)" : "");
	if (times && gmtime_r(&t, &tm) && strftime(when, sizeof(when), "%a %H:%M", &tm))
		printf(", on a %s UTC", when);
	putchar('\n');
}

static void print_text(const struct policy_diff *d)
{
	bool times = policy_next_change(d->a, 0) || policy_next_change(d->b, 0);
	for (uint32_t i = 0; i < d->n; i++) {
		const struct policy_change *c = &d->changes[i];
		char before[160], after[160];
		describe(d->a, &c->before, before);
		describe(d->b, &c->after, after);
		printf("%s %s\n  was %s\n",
			!c->before.allow ? "+"
			: c->after.allow ? "~"
					 : "-",
			after, before);
		print_example(&c->ask, times);
	}
	printf("%u kind%s of change; %" PRIu64 " of %" PRIu64 " questions are answered otherwise\n",
		d->n, d->n == 1 ? "" : "s", d->differed, d->asked);
}

static json_t *verdict_json(const struct policy_verdict *v)
{
	static const char *const protections[] = {"isolate", "encrypt", "plain"};
	return json_pack("{s:b,s:s,s:i,s:s,s:I,s:I,s:b}", "allow", v->allow, "rule", v->rule_name,
		"line", (int)v->line, "protection", v->allow ? protections[v->protection] : "",
		"idle_ms", (json_int_t)v->idle_ms, "connections", (json_int_t)v->connections,
		"permissive", v->permissive);
}

static void print_json(const struct policy_diff *d)
{
	json_t *list = json_array();
	for (uint32_t i = 0; i < d->n; i++) {
		const struct policy_change *c = &d->changes[i];
		const struct policy_ask *q = &c->ask;
		json_array_append_new(list,
			json_pack("{s:{s:s,s:s,s:s,s:s,s:i,s:b,s:b,s:I},s:o,s:o,s:I}", "example",
				"op", policy_op_name(q->op), "from", q->from ? q->from : "", "to",
				q->to ? q->to : "", "address", q->address ? q->address : "", "uid",
				(int)q->uid, "plain", q->plain, "udp", q->udp, "time",
				(json_int_t)q->now_s, "before", verdict_json(&c->before), "after",
				verdict_json(&c->after), "questions", (json_int_t)c->n));
	}
	json_t *all = json_pack("{s:I,s:I,s:o}", "asked", (json_int_t)d->asked, "differed",
		(json_int_t)d->differed, "changes", list);
	json_dumpf(all, stdout, JSON_INDENT(2));
	putchar('\n');
	json_decref(all);
}

static int one_recorded(const struct recorded *r, void *data)
{
	return policy_diff_ask(data, &r->ask);
}

int policy_diff_main(int argc, char **argv)
{
	bool json = false, log = false;
	const char *dir = NULL;
	int i = 1;
	for (; i < argc && argv[i][0] == '-'; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[i], "--log")) {
			log = true;
			dir = argc - i == 4 ? argv[++i] : NULL;
		} else {
			bool help = !strcmp(argv[i], "--help");
			usage(help ? stdout : stderr);
			return help ? EXIT_OK : EXIT_USAGE;
		}
	}
	if (argc - i != 2) {
		usage(stderr);
		return EXIT_USAGE;
	}
	_cleanup_policy_file_ struct policy_file old, new = {0};
	_cleanup_policy_ struct policy *a = NULL, *b = NULL;
	_cleanup_policy_diff_ struct policy_diff d = {0};
	int r = policy_read_open(argv[i], &old, &a);
	if (r == EXIT_OK)
		r = policy_read_open(argv[i + 1], &new, &b);
	if (r != EXIT_OK)
		return r;
	if (log) {
		d = (struct policy_diff){.a = a, .b = b};
		r = recorded_each(dir, one_recorded, &d);
		if (r != EXIT_OK)
			return r;
	} else if (policy_diff(a, b, RANDOM_QUESTIONS, &d) < 0) {
		return cli_fail(EXIT_REFUSED, "out of memory");
	}
	if (json)
		print_json(&d);
	else
		print_text(&d);
	return d.n ? EXIT_REFUSED : EXIT_OK;
}
