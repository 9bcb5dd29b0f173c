/*
 * `belay policy learn`: rules for what was refused, or permitted only to be seen; for a person to
 * review. Programs are named exactly; ports are kept, except that a port the kernel chose stands
 * for all the kernel chooses from. What was not identified gets no rule: enroll it first.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"
#include "cli/policy.h"
#include "cli/recorded.h"

#define LESSONS_MAX 10000u
#define PORT_CHOSEN_FIRST 32768u /* the kernel chooses from here on (docs/policy.md) */

struct lesson {
	enum policy_op op;
	char from[2 * POLICY_NAME_MAX], to[2 * POLICY_NAME_MAX], path[256];
	char ip[ADDR_TEXT_MAX]; /* of destinations outside */
	uint16_t port;
	bool udp, plain, chosen;
	uint64_t n;
};

struct lessons {
	struct lesson *list;
	uint32_t n, room;
	uint64_t unknown; /* by whom nobody knows */
	bool full;
};

static void usage(FILE *f)
{
	fputs("usage: belay policy learn [DIR]\n"
	      "Proposes rules for what the audit log (of the instance, or in DIR) says was refused "
	      "for want\n"
	      "of a rule, or allowed as permissive. Review them: that something was tried is no "
	      "reason to\n"
	      "allow it.\n",
		f);
}

static bool same(const struct lesson *a, const struct lesson *b)
{
	return a->op == b->op && a->udp == b->udp && a->plain == b->plain && a->port == b->port &&
	       a->chosen == b->chosen && !strcmp(a->from, b->from) && !strcmp(a->to, b->to) &&
	       !strcmp(a->path, b->path) && !strcmp(a->ip, b->ip);
}

static bool lesson_of(const struct policy_ask *q, struct lesson *ret)
{
	struct addr a;
	*ret = (struct lesson){.op = q->op, .udp = q->udp, .plain = q->plain, .n = 1};
	if (!q->from || !q->from[0])
		return false;
	snprintf(ret->from, sizeof(ret->from), "%s", q->from);
	snprintf(ret->to, sizeof(ret->to), "%s", q->to && !q->plain ? q->to : "");
	if (!q->address || q->op == POLICY_OP_RUN)
		return true;
	if (q->address[0] == '/') {
		snprintf(ret->path, sizeof(ret->path), "%s", q->address);
		return true;
	}
	if (addr_parse(q->address, &a) < 0)
		return true;
	ret->chosen = q->op == POLICY_OP_BIND && (!a.port || a.port >= PORT_CHOSEN_FIRST);
	ret->port = ret->chosen ? 0 : a.port;
	bool outside = !addr_is_loopback(&a) && !addr_is_any(&a) && !ret->to[0] &&
		       q->op == POLICY_OP_CONNECT;
	ret->plain |= outside;
	if (ret->plain)
		addr_format(&a, false, ret->ip);
	return true;
}

static int learn(const struct recorded *r, void *data)
{
	struct lessons *l = data;
	struct lesson x;
	if (r->allowed && !r->permissive)
		return 0;
	if (!lesson_of(&r->ask, &x)) {
		l->unknown++;
		return 0;
	}
	for (uint32_t i = 0; i < l->n; i++)
		if (same(&l->list[i], &x)) {
			l->list[i].n++;
			return 0;
		}
	if (l->n == LESSONS_MAX) {
		l->full = true;
		return 0;
	}
	if (l->n == l->room) {
		uint32_t room = l->room ? l->room * 2 : 64;
		void *v = reallocarray(l->list, room, sizeof(*l->list));
		if (!v)
			return -1;
		l->list = v;
		l->room = room;
	}
	l->list[l->n++] = x;
	return 0;
}

/* "NODE/PROGRAM" as a party. */
static void print_party(const char *key, const char *name)
{
	const char *slash = strchr(name, '/');
	if (slash)
		printf("    %s: { program: \"%s\", node: \"%.*s\" }\n", key, slash + 1,
			(int)(slash - name), name);
	else
		printf("    %s: { program: \"%s\" }\n", key, name);
}

static void print_lesson(const struct lesson *x, uint32_t i)
{
	printf("  - name: learnt-%u # seen %" PRIu64 " time%s\n    allow: %s\n", i + 1, x->n,
		x->n == 1 ? "" : "s", policy_op_name(x->op));
	print_party("from", x->from);
	if (x->to[0])
		print_party("to", x->to);
	else if (x->op == POLICY_OP_CONNECT && !x->path[0] && !x->plain)
		printf("    to: { program: \"*\" } # nobody was there: say whom it may reach\n");
	if (x->path[0])
		printf("    unix: \"%s\"\n", x->path);
	if (x->plain)
		printf("    plain: true\n    address: \"%s\"\n", x->ip);
	if (x->chosen)
		printf("    port: [0, %u-65535] # the kernel chooses\n", PORT_CHOSEN_FIRST);
	else if (x->port)
		printf("    port: %u\n", x->port);
	if (x->udp)
		puts("    transport: udp");
}

int policy_learn_main(int argc, char **argv)
{
	if (argc > 2 || (argc == 2 && argv[1][0] == '-')) {
		bool help = argc == 2 && !strcmp(argv[1], "--help");
		usage(help ? stdout : stderr);
		return help ? EXIT_OK : EXIT_USAGE;
	}
	struct lessons l = {0};
	int r = recorded_each(argc == 2 ? argv[1] : NULL, learn, &l);
	if (r == EXIT_OK) {
		puts("# Proposed from the audit log; review each before it goes into a policy.");
		puts("version: 1\nrules:");
		for (uint32_t i = 0; i < l.n; i++)
			print_lesson(&l.list[i], i);
		if (l.unknown)
			printf("# %" PRIu64
			       " refusals were of programs that are not enrolled: belay why, belay "
			       "enroll\n",
				l.unknown);
		if (l.full)
			printf("# more than %u kinds were seen: load what is right of these and "
			       "learn "
			       "again\n",
				LESSONS_MAX);
	}
	free(l.list);
	return r;
}
