/*
 * A person's question, by names and text, made into a question of the evaluator's. Input: a command
 * line. Without an address, each rule that would allow the two is asked about its own first address
 * and port.
 */
#include "policy/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static int party_named(
	const struct policy *p, const char *text, struct policy_party *a, struct error *e)
{
	char node[POLICY_NAME_MAX];
	const char *slash = text ? strchr(text, '/') : NULL;
	a->self = true;
	if (!text || !text[0])
		return 0;
	if (slash) {
		size_t n = (size_t)(slash - text);
		if (!n || n >= sizeof(node))
			return error_set(e, -EINVAL, "'%s' is neither NAME nor NODE/NAME", text);
		memcpy(node, text, n);
		node[n] = '\0';
		a->node = policy_intern(p, node);
		a->self = false;
		text = slash + 1;
	}
	a->enrolled = true;
	return policy_party_program(p, a, text);
}

static int set_address(struct policy_question *q, const struct policy_ask *ask, struct error *e)
{
	if (ask->address[0] == '/') {
		q->transport = POLICY_UNIX;
		q->unix_path = ask->address;
		q->unix_peer = ask->to && ask->to[0];
		q->half = POLICY_PAIR;
		return 0;
	}
	if (addr_parse(ask->address, &q->address) < 0)
		return error_set(e, -EINVAL,
			"cannot read the address '%s' (try 127.0.0.1:6379, [::1]:6379 or "
			"/path/of/socket)",
			ask->address);
	return 0;
}

/* The first address and port the rule is about. */
static void address_of_rule(
	const struct policy *p, const struct image_rule *r, struct policy_question *q)
{
	struct addr a = {.ip_len = 4, .ip = {127, 0, 0, 1}};
	const struct image_where *w = &p->wheres[r->where];
	if (w->path) {
		q->transport = POLICY_UNIX;
		q->unix_path = policy_text(p, w->path);
		return;
	}
	if (w->ranges4.count) {
		const struct image_range4 *x = &p->ranges4[w->ranges4.first];
		uint32_t ip =
			x->first + (x->first != x->last); /* rather 127.0.0.1 than 127.0.0.0 */
		for (int i = 0; i < 4; i++)
			a.ip[i] = (uint8_t)(ip >> (24 - 8 * i));
	} else if (w->ranges6.count) {
		const struct image_range6 *x = &p->ranges6[w->ranges6.first];
		a.ip_len = 16;
		for (int i = 0; i < 8; i++) {
			a.ip[i] = (uint8_t)(x->first.hi >> (56 - 8 * i));
			a.ip[8 + i] = (uint8_t)(x->first.lo >> (56 - 8 * i));
		}
	}
	if (r->ports.count)
		a.port = list_ports(p, &r->ports)->first;
	q->transport = r->transports & IMAGE_TRANSPORT(POLICY_TCP) ? POLICY_TCP : POLICY_UDP;
	q->address = a;
}

static void format_where(const struct policy_question *q, char text[ADDR_TEXT_MAX])
{
	if (q->transport == POLICY_UNIX)
		snprintf(text, ADDR_TEXT_MAX, "%s", q->unix_path);
	else
		addr_format(&q->address, q->address.port != 0, text);
}

void policy_explain_anywhere(const struct policy *p, const struct policy_question *q,
	struct policy_explanation *ret, char ret_address[ADDR_TEXT_MAX])
{
	const unsigned where = POLICY_DIFFERS_ADDRESS | POLICY_DIFFERS_PORT |
			       POLICY_DIFFERS_TRANSPORT | POLICY_DIFFERS_PATH;
	struct match m;
	struct policy_verdict v = {.allow = false};
	struct policy_question somewhere = *q, best;
	bool tried = false;
	somewhere.address = (struct addr){.ip_len = 4, .ip = {127, 0, 0, 1}};
	best = somewhere;
	for (uint32_t i = 0; p && i < p->n_rules && !v.allow; i++) {
		const struct image_rule *r = &p->rules[i];
		struct policy_question try = *q;
		if (i == 0 && !match_prepare(p, &somewhere, &m))
			break;
		if (r->flags & IMAGE_RULE_DENY || !(r->ops & IMAGE_OP(q->op)) ||
			match_rule(p, &m, r, true) & ~where)
			continue;
		address_of_rule(p, r, &try);
		if (try.transport == POLICY_UNIX && q->half == POLICY_CALLER)
			try.half = POLICY_PAIR; /* who listens there stays unknown */
		policy_eval(p, &try, &v);
		if (v.allow || !tried)
			best = try;
		tried = true;
	}
	policy_explain(p, &best, ret);
	format_where(&best, ret_address);
}

int policy_ask_question(const struct policy *p, const struct policy_ask *ask,
	struct policy_question *ret, struct error *e)
{
	struct policy_question q = {
		.op = ask->op, .half = POLICY_PAIR, .plain = ask->plain, .now_s = ask->now_s};
	bool to = ask->to && ask->to[0];
	bool ends = ask->op == POLICY_OP_CONNECT || ask->op == POLICY_OP_ACCEPT;
	if (!policy_op_name(ask->op))
		return error_set(e, -EINVAL,
			"no such operation (try run, connect, bind, publish or accept)");
	if (to && (!ends || ask->plain))
		return error_set(
			e, -EINVAL, "only a connect or accept inside Belay has another side");
	int r = party_named(p, ask->from, &q.from, e);
	if (r == 0)
		r = party_named(p, ask->to, &q.to, e);
	if (r == 0 && ask->group && ask->group[0])
		r = policy_party_group(p, &q.from, ask->group);
	if (r == 0 && ask->to_group && ask->to_group[0])
		r = policy_party_group(p, &q.to, ask->to_group);
	if (r < 0)
		return r;
	if (ask->op == POLICY_OP_CONNECT && !ask->plain && !to)
		q.half = POLICY_CALLER;
	q.transport = ask->udp ? POLICY_UDP : POLICY_TCP;
	policy_party_unit(p, &q.from, ask->unit ? ask->unit : "");
	policy_party_unit(p, &q.to, ask->to_unit ? ask->to_unit : "");
	q.from.uid = ask->uid;
	q.from.user = ask->user ? policy_intern(p, ask->user) : 0;
	q.to.uid = ask->to_uid;
	q.to.user = ask->to_user ? policy_intern(p, ask->to_user) : 0;
	if (ask->op != POLICY_OP_RUN && ask->address && ask->address[0])
		r = set_address(&q, ask, e);
	*ret = q;
	return r;
}

int policy_ask(const struct policy *p, const struct policy_ask *ask, struct policy_explanation *ret,
	char ret_address[ADDR_TEXT_MAX], struct error *e)
{
	struct policy_question q;
	ret_address[0] = '\0';
	int r = policy_ask_question(p, ask, &q, e);
	if (r < 0)
		return r;
	bool where = ask->address && ask->address[0];
	if (ask->op != POLICY_OP_RUN && !where) {
		policy_explain_anywhere(p, &q, ret, ret_address);
		return 0;
	}
	policy_explain(p, &q, ret);
	if (where && ask->op != POLICY_OP_RUN)
		format_where(&q, ret_address);
	return 0;
}
