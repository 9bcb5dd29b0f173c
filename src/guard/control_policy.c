/* Requests about the policy: load, show, explain. */
#include <errno.h>
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "guard/control.h"
#include "guard/policies.h"
#include "identity/evidence.h"
#include "registry/registry.h"

#define SHOW_CHUNK 32000

void control_policy_load(struct client *c, const Belay__PolicyLoadRequest *m)
{
	struct guard *g = c->guard;
	uint64_t id = c->id;
	struct error e = ERROR_INIT;
	char source[128], text[200];
	text_scrub(m->source_name, strlen(m->source_name), source, sizeof(source));
	int r = policies_load(g, c->fds[0], source, c->uid, &e);
	if (r < 0) {
		control_error(g, id, r, "%s", e.text);
		return;
	}
	snprintf(text, sizeof(text), "%s: loaded, %" PRIu32 " rules", source,
		policy_rules(policies_current(g)));
	control_text(g, id, text);
}

void control_policy_show(struct client *c)
{
	struct guard *g = c->guard;
	const struct policy *p = policies_current(g);
	uint64_t id = c->id;
	if (!p) {
		control_error(g, id, -ENOENT, "no policy is loaded (try belay policy load FILE)");
		return;
	}
	_cleanup_free_ char *chunk = calloc(1, SHOW_CHUNK + 1);
	size_t n = 0;
	for (uint32_t i = 0; chunk && i <= policy_rules(p); i++) {
		_cleanup_free_ char *text = NULL;
		if (policy_format(p, i ? i - 1 : POLICY_RULE_NONE, &text) < 0)
			break;
		size_t len = strlen(text);
		if (len > SHOW_CHUNK)
			break;
		if (n + len > SHOW_CHUNK) {
			Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
			m.text = chunk;
			m.more = true;
			control_reply(g, id, &m);
			n = 0;
			if (!control_client(g, id))
				return;
		}
		memcpy(chunk + n, text, len + 1);
		n += len;
	}
	if (chunk)
		control_text(g, id, chunk);
	else
		control_error(g, id, -ENOMEM, "out of memory");
}

/* A party by an enrolled name, with the group that name has. "" is anybody unknown. */
static int party_named(const struct guard *g, const struct policy *p, const char *name,
	uint32_t uid, struct policy_party *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->self = true;
	ret->node = policy_intern(p, g->node);
	ret->uid = uid;
	if (!name[0])
		return 0;
	int r = policy_party_program(p, ret, name);
	for (size_t i = 0; r == 0 && i < registry_programs(g->registry); i++) {
		const struct program *e = registry_program(g->registry, i);
		if (strcmp(e->name, name))
			continue;
		ret->enrolled = !e->revoked;
		return e->group[0] ? policy_party_group(p, ret, e->group) : 0;
	}
	return r;
}

void control_explain(struct client *c, const Belay__ExplainRequest *m)
{
	struct guard *g = c->guard;
	const struct policy *p = policies_current(g);
	struct policy_question q = {.op = (enum policy_op)m->operation,
		.half = POLICY_PAIR,
		.now_s = (int64_t)(clock_wall_ms() / 1000)};
	struct policy_explanation x;
	uint32_t uid = m->user[0] ? (uint32_t)strtoul(m->user, NULL, 10) : c->uid;
	if (!m->operation)
		q.op = POLICY_OP_CONNECT;
	if (m->address[0] == '/') {
		q.transport = POLICY_UNIX;
		q.unix_path = m->address;
		q.unix_peer = m->to[0];
	} else if (m->address[0] && addr_parse(m->address, &q.address) < 0) {
		control_error(g, c->id, -EINVAL, "'%.80s' is not an address", m->address);
		return;
	}
	if (party_named(g, p, m->from, uid, &q.from) < 0 ||
		party_named(g, p, m->to, uid, &q.to) < 0) {
		control_error(g, c->id, -EINVAL, "too many names");
		return;
	}
	char where[ADDR_TEXT_MAX] = "";
	if (q.op == POLICY_OP_CONNECT && !m->to[0] && q.transport != POLICY_UNIX)
		q.half = POLICY_CALLER;
	if (m->address[0] || q.op == POLICY_OP_RUN)
		policy_explain(p, &q, &x);
	else
		policy_explain_anywhere(p, &q, &x, where);
	char text[sizeof(x.text) + sizeof(x.advice) + sizeof(where) + 8];
	snprintf(text, sizeof(text), "%s%s%s%s%s", x.text, where[0] ? " at " : "", where,
		x.advice[0] ? "\n  " : "", x.advice);
	json_t *j = json_pack("{s:b,s:s,s:s,s:i,s:s,s:s}", "allow", x.verdict.allow, "rule",
		x.verdict.rule_name ? x.verdict.rule_name : "", "text", x.text, "line",
		(int)x.verdict.line, "advice", x.advice, "address", where[0] ? where : m->address);
	_cleanup_free_ char *json = j ? json_dumps(j, JSON_COMPACT) : NULL;
	json_decref(j);
	Belay__ControlReply reply = BELAY__CONTROL_REPLY__INIT;
	reply.text = text;
	reply.json = json ? json : text;
	control_reply(g, c->id, &reply);
}
