/* `belay status`: which instance answers, how it was found, what it promises, how its parts are. */
#include <fcntl.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/fds.h"
#include "cli/cli.h"
#include "ipc/control.h"
#include "ipc/ipc.h"

#define STATUS_FILE_MAX 16384

/*
 * The guard has no files but its own, so what /proc says of a component is read here. For display
 * only: a pid may have been given away between the guard's answer and this.
 */
static void read_component(Belay__ComponentRow *p)
{
	char path[64];
	_cleanup_free_ char *text = NULL;
	snprintf(path, sizeof(path), "/proc/%u/status", p->pid);
	if (fds_read_file(AT_FDCWD, path, STATUS_FILE_MAX, &text, NULL) < 0)
		return;
	const char *uid = strstr(text, "\nUid:"), *rss = strstr(text, "\nVmRSS:");
	if (uid)
		p->uid = (uint32_t)strtoul(uid + strlen("\nUid:"), NULL, 10);
	if (rss)
		p->rss_kib = strtoull(rss + strlen("\nVmRSS:"), NULL, 10);
}

static void print_json(const Belay__StatusReply *s, const struct instance *in)
{
	json_t *parts = json_array(), *warnings = json_array();
	for (size_t i = 0; i < s->n_components; i++) {
		const Belay__ComponentRow *p = s->components[i];
		json_array_append_new(
			parts, json_pack("{s:s,s:I,s:I,s:I,s:I}", "role", p->role, "pid",
				       (json_int_t)p->pid, "uid", (json_int_t)p->uid, "restarts",
				       (json_int_t)p->restarts, "rss_kib", (json_int_t)p->rss_kib));
	}
	for (size_t i = 0; i < s->n_warnings; i++)
		json_array_append_new(warnings, json_string(s->warnings[i]));
	json_t *j = json_pack(
		"{s:s,s:s,s:s,s:s,s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:s,s:I,s:I,s:s,s:o,s:o}", "kind",
		s->kind, "dir", in->dir, "found", in->found, "version", s->version, "node", s->node,
		"policy", s->policy, "policy_rules", (json_int_t)s->policy_rules, "channels",
		(json_int_t)s->channels, "trees", (json_int_t)s->trees, "programs",
		(json_int_t)s->programs, "audit_dir", s->audit_dir, "audit_key", s->audit_key,
		"audit_size", (json_int_t)s->audit_size, "uptime_ms", (json_int_t)s->uptime_ms,
		"promise", s->promise, "components", parts, "warnings", warnings);
	if (j)
		json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
}

static void print_text(const Belay__StatusReply *s, const struct instance *in)
{
	char up[CLI_TEXT_MAX];
	cli_format_ms(s->uptime_ms, up);
	printf("%s instance in %s, found as %s\n", s->kind, in->dir, in->found);
	printf("promise   %s\n", s->promise);
	printf("node      %s\n", s->node[0] ? s->node : "(alone)");
	printf("policy    %s, %" PRIu64 " rules\n",
		s->policy[0] ? s->policy : "none loaded: everything is refused", s->policy_rules);
	printf("holds     %" PRIu64 " programs, %" PRIu64 " run trees, %" PRIu64
	       " channels; up %s\n",
		s->programs, s->trees, s->channels, up);
	printf("audit     %s, %" PRIu64 " entries\n", s->audit_dir, s->audit_size);
	static const char *const titles[] = {"COMPONENT", "PID", "UID", "RESTARTS", "RSS"};
	struct cli_table *t = cli_table_new(ARRAY_LEN(titles), titles);
	for (size_t i = 0; i < s->n_components; i++) {
		const Belay__ComponentRow *p = s->components[i];
		cli_table_cell(t, "%s", p->role);
		cli_table_cell(t, "%u", p->pid);
		cli_table_cell(t, "%u", p->uid);
		cli_table_cell(t, "%u", p->restarts);
		cli_table_cell(t, "%" PRIu64 " KiB", p->rss_kib);
	}
	cli_table_print(t);
	for (size_t i = 0; i < s->n_warnings; i++)
		printf("warning   %s\n", s->warnings[i]);
}

int cmd_status(int argc, char **argv)
{
	bool json = argc == 2 && !strcmp(argv[1], "--json");
	if (argc > 1 && !json)
		return cli_usage("status", !strcmp(argv[1], "--help"));
	struct error e = ERROR_INIT;
	struct instance in;
	_cleanup_call_ struct cli_call c = {.fd = instance_connect(arg_dir, &in, &e)};
	if (c.fd < 0)
		return cli_fail(EXIT_NO_INSTANCE, "%s", e.text);
	Belay__StatusRequest m = BELAY__STATUS_REQUEST__INIT;
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_STATUS;
	rq.status = &m;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	int r = cli_call(&c, &rq, NULL, 0, &reply);
	if (r != EXIT_OK)
		return r;
	if (!reply->status)
		return cli_fail(EXIT_NO_INSTANCE, "the instance gave no status");
	for (size_t i = 0; i < reply->status->n_components; i++)
		read_component(reply->status->components[i]);
	if (json)
		print_json(reply->status, &in);
	else
		print_text(reply->status, &in);
	return EXIT_OK;
}
