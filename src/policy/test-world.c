/* Makes the small world's policies and questions, and writes the policies down. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "policy/test-world.h"

static uint64_t state = 0x8d1f3a5b77c91e21ull;
unsigned world_rnd(unsigned n)
{
	state = state * 6364136223846793005ull + 1442695040888963407ull;
	return (unsigned)((state >> 33) % n);
}
bool world_chance(unsigned percent)
{
	return world_rnd(100) < percent;
}

/* The small world. Program 4 is never named by rules. */
const char *const world_programs[5] = {"cache", "shell", "bench", "web", "stranger"};
const char *const world_groups[3] = {"clients", "servers", "staff"}; /* staff: enrolled */
const unsigned world_members[3] = {1u << 1 | 1u << 2, 1u << 0 | 1u << 3, 0};
const char *const world_users[3] = {"alice", "bob", "77"}; /* uid 1, 2, 77 */
const uint32_t world_uids[3] = {1, 2, 77};
const char *const world_nodes[5] = {
	"alpha", "beta", "gamma", "self", "\"*\""}; /* alpha is this one */
const struct net world_nets[7] = {
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
const uint16_t world_ranges[5][2] = {{80, 80}, {443, 443}, {80, 90}, {1000, 40000}, {7, 7}};
static const uint16_t ports[] = {80, 443, 85, 2000, 7, 0, 65535};
const char *const world_paths[4] = {"/run/a/**", "/run/a/s", "/run/b", "/run/**"};
static const char *const sockets[] = {"/run/a/s", "/run/ab", "/run/b", "/tmp/x"};

static const char *const roles[] = {"operator", "admin", "auditor"};
static const char *const units[] = {"db.service", "worker@.service"};
const char *const world_side_units[4] = {"", "db.service", "worker@7.service", "db@1.service"};
static const char *const labels[] = {"personal", "local"};
const struct window world_windows[4] = {
	{"\"mon-fri 08:00-18:00\"", 31, 8, 18},
	{"\"sat,sun\"", 96, 0, 24},
	{"\"22:00-06:00\"", 127, 22, 6},
	{"\"sun 20:00-02:00\"", 64, 20, 2},
};

static uint32_t subset(unsigned n, unsigned percent)
{
	uint32_t s = 0;
	for (unsigned i = 0; i < n; i++)
		s |= world_chance(percent) ? 1u << i : 0;
	return s;
}

static struct party random_party(void)
{
	struct party a = {0};
	if (world_chance(20))
		a.star = true;
	else if (world_chance(70))
		a.programs = subset(4, 40);
	if (world_chance(25))
		a.groups = subset(3, 50);
	if (world_chance(20))
		a.users = subset(3, 50);
	if (world_chance(35))
		a.nodes = subset(5, 30);
	if (world_chance(25))
		a.roles = subset(3, 40);
	if (world_chance(15))
		a.units = subset(2, 50);
	/* A program outside all listed groups is an error of its own. */
	if (a.programs && a.groups && !(a.groups & 4)) {
		unsigned in = (a.groups & 1 ? world_members[0] : 0) |
			      (a.groups & 2 ? world_members[1] : 0);
		if (!(in & a.programs))
			a.groups |= 4;
	}
	return a;
}

void random_rule(struct rule *r, unsigned i)
{
	*r = (struct rule){.transport = -1, .unix_path = -1, .plain = -1};
	snprintf(r->name, sizeof(r->name), "r%u", i);
	r->deny = world_chance(30);
	r->ops = world_chance(65) ? 1u << POLICY_OP_CONNECT : subset(4, 45) << 1;
	if (world_chance(12))
		r->ops = 1u << POLICY_OP_ACCEPT | (world_chance(50) ? 1u << POLICY_OP_CONNECT : 0);
	if (!r->ops)
		r->ops = 1u << POLICY_OP_BIND;
	if (world_chance(85))
		r->from = random_party();
	r->permissive = r->deny && world_chance(25);
	r->windows = world_chance(25) ? subset(4, 40) : 0;
	if (r->ops & 1u << POLICY_OP_RUN)
		return;
	r->labels = world_chance(20) ? 1 + world_rnd(3) : 0;
	bool accept = r->ops & 1u << POLICY_OP_ACCEPT;
	bool connect = r->ops == 1u << POLICY_OP_CONNECT,
	     publish = r->ops & 1u << POLICY_OP_PUBLISH;
	if (connect && world_chance(15)) {
		r->unix_path = (int)world_rnd(4);
	} else {
		r->nets = world_chance(40) ? subset(7, 30) : 0;
		r->ranges = world_chance(40) ? subset(5, 35) : 0;
		r->transport = world_chance(30) ? (int)world_rnd(3) : -1;
	}
	if (connect && r->unix_path < 0 && world_chance(25))
		r->plain = r->deny ? (int)world_rnd(2) : 1;
	if ((connect || accept) && r->plain != 1 && world_chance(70))
		r->to = random_party();
	if (r->deny)
		return;
	bool across = (r->from.nodes | r->to.nodes) & ~(1u << NODE_SELF);
	if (publish || r->plain == 1 || (r->ops & 1u << POLICY_OP_CONNECT && across))
		r->transport = r->transport > 0 ? -1 : r->transport;
	if (connect && r->plain != 1 && r->unix_path < 0 && r->transport < 1 && world_chance(30))
		r->encrypt = 1;
	bool here = connect && r->plain != 1 && !across && r->transport > 0;
	if (!(r->ops & 1u << POLICY_OP_BIND) && !accept && !here && r->unix_path < 0) {
		r->rate = world_chance(30) ? 1 + world_rnd(5) : 0;
		r->idle = world_chance(30) ? 1 + world_rnd(5) : 0;
		r->connections = world_chance(30) ? 1 + world_rnd(5) : 0;
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
	print_set(f, &sep, "program", world_programs, 4, a->programs);
	print_set(f, &sep, "group", world_groups, 3, a->groups);
	print_set(f, &sep, "user", world_users, 3, a->users);
	print_set(f, &sep, "node", world_nodes, 5, a->nodes);
	print_set(f, &sep, "role", roles, 3, a->roles);
	print_set(f, &sep, "unit", units, 2, a->units);
	fputs("}\n", f);
}

static void print_rule(FILE *f, const struct rule *r)
{
	static const char *const ops[] = {"", "run", "connect", "bind", "publish", "", "accept"};
	static const char *const transports[] = {"tcp", "udp", "any"};
	const char *sep = "    ";
	fprintf(f, "  - name: %s\n", r->name);
	print_set(f, &sep, r->deny ? "deny" : "allow", ops, 7, r->ops);
	fputs("\n", f);
	print_party(f, "from", &r->from);
	print_party(f, "to", &r->to);
	for (unsigned i = 0, n = 0; i < 7; i++)
		if (r->nets & 1u << i)
			fprintf(f, "%s%s", n++ ? ", " : "    address: [", world_nets[i].text);
	fputs(r->nets ? "]\n" : "", f);
	for (unsigned i = 0, n = 0; i < 5; i++)
		if (r->ranges & 1u << i)
			fprintf(f, "%s%u-%u", n++ ? ", " : "    port: [", world_ranges[i][0],
				world_ranges[i][1]);
	fputs(r->ranges ? "]\n" : "", f);
	if (r->transport >= 0)
		fprintf(f, "    transport: %s\n", transports[r->transport]);
	if (r->unix_path >= 0)
		fprintf(f, "    unix: %s\n", world_paths[r->unix_path]);
	if (r->plain >= 0)
		fprintf(f, "    plain: %s\n", r->plain ? "true" : "false");
	if (r->encrypt)
		fputs("    protection: encrypt\n", f);
	if (r->idle)
		fprintf(f, "    idle: %um\n", r->idle);
	if (r->connections)
		fprintf(f, "    connections: %u\n", r->connections);
	if (r->rate)
		fprintf(f, "    rate: %u/m\n", r->rate);
	if (r->permissive)
		fputs("    permissive: true\n", f);
	for (unsigned i = 0, n = 0; i < 4; i++)
		if (r->windows & 1u << i)
			fprintf(f, "%s%s", n++ ? ", " : "    when: [", world_windows[i].text);
	fputs(r->windows ? "]\n" : "", f);
	sep = "    ";
	print_set(f, &sep, "label", labels, 2, r->labels);
	fputs("\n", f);
}

struct head random_head(void)
{
	struct head h = {.run_enrolled = world_chance(30),
		.accept_listed = world_chance(50),
		.permissive_any = world_chance(5),
		.permissive = world_chance(15) ? 1u << world_rnd(4) : 0};
	return h;
}

static void print_head(FILE *f, const struct head *h)
{
	const char *sep = "";
	fprintf(f, "version: 1\nrun: %s\naccept: %s\n", h->run_enrolled ? "enrolled" : "any",
		h->accept_listed ? "listed" : "any");
	if (h->permissive_any)
		fputs("permissive: any", f);
	else
		print_set(f, &sep, "permissive", world_programs, 4, h->permissive);
	fputs("\nroles:\n"
	      "  operator:\n    members: { group: clients }\n"
	      "  admin:\n    members: [{ user: bob }, { program: cache, unit: db.service }]\n"
	      "    includes: operator\n"
	      "  auditor:\n    members: { program: web, node: \"*\" }\n    excludes: admin\n"
	      "labels:\n"
	      "  personal: [{ port: 80-90 }, { at: { program: cache }, port: 443 }, "
	      "{ unix: /run/a/** }]\n"
	      "  local: { address: 127.0.0.0/8, transport: tcp }\n",
		f);
}

static struct side random_side(void)
{
	struct side s = {.user = world_rnd(3),
		.node = world_chance(70) ? 0 : world_rnd(3),
		.enrolled = world_chance(90)};
	if (s.enrolled || world_chance(50))
		s.programs = world_chance(80) ? 1u << world_rnd(5) : subset(5, 40);
	s.groups = world_chance(30) ? subset(3, 50) : 0;
	s.unit = world_rnd(4);
	return s;
}

void random_question(struct asked *a)
{
	struct policy_question *q = &a->q;
	*a = (struct asked){.from = random_side(), .to = random_side()};
	q->op = world_chance(65)   ? POLICY_OP_CONNECT
		: world_chance(20) ? POLICY_OP_ACCEPT
				   : (enum policy_op)(1 + world_rnd(4));
	q->now_s = 1700000000 + (int64_t)world_rnd(14 * 24) * 3600 + world_rnd(3600);
	q->transport = world_chance(75) ? POLICY_TCP : POLICY_UDP;
	assert_int_equal(addr_parse(addresses[world_rnd(10)], &q->address), 0);
	q->address.port = ports[world_rnd(7)];
	if (q->op != POLICY_OP_CONNECT)
		return;
	q->half = world_chance(25) ? POLICY_CALLER : POLICY_PAIR;
	if (world_chance(15)) {
		q->transport = POLICY_UNIX;
		q->unix_path = sockets[world_rnd(4)];
		q->unix_peer = world_chance(60);
	} else {
		q->plain = world_chance(20);
	}
}

void print_policy(
	FILE *f, const struct head *h, const struct rule *rules, const unsigned *order, unsigned n)
{
	print_head(f, h);
	fputs("rules:\n", f);
	for (unsigned i = 0; i < n; i++)
		print_rule(f, &rules[order[i]]);
	fputs("groups:\n  clients: [shell, bench]\n  servers: [cache, web]\n  staff: enrolled\n",
		f);
}
