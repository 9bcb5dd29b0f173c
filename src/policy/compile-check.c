/*
 * What a rule means as a whole: keys that exclude each other, what this Belay could not enforce,
 * rules that never apply, and rules that a denial hides. A policy with an error is refused; it is
 * never weakened.
 */
#include "policy/compile-source.h"

#include <stdio.h>
#include <string.h>

/* Comparisons spent on looking for hidden rules; beyond it that look is given up, with a warning.
 */
#define SHADOW_BUDGET 20000000u

static const struct place *place_of(const struct yaml_node *item, const char *key)
{
	for (const struct yaml_node *k = item->first; k; k = k->next)
		if (!strcmp(k->text, key))
			return &k->place;
	return &item->place;
}

/* Could this end be on another node? */
static bool names_nodes(const struct source_party *a)
{
	return a->nodes.count || a->flags & IMAGE_PARTY_NODE_ANY;
}

static bool same_node(const struct compiler *c, const struct source_rule *s)
{
	const struct source_party *a = &s->r.from, *b = &s->r.to;
	if (!names_nodes(a) && !names_nodes(b))
		return true;
	return a->nodes.count == 1 && b->nodes.count == 1 && !a->flags && !b->flags &&
	       c->ids.v[a->nodes.first] == c->ids.v[b->nodes.first];
}

struct check {
	struct compiler *c;
	struct source_rule *s;
	const struct yaml_node *item;
	unsigned seen;
};

static void fault(struct check *k, const char *key, const char *hint, const char *text)
{
	complain(k->c, place_of(k->item, key), hint, "%s", text);
	k->s->bad = true;
}

static void check_kind(struct check *k)
{
	bool allow = k->seen & SEEN(KEY_ALLOW), deny = k->seen & SEEN(KEY_DENY);
	if (!(k->seen & SEEN(KEY_NAME)))
		fault(k, "", "begin it with `- name: SOME-NAME`", "a rule has a name");
	if (allow && deny)
		fault(k, "deny", "write two rules", "a rule either allows or denies");
	if (!allow && !deny)
		fault(k, "", "`allow: connect`, or run, bind, publish; or `deny: ...`",
			"a rule says what it allows or denies");
}

static void check_connect_only(struct check *k)
{
	static const struct {
		enum rule_key key;
		const char *name, *text;
	} keys[] = {
		{KEY_TO, "to", "`to` goes with connect and accept only"},
		{KEY_UNIX, "unix", "`unix` goes with connect only"},
		{KEY_PLAIN, "plain", "`plain` goes with connect only"},
		{KEY_PROTECTION, "protection", "`protection` goes with connect only"},
	};
	unsigned others = k->s->r.ops & (unsigned)~IMAGE_OP(POLICY_OP_CONNECT);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		bool accept = keys[i].key == KEY_TO && others == IMAGE_OP(POLICY_OP_ACCEPT);
		if (others && !accept && k->seen & SEEN(keys[i].key))
			fault(k, keys[i].name, "write a rule of its own for connect", keys[i].text);
	}
}

static void check_fifo(struct check *k)
{
	if (!(k->seen & SEEN(KEY_FIFO)))
		return;
	if (k->s->r.ops & (unsigned)~IMAGE_OP(POLICY_OP_BIND))
		fault(k, "fifo", "write a rule of its own for bind", "`fifo` goes with bind only");
	if (k->seen & (SEEN(KEY_ADDRESS) | SEEN(KEY_PORT) | SEEN(KEY_TRANSPORT) | SEEN(KEY_UNIX)))
		fault(k, "fifo", "write two rules",
			"a pipe has a path; no address, port, transport or socket");
}

static void check_run(struct check *k)
{
	static const enum rule_key keys[] = {KEY_ADDRESS, KEY_PORT, KEY_TRANSPORT, KEY_IDLE,
		KEY_CONNECTIONS, KEY_RATE, KEY_LABEL};
	static const char *const names[] = {
		"address", "port", "transport", "idle", "connections", "rate", "label"};
	const unsigned no_limits = IMAGE_OP(POLICY_OP_BIND) | IMAGE_OP(POLICY_OP_ACCEPT);
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		bool limits =
			keys[i] == KEY_IDLE || keys[i] == KEY_CONNECTIONS || keys[i] == KEY_RATE;
		if (!(k->seen & SEEN(keys[i])))
			continue;
		if (k->s->r.ops & IMAGE_OP(POLICY_OP_RUN))
			fault(k, names[i], "write a rule of its own for run",
				"to run a program has no address and no limits");
		else if (limits && k->s->r.ops & no_limits)
			fault(k, names[i], "put it on the rule for connect or publish",
				"limits are about connections: they go with connect and publish");
	}
}

static void check_deny(struct check *k)
{
	if (!(k->s->r.flags & IMAGE_RULE_DENY)) {
		if (k->s->r.flags & IMAGE_RULE_PERMISSIVE)
			fault(k, "permissive",
				"leave it out, or `permissive: [PROGRAM]` at the top",
				"only what denies can be permissive");
		return;
	}
	if (k->seen & SEEN(KEY_PROTECTION))
		fault(k, "protection", "leave it out", "what is denied has no protection");
	if (k->seen & (SEEN(KEY_IDLE) | SEEN(KEY_CONNECTIONS) | SEEN(KEY_RATE)))
		fault(k,
			k->seen & SEEN(KEY_IDLE)          ? "idle"
			: k->seen & SEEN(KEY_CONNECTIONS) ? "connections"
							  : "rate",
			"leave it out", "what is denied has no limits");
}

static void check_plain(struct check *k)
{
	bool plain = k->s->r.flags & IMAGE_RULE_PLAIN;
	if (plain && k->seen & SEEN(KEY_TO))
		fault(k, "to", "name it by `address` and `port`, or leave `plain` out",
			"a destination outside Belay (plain) has no program to name");
	if (plain && k->seen & SEEN(KEY_UNIX))
		fault(k, "unix", "leave `plain` out", "a Unix socket is never plain");
	if (k->seen & SEEN(KEY_UNIX) &&
		k->seen & (SEEN(KEY_ADDRESS) | SEEN(KEY_PORT) | SEEN(KEY_TRANSPORT)))
		fault(k, "unix", "write two rules",
			"a Unix socket has a path; no address, port or transport");
}

static void check_protection(struct check *k)
{
	const struct source_body *r = &k->s->r;
	bool udp = r->transports & IMAGE_TRANSPORT(POLICY_UDP), nodes = !same_node(k->c, k->s);
	bool connect = r->ops & IMAGE_OP(POLICY_OP_CONNECT), given = k->seen & SEEN(KEY_PROTECTION);
	if (r->flags & IMAGE_RULE_DENY)
		return;
	if (r->ops & IMAGE_OP(POLICY_OP_PUBLISH) && udp)
		fault(k, "transport", "leave it out",
			"only TCP can be published: a datagram socket has no visitors to tell "
			"apart");
	if (!connect)
		return;
	if (given && k->seen & (SEEN(KEY_UNIX)))
		fault(k, "protection", "leave it out: a Unix socket stays inside this kernel",
			"this protection is not possible on a Unix socket");
	if (given && r->flags & IMAGE_RULE_PLAIN)
		fault(k, "protection", "leave it out: plain is what the program itself sends",
			"no protection is possible towards a destination outside Belay");
	if (given && r->encrypt && udp && !nodes)
		fault(k, "protection", "`transport: tcp`",
			"datagrams are encrypted between nodes only");
	if (given && !r->encrypt && nodes)
		fault(k, "protection", "`encrypt`, or leave it out",
			"between nodes everything is encrypted; isolate is possible on one node "
			"only");
}

/* What has no channel has nothing to limit: such a rule would let more through than it says. */
static void check_limits(struct check *k)
{
	static const enum rule_key keys[] = {KEY_IDLE, KEY_CONNECTIONS, KEY_RATE};
	static const char *const names[] = {"idle", "connections", "rate"};
	const struct source_body *r = &k->s->r;
	bool connect = r->ops & IMAGE_OP(POLICY_OP_CONNECT);
	bool here = r->transports & IMAGE_TRANSPORT(POLICY_UDP) && same_node(k->c, k->s) &&
		    !(r->flags & IMAGE_RULE_PLAIN);
	if (!connect || r->flags & IMAGE_RULE_DENY || (!here && !(k->seen & SEEN(KEY_UNIX))))
		return;
	for (size_t i = 0; i < ARRAY_LEN(keys); i++)
		if (k->seen & SEEN(keys[i]))
			fault(k, names[i],
				here ? "write a rule of its own for tcp" : "leave it out",
				here ? "datagrams on one node have no connection to limit"
				     : "what goes through a Unix socket is not Belay's to limit");
}

static void check_ports(struct check *k)
{
	if (!k->s->r.ports.count)
		return;
	const struct image_ports *p = k->c->ports.v + k->s->r.ports.first;
	if (p->first == 0 && p->last == 0 && k->s->r.ops != IMAGE_OP(POLICY_OP_BIND))
		fault(k, "port", "", "port 0 means \"the kernel chooses\" and goes with bind only");
}

static void check_users(struct check *k, const struct source_party *a, const char *key)
{
	char text[160];
	for (uint32_t i = 0; i < a->users.count; i++) {
		const struct image_user *u = &k->c->users.v[a->users.first + i];
		if (u->uid != IMAGE_UID_NONE)
			continue;
		const char *name = k->c->names.list[u->name].text;
		if (!names_nodes(a)) {
			snprintf(text, sizeof(text), "there is no user `%s` on this host", name);
			fault(k, key,
				"a user's name or number; of another node's user say the `node` "
				"too",
				text);
		} else {
			warn(k->c, place_of(k->item, key),
				"processes of this node will not match it",
				"there is no user `%s` on this host", name);
		}
	}
}

/* Defaults that depend on the whole rule: an allow is read narrowly, a deny broadly. */
static void complete(struct check *k)
{
	struct source_body *r = &k->s->r;
	bool deny = r->flags & IMAGE_RULE_DENY;
	bool tied = k->seen & (SEEN(KEY_ADDRESS) | SEEN(KEY_PORT) | SEEN(KEY_PLAIN));
	if (!deny && !(r->flags & IMAGE_RULE_PLAIN))
		r->flags |= IMAGE_RULE_NOT_PLAIN;
	if (r->path)
		r->transports = IMAGE_TRANSPORT(POLICY_UNIX);
	else if (!r->transports && deny)
		r->transports = IMAGE_TRANSPORT(POLICY_TCP) | IMAGE_TRANSPORT(POLICY_UDP) |
				(tied ? 0 : IMAGE_TRANSPORT(POLICY_UNIX));
	else if (!r->transports)
		r->transports = IMAGE_TRANSPORT(POLICY_TCP);
}

/* More specific wins the honour of being named; a host counts more than a network. */
static uint32_t party_score(const struct source_party *a)
{
	uint32_t s = a->programs.count             ? 64
		     : a->groups.count             ? 48
		     : a->roles.count              ? 32
		     : a->flags & IMAGE_PARTY_STAR ? 8
						   : 0;
	s += a->units.count ? 16 : 0;
	s += a->users.count ? 16 : 0;
	return s + (a->nodes.count ? 8 : a->flags ? 4 : 0);
}

static uint32_t rule_score(const struct source_body *r)
{
	uint32_t s = party_score(&r->from) + party_score(&r->to);
	s += r->ports.count ? 16 : 0;
	s += r->ranges4.count || r->ranges6.count ? 16 : 0;
	s += r->path ? (r->prefix ? 16 : 32) : 0;
	return s + (r->labels.count ? 8 : 0) + (r->windows.count ? 4 : 0);
}

void rule_check(
	struct compiler *c, struct source_rule *s, unsigned seen, const struct yaml_node *item)
{
	struct check k = {.c = c, .s = s, .item = item, .seen = seen};
	check_kind(&k);
	if (s->r.ops) {
		check_connect_only(&k);
		check_fifo(&k);
		check_run(&k);
		check_ports(&k);
	}
	check_deny(&k);
	check_plain(&k);
	check_protection(&k);
	check_limits(&k);
	check_users(&k, &s->r.from, "from");
	check_users(&k, &s->r.to, "to");
	complete(&k);
	s->score = rule_score(&s->r);
}

static const char *kind_word(uint32_t kind)
{
	return kind == NAME_GROUP_SEEN ? "group" : kind == NAME_ROLE_SEEN ? "role" : "label";
}

static void complain_undefined(struct compiler *c, const struct name_use *u)
{
	const char **known = calloc(c->names.n, sizeof(*known));
	const char *name = c->names.list[u->name].text, *word = kind_word(u->kind);
	char hint[160];
	int n = 0;
	for (uint32_t i = 1; known && i < c->names.n && n < 1000; i++)
		if (c->names.list[i].flags & u->kind)
			known[n++] = c->names.list[i].text;
	int near = known ? nearest(name, known, n) : -1;
	if (near >= 0)
		snprintf(hint, sizeof(hint), "did you mean `%s`?", known[near]);
	else if (u->kind == NAME_GROUP_SEEN)
		snprintf(hint, sizeof(hint),
			"define it: `groups: { %.40s: [PROGRAM, ...] }`, or `enrolled`", name);
	else
		snprintf(hint, sizeof(hint), "define it under `%ss`", word);
	complain(c, &u->place, hint, "there is no %s `%s`", word, name);
	free(known);
}

/* Names of groups, roles and labels must be defined somewhere in the text. */
static void check_uses(struct compiler *c)
{
	for (uint32_t i = 0; i < c->uses.n; i++) {
		const struct name_use *u = &c->uses.v[i];
		const struct source_name *g = &c->names.list[u->name];
		if (u->kind == NAME_GROUP_SEEN && g->flags & IMAGE_NAME_LIST && !g->members)
			complain(c, &u->place, "give the group programs, or delete the rule",
				"the group `%s` is empty: this rule can never apply", g->text);
		if (g->flags & u->kind)
			continue;
		complain_undefined(c, u);
		if (u->rule < c->rules.n)
			c->rules.v[u->rule].bad = true;
	}
}

/* Programs and groups must both fit: with listed groups that none of the programs is in, nothing
 * ever does. */
static bool party_possible(const struct compiler *c, const struct source_party *a)
{
	if (!a->programs.count || !a->groups.count)
		return true;
	for (uint32_t i = 0; i < a->groups.count; i++)
		if (c->names.list[c->ids.v[a->groups.first + i]].flags & IMAGE_NAME_ENROLLED)
			return true;
	for (uint32_t i = 0; i < c->memberships.n; i++)
		if (ids_have(c, a->programs, c->memberships.v[i].program) &&
			ids_have(c, a->groups, c->memberships.v[i].group))
			return true;
	return false;
}

static void check_shadows(struct compiler *c)
{
	POOL(uint32_t) denies = {0};
	uint64_t spent = 0;
	for (uint32_t i = 0; i < c->rules.n; i++)
		if (c->rules.v[i].r.flags & IMAGE_RULE_DENY)
			pool_add(c, &denies, i);
	for (uint32_t i = 0; i < c->rules.n && spent <= SHADOW_BUDGET; i++) {
		const struct source_rule *s = &c->rules.v[i];
		if (s->r.flags & IMAGE_RULE_DENY)
			continue;
		spent += denies.n;
		for (uint32_t k = 0; k < denies.n && spent <= SHADOW_BUDGET; k++) {
			const struct source_rule *d = &c->rules.v[denies.v[k]];
			if (!rule_covers(c, &d->r, &s->r))
				continue;
			warn(c, &s->place, "delete it, or narrow the denial",
				"`%s` never allows anything: `%s` (line %u) denies all of it",
				c->rule_names.list[s->r.name].text,
				c->rule_names.list[d->r.name].text, d->place.line);
			break;
		}
	}
	if (spent > SHADOW_BUDGET)
		warn(c, &c->rules.v[0].place, "", "too many rules to look for hidden ones");
	free(denies.v);
}

void policy_check(struct compiler *c)
{
	check_uses(c);
	roles_check(c);
	for (uint32_t i = 0; i < c->rules.n; i++) {
		struct source_rule *s = &c->rules.v[i];
		if (s->bad || (party_possible(c, &s->r.from) && party_possible(c, &s->r.to)))
			continue;
		complain(c, &s->place, "program and group must both fit; delete one of them",
			"this rule can never apply: none of its programs is in its groups");
		s->bad = true;
	}
	if (!c->d->n_errors)
		check_shadows(c);
}
