/*
 * The only place that decides: a question about subjects becomes the policy's question, its answer
 * a verdict; the verdict is logged before it takes effect.
 *
 * The subjects are what attest found and the registry matched, or what another node's guard says of
 * its own programs. A revoked program, a policy that is missing, a question the policy does not
 * know: all deny.
 *
 * Cost: no allocation, no system call in decide_ask(); decide_record() is one append to the log.
 */
#include <errno.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "guard/auditing.h"
#include "guard/guard.h"
#include "guard/party.h"
#include "guard/policies.h"
#include "guard/refusals.h"
#include "identity/evidence.h"

void verdict_deny(struct verdict *v, const char *fmt, ...)
{
	memset(v, 0, sizeof(*v));
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(v->why, sizeof(v->why), fmt, ap);
	va_end(ap);
}

int party_fill(const struct guard *g, const struct policy *p, const struct subject *s,
	struct policy_party *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->self = !s->node[0];
	ret->node = policy_intern(p, ret->self ? g->node : s->node);
	ret->uid = s->evidence->uid;
	ret->user = policy_intern(p, s->user);
	ret->enrolled = s->n_programs > 0 && !s->revoked;
	int r = 0;
	for (size_t i = 0; i < s->n_programs && r == 0; i++)
		r = policy_party_program(p, ret, s->programs[i]);
	for (size_t i = 0; i < s->n_groups && r == 0; i++)
		r = policy_party_group(p, ret, s->groups[i]);
	policy_party_unit(p, ret, s->evidence->unit);
	return r;
}

int decide_question(struct guard *g, const struct policy *p, const struct endpoint_question *q,
	struct policy_question *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->op = (enum policy_op)q->operation;
	ret->half = q->caller_only ? POLICY_CALLER : POLICY_PAIR;
	ret->transport = (enum policy_transport)q->transport;
	ret->plain = q->outside;
	ret->unix_peer = q->transport == BELAY__TRANSPORT__TRANSPORT_UNIX && q->to;
	if (q->address)
		ret->address = *q->address;
	ret->unix_path = q->unix_path;
	ret->now_s = (int64_t)(clock_wall_ms() / 1000);
	int r = q->from ? party_fill(g, p, q->from, &ret->from) : -EINVAL;
	if (r == 0 && q->to) {
		r = party_fill(g, p, q->to, &ret->to);
	} else {
		ret->to.self = !q->to_node || !q->to_node[0];
		ret->to.node = policy_intern(p, ret->to.self ? g->node : q->to_node);
	}
	return r;
}

static void rule_label(const struct policy *p, uint32_t rule, char text[NAME_MAX_LEN])
{
	text[0] = '\0';
	if (rule == POLICY_RULE_NONE)
		return;
	const char *name = policy_rule_name(p, rule);
	if (name && name[0])
		snprintf(text, NAME_MAX_LEN, "%s", name);
	else
		snprintf(text, NAME_MAX_LEN, "line %u", policy_rule_line(p, rule));
}

static const char *reason_text(enum policy_reason reason)
{
	switch (reason) {
	case POLICY_DENIED_RULE:
		return "a rule denies it";
	case POLICY_DENIED_NO_RULE:
		return "no rule allows it";
	case POLICY_DENIED_NOT_ENROLLED:
		return "only enrolled programs may run";
	case POLICY_DENIED_NO_POLICY:
		return "no policy is loaded";
	case POLICY_ALLOWED_RULE:
	case POLICY_ALLOWED_RUN:
	case POLICY_ALLOWED_ACCEPT:
	case POLICY_ALLOWED_PERMISSIVE:
	case POLICY_DENIED_QUESTION:
	default:
		return "the policy knows no such question";
	}
}

static bool decide_revoked(const struct endpoint_question *q, struct verdict *v)
{
	const struct subject *s = q->from && q->from->revoked ? q->from
				  : q->to && q->to->revoked   ? q->to
							      : NULL;
	if (s)
		verdict_deny(v, "%s is revoked", subject_name(s));
	return s != NULL;
}

/*
 * To the program at the other end a connect is an accept: its node asks that too, and what it says
 * counts like what the connect's rules say.
 */
static void ask_accept(const struct policy *p, const struct endpoint_question *q,
	const struct policy_question *connect, struct policy_verdict *pv)
{
	struct policy_question accept = *connect;
	struct policy_verdict v;
	bool here = q->to && !q->to->node[0] && !q->outside && !q->caller_only &&
		    q->transport != BELAY__TRANSPORT__TRANSPORT_UNIX;
	if (!pv->allow || q->operation != BELAY__OPERATION__OP_CONNECT || !here)
		return;
	accept.op = POLICY_OP_ACCEPT;
	accept.from = connect->to;
	accept.to = connect->from;
	policy_eval(p, &accept, &v);
	if (!v.allow) {
		*pv = v;
	} else if (v.permissive && !pv->permissive) {
		pv->permissive = true;
		pv->permissive_rule = v.permissive_rule;
	}
}

static void verdict_fill(const struct policy *p, const struct policy_verdict *pv, struct verdict *v)
{
	char rule[NAME_MAX_LEN];
	memset(v, 0, sizeof(*v));
	v->allow = pv->allow;
	v->protection =
		pv->plain ? BELAY__PROTECTION__PROTECTION_PLAIN : (Belay__Protection)pv->protection;
	v->idle_ms = pv->idle_ms;
	v->connections = pv->connections;
	v->rate = pv->rate;
	v->rate_s = pv->rate_s;
	v->permissive = pv->allow && pv->permissive;
	if (!pv->allow)
		snprintf(v->why, sizeof(v->why), "%s", reason_text(pv->reason));
	if (!p)
		return;
	rule_label(p, pv->rule, v->rule);
	rule_label(p, pv->limit_rule, v->limit_rule);
	rule_label(p, pv->rate_rule, v->rate_rule);
	rule_label(p, pv->permissive_rule, rule);
	if (v->permissive)
		snprintf(v->why, sizeof(v->why), "permissive: %s%s",
			rule[0] ? "refused by " : "no rule allows it", rule);
}

void decide_ask(struct guard *g, const struct endpoint_question *q, struct verdict *v)
{
	const struct policy *p = policies_current(g);
	struct policy_question pq;
	struct policy_verdict pv;
	if (decide_revoked(q, v))
		return;
	if (q->dns) {
		verdict_deny(v, "the policy has name service off");
		v->allow = policy_dns(p);
		return;
	}
	if (decide_question(g, p, q, &pq) < 0) {
		verdict_deny(v, "it matches more programs or groups than can be judged");
		return;
	}
	policy_eval(p, &pq, &pv);
	ask_accept(p, q, &pq, &pv);
	verdict_fill(p, &pv, v);
	/* On one node a datagram has no channel that could be sealed: the strictest thing to do is
	 * not to send it. */
	bool here = q->from && !q->from->node[0] && q->to && !q->to->node[0];
	if (pv.allow && q->transport == BELAY__TRANSPORT__TRANSPORT_UDP && here &&
		v->protection == BELAY__PROTECTION__PROTECTION_ENCRYPT)
		verdict_deny(
			v, "its rule wants encryption, which datagrams on one node cannot have");
}

void decide_what(const struct endpoint_question *q, char text[DECIDE_WHAT_MAX])
{
	static const char *const verbs[] = {"?", "run", "connect to", "bind", "publish"};
	char addr[ADDR_TEXT_MAX] = "", path[128] = "";
	const char *verb = (size_t)q->operation < ARRAY_LEN(verbs) ? verbs[q->operation] : "?";
	if (q->unix_path)
		text_scrub_path(q->unix_path, strlen(q->unix_path), path, sizeof(path));
	else if (q->address && q->address->ip_len)
		addr_format(q->address, true, addr);
	const char *udp = q->transport == BELAY__TRANSPORT__TRANSPORT_UDP ? " (UDP)" : "";
	snprintf(text, DECIDE_WHAT_MAX, "%s%s%s%s", verb, addr[0] || path[0] ? " " : "",
		addr[0] ? addr : path, udp);
}

void decide_advice(struct guard *g, const struct endpoint_question *q, char *text, size_t len)
{
	const struct policy *p = policies_current(g);
	struct policy_question pq;
	struct policy_explanation x = {0};
	text[0] = '\0';
	if (!q->dns && decide_question(g, p, q, &pq) == 0) {
		policy_explain(p, &pq, &x);
		if (!x.verdict.allow)
			snprintf(text, len, "%s", x.advice);
	}
	if (q->from && q->from->why_not[0]) {
		size_t n = strlen(text);
		snprintf(text + n, len - n, "%s%s", n ? "; " : "", q->from->why_not);
	}
}

/* Refusals of one principal to do one thing for one reason; whichever process of it that was. */
static uint64_t alike(struct guard *g, const struct endpoint_question *q, const struct verdict *v)
{
	struct {
		uint64_t from, to, facts;
		uint32_t operation, transport;
		struct addr address, visitor;
		char rule[NAME_MAX_LEN], why[REASON_MAX], path[256];
	} text;
	uint8_t out[crypto_shorthash_BYTES];
	uint64_t h;
	memset(&text, 0, sizeof(text)); /* padding is hashed, too */
	text.from = q->from ? q->from->principal : 0;
	text.to = q->to ? q->to->principal : 0;
	text.facts = g->facts;
	text.operation = q->operation;
	text.transport = q->transport;
	if (q->address)
		memcpy(&text.address, q->address, sizeof(text.address));
	if (q->visitor)
		memcpy(text.visitor.ip, q->visitor->ip, sizeof(text.visitor.ip));
	snprintf(text.rule, sizeof(text.rule), "%s", v->rule);
	snprintf(text.why, sizeof(text.why), "%s", v->why);
	snprintf(text.path, sizeof(text.path), "%s", q->unix_path ? q->unix_path : "");
	crypto_shorthash(out, (const uint8_t *)&text, sizeof(text), g->hash_key);
	memcpy(&h, out, sizeof(h));
	return h;
}

static void remember(
	struct guard *g, const struct endpoint_question *q, const struct verdict *v, uint64_t key)
{
	struct refusal r = {.when_ms = clock_wall_ms(), .key = key};
	char what[DECIDE_WHAT_MAX];
	uint32_t pid = q->from && !q->from->node[0] ? q->from->evidence->pid : 0;
	if (refusals_again(g, key, pid, r.when_ms))
		return;
	decide_what(q, what);
	snprintf(r.rule, sizeof(r.rule), "%s", v->rule);
	if (q->from) {
		r.pid = pid;
		r.uid = q->from->evidence->uid;
		snprintf(r.from, sizeof(r.from), "%s", subject_name(q->from));
	}
	char visitor[ADDR_TEXT_MAX + 16] = "";
	if (q->visitor) {
		snprintf(r.to, sizeof(r.to), "%s", r.from);
		addr_format(q->visitor, true, r.from);
		snprintf(visitor, sizeof(visitor), " %s, a visitor of", r.from);
	}
	if (q->to)
		snprintf(r.to, sizeof(r.to), "%s", subject_name(q->to));
	if (q->address && q->address->ip_len)
		addr_format(q->address, true, r.address);
	snprintf(r.text, sizeof(r.text), "refused%s %.140s by %.48s (pid %u): %.60s", visitor, what,
		q->visitor  ? r.to
		: r.from[0] ? r.from
			    : "somebody outside",
		r.pid, v->why);
	decide_advice(g, q, r.advice, sizeof(r.advice));
	r.who = share_subject(g, q->visitor ? NULL : q->from);
	refusals_add(g, &r);
}

int decide_record(
	struct guard *g, const struct endpoint_question *q, const struct verdict *v, uint64_t tree)
{
	(void)tree;
	uint64_t key = v->allow ? 0 : alike(g, q, v);
	if (!v->allow)
		remember(g, q, v, key);
	return auditing_decision(g, q, v, key);
}
