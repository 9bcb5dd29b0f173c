/*
 * The compiled evaluator against a reference that reads docs/policy.md word by word: random
 * policies go through text, compiler, image and index; random questions must get the same verdict
 * from both, and the same again when the rules stand in another order.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <cmocka.h>

#include "policy/compile.h"
#include "policy/policy.h"

#define POLICIES 1500
#define QUESTIONS 200
#define RULES_MAX 12

static uint64_t state = 0x8d1f3a5b77c91e21ull;
static unsigned rnd(unsigned n)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((state >> 33) % n);
}
static bool chance(unsigned percent)
{
	return rnd(100) < percent;
}

/* The small world. Program 4 is never named by rules. */
static const char *const programs[] = {"cache", "shell", "bench", "web", "stranger"};
static const char *const groups[] = {"clients", "servers", "staff"}; /* staff: enrolled */
static const unsigned members[] = {1u << 1 | 1u << 2, 1u << 0 | 1u << 3, 0};
static const char *const users[] = {"alice", "bob", "77"}; /* uid 1, 2, 77 */
static const uint32_t uids[] = {1, 2, 77};
static const char *const nodes[] = {
	"alpha", "beta", "gamma", "self", "\"*\""}; /* alpha is this one */
enum { NODE_SELF = 3, NODE_ANY = 4 };
static const struct net {
	const char *text;
	uint8_t ip[16], len, bits;
} nets[] = {
	{"127.0.0.0/8", {127}, 4, 8},
	{"127.0.0.1", {127, 0, 0, 1}, 4, 32},
	{"10.0.0.0/31", {10}, 4, 31},
	{"0.0.0.0/0", {0}, 4, 0},
	{"\"fd00::/64\"", {0xfd}, 16, 64},
	{"\"::1\"", {[15] = 1}, 16, 128},
	{"10.0.0.0/30", {10}, 4, 30},
};
static const char *const addresses[] = {"127.0.0.1", "127.9.9.9", "10.0.0.1", "10.0.0.3", "8.8.8.8",
	"::1", "fd00::5", "fd01::5", "0.0.0.0", "::"};
static const uint16_t ranges[][2] = {{80, 80}, {443, 443}, {80, 90}, {1000, 40000}, {7, 7}};
static const uint16_t ports[] = {80, 443, 85, 2000, 7, 0, 65535};
static const char *const paths[] = {"/run/a/**", "/run/a/s", "/run/b", "/run/**"};
static const char *const sockets[] = {"/run/a/s", "/run/ab", "/run/b", "/tmp/x"};

struct party {
	unsigned programs, groups, users, nodes;
	bool star;
};
struct rule {
	char name[8];
	bool deny;
	unsigned ops; /* 1 << policy_op */
	struct party from, to;
	unsigned nets, ranges;
	int transport, unix_path, plain; /* -1: not given; transport 2: any */
	int encrypt;
	unsigned idle, connections; /* minutes */
};

static uint32_t subset(unsigned n, unsigned percent)
{
	uint32_t s = 0;
	for (unsigned i = 0; i < n; i++)
		s |= chance(percent) ? 1u << i : 0;
	return s;
}

static bool party_empty(const struct party *a)
{
	return !a->programs && !a->groups && !a->users && !a->nodes && !a->star;
}

static struct party random_party(void)
{
	struct party a = {0};
	if (chance(20))
		a.star = true;
	else if (chance(70))
		a.programs = subset(4, 40);
	if (chance(25))
		a.groups = subset(3, 50);
	if (chance(20))
		a.users = subset(3, 50);
	if (chance(35))
		a.nodes = subset(5, 30);
	/* A program outside all listed groups is an error of its own. */
	if (a.programs && a.groups && !(a.groups & 4)) {
		unsigned in = (a.groups & 1 ? members[0] : 0) | (a.groups & 2 ? members[1] : 0);
		if (!(in & a.programs))
			a.groups |= 4;
	}
	return a;
}

/* Only what the compiler accepts. */
static void random_rule(struct rule *r, unsigned i)
{
	*r = (struct rule){.transport = -1, .unix_path = -1, .plain = -1};
	snprintf(r->name, sizeof(r->name), "r%u", i);
	r->deny = chance(30);
	r->ops = chance(65) ? 1u << POLICY_OP_CONNECT : subset(4, 45) << 1;
	if (!r->ops)
		r->ops = 1u << POLICY_OP_BIND;
	if (chance(85))
		r->from = random_party();
	if (r->ops & 1u << POLICY_OP_RUN)
		return;
	bool connect = r->ops == 1u << POLICY_OP_CONNECT,
	     publish = r->ops & 1u << POLICY_OP_PUBLISH;
	if (connect && chance(15)) {
		r->unix_path = (int)rnd(4);
	} else {
		r->nets = chance(40) ? subset(7, 30) : 0;
		r->ranges = chance(40) ? subset(5, 35) : 0;
		r->transport = chance(30) ? (int)rnd(3) : -1;
	}
	if (connect && r->unix_path < 0 && chance(25))
		r->plain = r->deny ? (int)rnd(2) : 1;
	if (connect && r->plain != 1 && chance(70))
		r->to = random_party();
	if (r->deny)
		return;
	bool across = (r->from.nodes | r->to.nodes) & ~(1u << NODE_SELF);
	if (publish || r->plain == 1 || (r->ops & 1u << POLICY_OP_CONNECT && across))
		r->transport = r->transport > 0 ? -1 : r->transport;
	if (connect && r->plain != 1 && r->unix_path < 0 && r->transport < 1 && chance(30))
		r->encrypt = 1;
	if (!(r->ops & 1u << POLICY_OP_BIND)) {
		r->idle = chance(30) ? 1 + rnd(5) : 0;
		r->connections = chance(30) ? 1 + rnd(5) : 0;
	}
}

static void print_set(FILE *f, const char **sep, const char *key, const char *const *words,
	unsigned n, unsigned set)
{
	const char *comma = "";
	if (!set)
		return;
	fprintf(f, "%s%s: [", *sep, key);
	for (unsigned i = 0; i < n; i++)
		if (set & 1u << i) {
			fprintf(f, "%s%s", comma, words[i]);
			comma = ", ";
		}
	fputs("]", f);
	*sep = ", ";
}

static void print_party(FILE *f, const char *key, const struct party *a)
{
	const char *sep = "";
	if (party_empty(a))
		return;
	fprintf(f, "    %s: {", key);
	if (a->star) {
		fputs("program: \"*\"", f);
		sep = ", ";
	}
	print_set(f, &sep, "program", programs, 4, a->programs);
	print_set(f, &sep, "group", groups, 3, a->groups);
	print_set(f, &sep, "user", users, 3, a->users);
	print_set(f, &sep, "node", nodes, 5, a->nodes);
	fputs("}\n", f);
}

static void print_rule(FILE *f, const struct rule *r)
{
	static const char *const ops[] = {"", "run", "connect", "bind", "publish"};
	static const char *const transports[] = {"tcp", "udp", "any"};
	const char *sep = "    ";
	fprintf(f, "  - name: %s\n", r->name);
	print_set(f, &sep, r->deny ? "deny" : "allow", ops, 5, r->ops);
	fputs("\n", f);
	print_party(f, "from", &r->from);
	print_party(f, "to", &r->to);
	for (unsigned i = 0, n = 0; i < 7; i++)
		if (r->nets & 1u << i)
			fprintf(f, "%s%s", n++ ? ", " : "    address: [", nets[i].text);
	fputs(r->nets ? "]\n" : "", f);
	for (unsigned i = 0, n = 0; i < 5; i++)
		if (r->ranges & 1u << i)
			fprintf(f, "%s%u-%u", n++ ? ", " : "    port: [", ranges[i][0],
				ranges[i][1]);
	fputs(r->ranges ? "]\n" : "", f);
	if (r->transport >= 0)
		fprintf(f, "    transport: %s\n", transports[r->transport]);
	if (r->unix_path >= 0)
		fprintf(f, "    unix: %s\n", paths[r->unix_path]);
	if (r->plain >= 0)
		fprintf(f, "    plain: %s\n", r->plain ? "true" : "false");
	if (r->encrypt)
		fputs("    protection: encrypt\n", f);
	if (r->idle)
		fprintf(f, "    idle: %um\n", r->idle);
	if (r->connections)
		fprintf(f, "    connections: %u\n", r->connections);
}

static int uid_of(const char *user, uint32_t *ret)
{
	*ret = strcmp(user, "alice") ? 2 : 1;
	return 0;
}

struct loaded {
	void *image;
	struct policy *p;
};

static struct loaded compile(
	const struct rule *rules, const unsigned *order, unsigned n, bool run_enrolled)
{
	char *text = NULL;
	size_t len = 0, image_len = 0;
	struct loaded l = {0};
	struct policy_diagnostics d;
	struct policy_compile_options o = {.source = "random", .uid_of = uid_of};
	struct error e = ERROR_INIT;
	FILE *f = open_memstream(&text, &len);
	assert_non_null(f);
	fprintf(f, "version: 1\nrun: %s\nrules:\n", run_enrolled ? "enrolled" : "any");
	for (unsigned i = 0; i < n; i++)
		print_rule(f, &rules[order[i]]);
	fputs("groups:\n  clients: [shell, bench]\n  servers: [cache, web]\n  staff: enrolled\n",
		f);
	fclose(f);
	if (policy_compile(text, len, &o, &d, &l.image, &image_len) < 0) {
		char *why = policy_diagnostics_format(&d, "random", text, len);
		fail_msg("%s\n%s", why, text);
	}
	if (policy_image_open(l.image, image_len, &l.p, &e) < 0)
		fail_msg("%s", e.text);
	policy_diagnostics_deinit(&d);
	free(text);
	return l;
}

static void unload(struct loaded *l)
{
	policy_close(l->p);
	free(l->image);
}

/* A question in words; the evaluator's own is made from it for each compiled policy. */
struct side {
	unsigned programs, groups; /* groups given at enrolment */
	unsigned user, node;       /* indices; node 0 is self */
	bool enrolled;
};
struct asked {
	struct policy_question q;
	struct side from, to;
};

static struct side random_side(void)
{
	struct side s = {.user = rnd(3), .node = chance(70) ? 0 : rnd(3), .enrolled = chance(90)};
	if (s.enrolled || chance(50))
		s.programs = chance(80) ? 1u << rnd(5) : subset(5, 40);
	s.groups = chance(30) ? subset(3, 50) : 0;
	return s;
}

static void random_question(struct asked *a)
{
	struct policy_question *q = &a->q;
	*a = (struct asked){.from = random_side(), .to = random_side()};
	q->op = chance(65) ? POLICY_OP_CONNECT : (enum policy_op)(1 + rnd(4));
	q->transport = chance(75) ? POLICY_TCP : POLICY_UDP;
	assert_int_equal(addr_parse(addresses[rnd(10)], &q->address), 0);
	q->address.port = ports[rnd(7)];
	if (q->op != POLICY_OP_CONNECT)
		return;
	q->half = chance(25) ? POLICY_CALLER : POLICY_PAIR;
	if (chance(15)) {
		q->transport = POLICY_UNIX;
		q->unix_path = sockets[rnd(4)];
		q->unix_peer = chance(60);
	} else {
		q->plain = chance(20);
	}
}

static void bind_side(const struct policy *p, const struct side *s, struct policy_party *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (unsigned i = 0; i < 5; i++)
		if (s->programs & 1u << i)
			assert_int_equal(policy_party_program(p, ret, programs[i]), 0);
	for (unsigned i = 0; i < 3; i++)
		if (s->groups & 1u << i)
			assert_int_equal(policy_party_group(p, ret, groups[i]), 0);
	/* A name means another number elsewhere; a number is a number. */
	ret->uid = s->node == 0 || s->user == 2 ? uids[s->user] : uids[2 - s->user - 1];
	ret->user = policy_intern(p, users[s->user]);
	ret->node = policy_intern(p, nodes[s->node]);
	ret->self = s->node == 0;
	ret->enrolled = s->enrolled;
}

/* ---- the reference ---- */

static bool ref_programs(const struct party *a, const struct side *s, bool deny)
{
	unsigned in = s->groups & 4;
	for (unsigned g = 0; g < 2; g++)
		in |= s->programs & members[g] ? 1u << g : 0;
	if (!deny && !s->enrolled)
		return false;
	if (a->star && !s->enrolled)
		return false;
	if (a->programs && !(a->programs & s->programs))
		return false;
	return !a->groups || a->groups & in;
}

static bool ref_nodes(const struct party *a, const struct side *s, bool deny)
{
	if (!a->nodes)
		return deny || s->node == 0;
	return a->nodes & 1u << NODE_ANY || (a->nodes & 1u << NODE_SELF && s->node == 0) ||
	       a->nodes & 1u << s->node;
}

static bool ref_party(const struct party *a, const struct side *s, bool deny)
{
	return ref_programs(a, s, deny) && ref_nodes(a, s, deny) &&
	       (!a->users || a->users & 1u << s->user);
}

static bool ref_where(const struct rule *r, const struct policy_question *q)
{
	bool tied = r->nets || r->ranges || r->transport >= 0 || r->plain >= 0, net = !r->nets,
	     port = !r->ranges;
	if (q->transport == POLICY_UNIX) {
		if (r->unix_path < 0)
			return r->deny && !tied;
		size_t n = strlen(paths[r->unix_path]);
		bool prefix = paths[r->unix_path][n - 1] == '*';
		return prefix ? !strncmp(q->unix_path, paths[r->unix_path], n - 2)
			      : !strcmp(q->unix_path, paths[r->unix_path]);
	}
	int transport = r->transport >= 0 ? r->transport : r->deny ? 2 : 0;
	if (r->unix_path >= 0 || (transport != 2 && transport != (int)q->transport))
		return false;
	for (unsigned i = 0; i < 7; i++)
		net |= r->nets & 1u << i &&
		       addr_in(&q->address, nets[i].ip, nets[i].len, nets[i].bits);
	net |= r->deny && q->op != POLICY_OP_CONNECT && addr_is_any(&q->address);
	for (unsigned i = 0; i < 5; i++) {
		uint16_t p = q->address.port;
		port |= r->ranges & 1u << i && ranges[i][0] <= p && p <= ranges[i][1];
		port |= r->deny && q->op == POLICY_OP_BIND && !p && r->ranges & 1u << i &&
			ranges[i][1] >= 32768;
	}
	return net && port;
}

static bool ref_to(const struct rule *r, const struct asked *a)
{
	const struct policy_question *q = &a->q;
	bool unix_socket = q->transport == POLICY_UNIX;
	if (q->plain)
		return party_empty(&r->to);
	if (q->half == POLICY_CALLER) {
		bool who = r->to.programs || r->to.groups || r->to.users || r->to.star;
		return !(r->deny && who) && (unix_socket || ref_nodes(&r->to, &a->to, r->deny));
	}
	if (unix_socket && party_empty(&r->to))
		return true;
	if (unix_socket && !q->unix_peer)
		return false;
	return ref_party(&r->to, &a->to, r->deny);
}

static bool ref_applies(const struct rule *r, const struct asked *a)
{
	const struct policy_question *q = &a->q;
	if (!(r->ops & 1u << q->op))
		return false;
	if (q->op == POLICY_OP_RUN && !r->from.programs && !r->from.groups && !r->from.star)
		return ref_nodes(&r->from, &a->from, r->deny) &&
		       (!r->from.users || r->from.users & 1u << a->from.user);
	if (!ref_party(&r->from, &a->from, r->deny))
		return false;
	if (q->op == POLICY_OP_RUN)
		return true;
	if (q->op == POLICY_OP_CONNECT) {
		if (r->plain >= 0 ? r->plain != q->plain : (!r->deny && q->plain))
			return false;
		if (!ref_to(r, a))
			return false;
	}
	return ref_where(r, q);
}

struct expected {
	bool allow, encrypt;
	unsigned idle, connections, applies; /* applies: set of rules that may be named */
};

static unsigned least(unsigned a, unsigned b)
{
	return !a || (b && b < a) ? b : a;
}

static struct expected reference(
	const struct rule *rules, unsigned n, bool run_enrolled, const struct asked *a)
{
	struct expected x = {0};
	unsigned deny = 0;
	for (unsigned i = 0; i < n; i++) {
		if (!ref_applies(&rules[i], a))
			continue;
		if (rules[i].deny) {
			deny |= 1u << i;
			continue;
		}
		x.allow = true;
		x.applies |= 1u << i;
		x.encrypt |= rules[i].encrypt;
		x.idle = least(x.idle, rules[i].idle);
		x.connections = least(x.connections, rules[i].connections);
	}
	bool across = a->q.op == POLICY_OP_CONNECT && !a->q.plain &&
		      a->q.transport != POLICY_UNIX && (a->from.node || a->to.node);
	x.encrypt |= across;
	if (!x.allow && a->q.op == POLICY_OP_RUN)
		x.allow = a->from.enrolled || !run_enrolled;
	if (deny)
		return (struct expected){.applies = deny};
	return x;
}

static void compare(const struct loaded *l, const struct rule *rules, const struct asked *a,
	const struct expected *x, struct policy_verdict *v)
{
	struct policy_question q = a->q;
	bind_side(l->p, &a->from, &q.from);
	bind_side(l->p, &a->to, &q.to);
	policy_eval(l->p, &q, v);
	assert_int_equal(v->allow, x->allow);
	if (v->rule != POLICY_RULE_NONE) {
		unsigned i = 0;
		while (strcmp(rules[i].name, v->rule_name))
			i++;
		assert_true(x->applies & 1u << i);
	} else {
		assert_int_equal(x->applies, 0);
	}
	if (v->reason != POLICY_ALLOWED_RULE)
		return;
	enum policy_protection want = q.plain      ? POLICY_PLAIN
				      : x->encrypt ? POLICY_ENCRYPT
						   : POLICY_ISOLATE;
	assert_int_equal(v->protection, want);
	assert_int_equal(v->idle_ms, x->idle * 60000ull);
	assert_int_equal(v->connections, x->connections);
	assert_int_equal(v->limit_rule != POLICY_RULE_NONE, x->connections != 0);
}

static void one_policy(unsigned *allowed)
{
	struct rule rules[RULES_MAX];
	unsigned n = 1 + rnd(RULES_MAX), order[RULES_MAX];
	bool run_enrolled = chance(30);
	for (unsigned i = 0; i < n; i++) {
		random_rule(&rules[i], i);
		order[i] = i;
	}
	struct loaded a = compile(rules, order, n, run_enrolled);
	for (unsigned i = n; i > 1; i--) {
		unsigned k = rnd(i), t = order[i - 1];
		order[i - 1] = order[k];
		order[k] = t;
	}
	struct loaded b = compile(rules, order, n, run_enrolled);
	for (unsigned i = 0; i < QUESTIONS; i++) {
		struct asked q;
		struct policy_verdict va, vb;
		random_question(&q);
		struct expected x = reference(rules, n, run_enrolled, &q);
		compare(&a, rules, &q, &x, &va);
		compare(&b, rules, &q, &x, &vb);
		assert_string_equal(va.rule_name, vb.rule_name);
		assert_string_equal(
			policy_rule_name(a.p, va.limit_rule), policy_rule_name(b.p, vb.limit_rule));
		*allowed += va.allow;
	}
	unload(&a);
	unload(&b);
}

static void test_agrees(void **unused _unused_)
{
	unsigned allowed = 0;
	for (unsigned i = 0; i < POLICIES; i++)
		one_policy(&allowed);
	/* Questions that nothing allows would prove little. */
	assert_in_range(allowed, POLICIES * QUESTIONS / 20, POLICIES * QUESTIONS * 9 / 10);
}

int main(void)
{
	static const struct CMUnitTest tests[] = {cmocka_unit_test(test_agrees)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
