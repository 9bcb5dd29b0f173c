/*
 * What a rule names, its edges and their neighbours, and what nobody names, as values of questions.
 */
#include "policy/diff-facts.h"

#include <stdio.h>
#include <string.h>

#define STRANGER "some-program" /* enrolled, and in no rule */

static void add(struct values *l, struct value v)
{
	if (l->n < VALUES_MAX)
		l->v[l->n++] = v;
}

static void add_text(struct values *l, const char *text)
{
	add(l, (struct value){.text = text});
}

static void add_number(struct values *l, int64_t n)
{
	add(l, (struct value){.number = n});
}

/* First, last and one between: a list's edges and its inside. */
static void add_names(struct values *l, const struct policy *p, const struct image_list *names)
{
	const uint32_t *ids = list_ids(p, names);
	for (uint32_t i = 0; i < names->count; i++)
		if (i == 0 || i == names->count / 2 || i == names->count - 1)
			add_text(l, policy_text(p, ids[i]));
}

/* Some programs of the policy's listed groups. */
static void add_members(struct values *l, const struct policy *p, const struct image_list *groups)
{
	for (uint32_t i = 0; i < p->n_names && l->n < VALUES_MAX - 2; i++) {
		const uint32_t *in = list_ids(p, &p->names[i].groups);
		for (uint32_t k = 0; k < p->names[i].groups.count; k++)
			for (uint32_t g = 0; g < groups->count; g++)
				if (in[k] == list_ids(p, groups)[g]) {
					add_text(l, policy_text(p, i));
					k = p->names[i].groups.count - 1;
					break;
				}
	}
}

static void add_users(struct values *l, const struct policy *p, const struct image_party *a)
{
	for (uint32_t i = 0; i < a->users.count && i < 3; i++) {
		const struct image_user *u = &p->users[a->users.first + i];
		add(l, (struct value){
			       .text = u->name ? policy_text(p, u->name) : NULL, .number = u->uid});
	}
}

/* Where the values of one end go. */
struct end {
	enum dimension program, node, user, group, unit;
};
static const struct end end_from = {DIM_FROM, DIM_FROM_NODE, DIM_USER, DIM_GROUP, DIM_UNIT},
			end_to = {DIM_TO, DIM_TO_NODE, DIM_TO_USER, DIM_TO_GROUP, DIM_TO_UNIT};

static void party_facts(
	const struct policy *p, const struct image_party *a, struct facts *f, const struct end *to)
{
	add_names(&f->dim[to->program], p, &a->programs);
	add_members(&f->dim[to->program], p, &a->groups);
	add_names(&f->dim[to->node], p, &a->nodes);
	add_users(&f->dim[to->user], p, a);
	add_names(&f->dim[to->unit], p, &a->units);
	for (uint32_t i = 0; i < a->groups.count; i++)
		if (p->names[list_ids(p, &a->groups)[i]].flags & IMAGE_NAME_ENROLLED)
			add_text(&f->dim[to->group], policy_text(p, list_ids(p, &a->groups)[i]));
}

/* Whoever holds the roles a party names. */
static void role_facts(
	const struct policy *p, const struct image_party *a, struct facts *f, const struct end *to)
{
	for (uint32_t i = 0; i < p->n_bindings && a->roles.count; i++) {
		const struct image_binding *b = &p->bindings[i];
		for (uint32_t k = 0; k < a->roles.count; k++)
			if (list_ids(p, &a->roles)[k] == p->roles[b->role].name)
				party_facts(p, &p->parties[b->party], f, to);
	}
}

static struct addr addr4(uint32_t ip)
{
	struct addr a = {.ip_len = 4};
	for (int i = 0; i < 4; i++)
		a.ip[i] = (uint8_t)(ip >> (24 - 8 * i));
	return a;
}

static struct addr addr6(struct image_u128 ip)
{
	struct addr a = {.ip_len = 16};
	for (int i = 0; i < 8; i++) {
		a.ip[i] = (uint8_t)(ip.hi >> (56 - 8 * i));
		a.ip[8 + i] = (uint8_t)(ip.lo >> (56 - 8 * i));
	}
	return a;
}

static void where_facts(const struct policy *p, const struct image_rule *r, struct facts *f)
{
	const struct image_where *w = &p->wheres[r->where];
	const struct image_ports *ports = list_ports(p, &r->ports);
	struct values *a = &f->dim[DIM_ADDRESS];
	for (uint32_t i = 0; i < w->ranges4.count && i < 2; i++) {
		const struct image_range4 *x = &p->ranges4[w->ranges4.first + i];
		add(a, (struct value){.address = addr4(x->first)});
		add(a, (struct value){.address = addr4(x->last)});
		add(a, (struct value){.address = addr4(x->last + 1)});
	}
	for (uint32_t i = 0; i < w->ranges6.count && i < 2; i++) {
		add(a, (struct value){.address = addr6(p->ranges6[w->ranges6.first + i].first)});
		add(a, (struct value){.address = addr6(p->ranges6[w->ranges6.first + i].last)});
	}
	for (uint32_t i = 0; i < r->ports.count && i < 2; i++) {
		add_number(&f->dim[DIM_PORT], ports[i].first);
		add_number(&f->dim[DIM_PORT], ports[i].last);
		add_number(&f->dim[DIM_PORT], (ports[i].last + 1) & 65535);
	}
	if (!w->path)
		return;
	/* Itself, and what begins like it. */
	add_text(&f->dim[DIM_PATH], policy_text(p, w->path));
	add(&f->dim[DIM_PATH], (struct value){.text = policy_text(p, w->path), .number = 1});
}

/* The instants at which the rule's times begin and end, in the week from 2024-01-01 (a Monday). */
static void time_facts(const struct policy *p, const struct image_how *h, struct facts *f)
{
	const int64_t monday = 1704067200;
	for (uint32_t i = 0; i < h->windows.count && i < 2; i++) {
		const struct image_window *w = &p->windows[h->windows.first + i];
		int64_t day = monday + 86400 * (int64_t)__builtin_ctz(w->days);
		add_number(&f->dim[DIM_TIME], policy_from_local(p, day + w->first * 60));
		add_number(&f->dim[DIM_TIME], policy_from_local(p, day + (w->last + 1) * 60));
	}
}

void rule_facts(const struct policy *p, const struct image_rule *r, struct facts *f)
{
	memset(f, 0, sizeof(*f));
	for (int op = POLICY_OP_RUN; op <= POLICY_OP_ACCEPT; op++)
		if (r->ops & IMAGE_OP(op))
			add_number(&f->dim[DIM_OP], op);
	const struct image_party *from = &p->parties[r->from], *to = &p->parties[r->to];
	party_facts(p, from, f, &end_from);
	role_facts(p, from, f, &end_from);
	party_facts(p, to, f, &end_to);
	role_facts(p, to, f, &end_to);
	where_facts(p, r, f);
	const struct image_how *h = &p->hows[r->how];
	time_facts(p, h, f);
	for (uint32_t i = 0; i < p->n_labels; i++)
		for (uint32_t k = 0; k < h->labels.count; k++)
			if (p->tags[h->labels.first + k] == p->labels[i].name)
				where_facts(p, &p->labels[i], f);
	/* What everybody may be, whatever the rule says. */
	add_text(&f->dim[DIM_FROM], STRANGER);
	add_text(&f->dim[DIM_TO], STRANGER);
	add_text(&f->dim[DIM_FROM], NULL); /* not identified */
	add_text(&f->dim[DIM_TO], NULL);   /* not known yet */
	for (int d = 0; d < _DIM_N; d++)
		if (d != DIM_FROM && d != DIM_TO && d != DIM_OP && d != DIM_PORT &&
			d != DIM_ADDRESS && d != DIM_UDP && d != DIM_PLAIN)
			add(&f->dim[d],
				(struct value){.number = d == DIM_TIME ? 1704100000 : 4242});
	add(&f->dim[DIM_ADDRESS], (struct value){.address = addr4(0x7f000001)});
	add(&f->dim[DIM_ADDRESS], (struct value){.address = addr4(0xc0000201)});
	add(&f->dim[DIM_ADDRESS], (struct value){.address = addr4(0)});
	add(&f->dim[DIM_ADDRESS], (struct value){.address = {.ip_len = 16}});
	add_number(&f->dim[DIM_PORT], 4242);
	bool udp = r->transports == IMAGE_TRANSPORT(POLICY_UDP);
	add_number(&f->dim[DIM_UDP], udp);
	add_number(&f->dim[DIM_UDP], !udp);
	add_number(&f->dim[DIM_PLAIN], r->flags & IMAGE_RULE_PLAIN ? 1 : 0);
	add_number(&f->dim[DIM_PLAIN], r->flags & IMAGE_RULE_PLAIN ? 0 : 1);
}

static void say_party(char *text, size_t size, const char *node, const char *name)
{
	snprintf(text, size, "%s%s%s", node ? node : "", node ? "/" : "", name ? name : "");
}

struct policy_ask facts_question(const struct value *v[_DIM_N], struct scratch *s)
{
	struct policy_ask q = {.op = (enum policy_op)v[DIM_OP]->number,
		.from = s->from,
		.address = s->address,
		.group = v[DIM_GROUP]->text,
		.unit = v[DIM_UNIT]->text,
		.user = v[DIM_USER]->text,
		.uid = (uint32_t)v[DIM_USER]->number,
		.to_group = v[DIM_TO_GROUP]->text,
		.to_unit = v[DIM_TO_UNIT]->text,
		.to_user = v[DIM_TO_USER]->text,
		.to_uid = (uint32_t)v[DIM_TO_USER]->number,
		.udp = v[DIM_UDP]->number,
		.now_s = v[DIM_TIME]->number};
	bool connect = q.op == POLICY_OP_CONNECT;
	struct addr a = v[DIM_ADDRESS]->address;
	a.port = (uint16_t)v[DIM_PORT]->number;
	q.plain = connect && v[DIM_PLAIN]->number && !v[DIM_PATH]->text;
	if (v[DIM_FROM]->text)
		say_party(s->from, sizeof(s->from), v[DIM_FROM_NODE]->text, v[DIM_FROM]->text);
	else
		q.from = NULL;
	say_party(s->to, sizeof(s->to), v[DIM_TO_NODE]->text, v[DIM_TO]->text);
	if (connect && v[DIM_PATH]->text)
		snprintf(s->address, sizeof(s->address), "%s%s", v[DIM_PATH]->text,
			v[DIM_PATH]->number ? "x" : "");
	else
		addr_format(&a, true, s->address);
	if (v[DIM_TO]->text && ((connect && !q.plain) || q.op == POLICY_OP_ACCEPT))
		q.to = s->to;
	return q;
}
