/* `belay why` and `belay whoami`: what was refused and what would have to change; who a process is.
 */
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "ipc/ipc.h"

static void print_row(const Belay__WhyRow *w, bool json)
{
	if (json) {
		json_t *j = json_pack("{s:I,s:s,s:s,s:s,s:s,s:s,s:s,s:I}", "when_ms",
			(json_int_t)w->when_ms, "text", w->text, "rule", w->rule, "advice",
			w->advice, "from", w->from, "to", w->to, "address", w->address, "count",
			(json_int_t)w->count);
		if (j)
			json_dumpf(j, stdout, JSON_COMPACT);
		putchar('\n');
		json_decref(j);
		return;
	}
	time_t s = (time_t)(w->when_ms / 1000);
	struct tm tm;
	char when[32] = "";
	if (localtime_r(&s, &tm))
		strftime(when, sizeof(when), "%H:%M:%S", &tm);
	printf("%s  %s", when, w->text);
	if (w->count > 1)
		printf(" (%" PRIu64 " times)", w->count);
	putchar('\n');
	if (w->rule[0])
		printf("          rule: %s\n", w->rule);
	if (w->advice[0])
		printf("          %s\n", w->advice);
}

int cmd_why(int argc, char **argv)
{
	bool json = false;
	Belay__WhyRequest m = BELAY__WHY_REQUEST__INIT;
	for (int i = 1; i < argc; i++) {
		char *end;
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (argv[i][0] == '-') {
			return cli_usage("why", !strcmp(argv[i], "--help"));
		} else {
			unsigned long v = strtoul(argv[i], &end, 10);
			if (*end || v > UINT32_MAX)
				m.address = argv[i];
			else
				m.pid = (uint32_t)v;
		}
	}
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_WHY;
	rq.why = &m;
	_cleanup_call_ struct cli_call c = CLI_CALL_INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	int r = cli_call(&c, &rq, NULL, 0, &reply);
	if (r != EXIT_OK)
		return r;
	for (size_t i = 0; i < reply->n_why; i++)
		print_row(reply->why[i], json);
	if (!reply->n_why && !json)
		puts("nothing that matches was refused lately (belay audit query has the whole "
		     "history)");
	return EXIT_OK;
}

int cmd_whoami(int argc, char **argv)
{
	bool json = false;
	Belay__WhoamiRequest m = BELAY__WHOAMI_REQUEST__INIT;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json")) {
			json = true;
		} else if (!strcmp(argv[i], "--pid") && i + 1 < argc) {
			char *end;
			unsigned long v = strtoul(argv[++i], &end, 10);
			if (*end || !v || v > UINT32_MAX)
				return cli_fail(EXIT_USAGE, "'%s' is not a process id", argv[i]);
			m.pid = (uint32_t)v;
		} else {
			return cli_usage("whoami", !strcmp(argv[i], "--help"));
		}
	}
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_WHOAMI;
	rq.whoami = &m;
	_cleanup_call_ struct cli_call c = CLI_CALL_INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	int r = cli_call(&c, &rq, NULL, 0, &reply);
	if (r != EXIT_OK)
		return r;
	if (json) {
		printf("%s\n", reply->json);
		return EXIT_OK;
	}
	json_t *j = json_loads(reply->json, 0, NULL), *v;
	const char *k;
	json_object_foreach(j, k, v)
	{
		_cleanup_free_ char *text = json_dumps(v, JSON_ENCODE_ANY | JSON_COMPACT);
		printf("%-16s %s\n", k, text ? text : "");
	}
	json_decref(j);
	for (size_t i = 0; i < reply->n_matches; i++)
		printf("%-16s %s\n", i ? "" : "matches", reply->matches[i]);
	if (!reply->n_matches)
		printf("%-16s %s\n", "matches",
			reply->text[0] ? reply->text : "no enrolled program");
	return EXIT_OK;
}
