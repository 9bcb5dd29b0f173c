/*
 * The log's decisions, made into questions. The log came from files: what does not read as a
 * decision is passed over, as it is shown by nobody (belay audit verify finds what is wrong).
 */
#include "cli/recorded.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "audit/reader.h"
#include "cli/audit.h"
#include "cli/cli.h"
#include "policy/cases.h"

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* "NODE/PROGRAM"; nothing for who was not identified. */
static void party_text(const json_t *p, const char *self, char *ret, size_t size)
{
	const char *node = text(p, "node"), *program = text(p, "program");
	bool far = node[0] && strcmp(node, self);
	snprintf(ret, size, "%s%s%s", far && program[0] ? node : "", far && program[0] ? "/" : "",
		program);
}

static bool read_entry(const json_t *o, struct recorded *r, char from[2 * POLICY_NAME_MAX],
	char to[2 * POLICY_NAME_MAX])
{
	const json_t *a = json_object_get(o, "from"), *b = json_object_get(o, "to");
	char when[20];
	*r = (struct recorded){.allowed = !strcmp(text(o, "verdict"), "allow"),
		.permissive = !strcmp(text(o, "mode"), "permissive")};
	if (strcmp(text(o, "type"), "decision"))
		return false;
	r->ask.op = policy_op_parse(text(o, "op"));
	/* The asking side is on this node unless it says another; so its node is what "self" is. */
	party_text(a, text(a, "node"), from, 2 * POLICY_NAME_MAX);
	party_text(b, text(a, "node"), to, 2 * POLICY_NAME_MAX);
	r->ask.from = from;
	r->ask.to = to[0] ? to : NULL;
	const json_t *at = r->ask.op == POLICY_OP_CONNECT ? b : a;
	r->ask.address = text(at, "unix")[0] ? text(at, "unix") : text(at, "address");
	r->ask.uid = (uint32_t)json_integer_value(json_object_get(a, "uid"));
	r->ask.user = text(a, "user");
	r->ask.to_uid = (uint32_t)json_integer_value(json_object_get(b, "uid"));
	r->ask.to_user = text(b, "user");
	r->ask.udp = !strcmp(text(o, "transport"), "udp");
	r->ask.plain = !strcmp(text(o, "protection"), "plain");
	snprintf(when, sizeof(when), "%.19s", text(o, "time"));
	return r->ask.op && policy_time_read(when, &r->ask.now_s) == 0;
}

int recorded_each(const char *path, int (*fn)(const struct recorded *r, void *data), void *data)
{
	char key[AUDIT_KEY_TEXT_MAX];
	_cleanup_close_ int dir = -1;
	struct audit_reader reader = {0};
	const char *entry;
	size_t len;
	int k = audit_dir_open(path, &dir, key);
	if (k != EXIT_OK)
		return k;
	k = audit_reader_init(&reader, dir, 0);
	int stop = 0;
	while (k >= 0 && !stop && (k = audit_reader_next(&reader, &entry, &len)) > 0) {
		json_t *o = json_loadb(entry, len, 0, NULL);
		struct recorded r;
		char from[2 * POLICY_NAME_MAX], to[2 * POLICY_NAME_MAX];
		if (o && read_entry(o, &r, from, to))
			stop = fn(&r, data);
		json_decref(o);
	}
	audit_reader_deinit(&reader);
	return k < 0 ? cli_fail(EXIT_REFUSED,
			       "cannot read the audit log: %s (try belay audit verify)",
			       strerror(-k))
		     : EXIT_OK;
}
