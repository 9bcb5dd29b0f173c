/* `belay node`: a domain of nodes. `init` makes one, `invite` lets one node in once, `join` is that
 * node, and waits for its first link. */
#include <getopt.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "cli/cli.h"
#include "ipc/ipc.h"

#define NODE_ADDRESSES_MAX 16
#define JOIN_WAIT_MS 15000 /* for the first link */
#define JOIN_POLL_MS 50

static const struct {
	const char *word;
	Belay__NodeRequest__Verb verb;
} verbs[] = {
	{"init", BELAY__NODE_REQUEST__VERB__INIT},
	{"invite", BELAY__NODE_REQUEST__VERB__INVITE},
	{"join", BELAY__NODE_REQUEST__VERB__JOIN},
	{"list", BELAY__NODE_REQUEST__VERB__LIST},
	{"remove", BELAY__NODE_REQUEST__VERB__REMOVE},
};

static void node_help(void)
{
	puts("  init NAME --address ADDR… --listen IP:PORT [--data IP:PORT] [--domain DOMAIN]\n"
	     "       [--life 397d]\n"
	     "                 make a domain with this node as its first; ADDR is what programs "
	     "connect to;\n"
	     "                 certificates of nodes hold for --life and are renewed at two "
	     "thirds of it\n"
	     "  invite NAME --address ADDR…   print a one-time token for that node\n"
	     "  join TOKEN --listen IP:PORT [--data IP:PORT]\n"
	     "  list [--json]\n"
	     "  remove NAME    on the node of init: end its links everywhere, for good");
}

/* "30s", "12h", "90d"; 0: it is none. */
static uint64_t life_parse(const char *text)
{
	static const char units[] = "smhd";
	static const unsigned seconds[] = {1, 60, 3600, 86400};
	char *end;
	unsigned long n = text[0] >= '1' && text[0] <= '9' ? strtoul(text, &end, 10) : 0;
	const char *unit = n && n < 1000000 && end[0] && !end[1] ? strchr(units, end[0]) : NULL;
	return unit ? (uint64_t)n * seconds[unit - units] : 0;
}

/* Returns EXIT_OK, or the status to end with; -1: help was printed. */
static int node_parse(int argc, char **argv, Belay__NodeRequest *m, bool *json)
{
	static const struct option options[] = {
		{"address", required_argument, NULL, 'a'},
		{"listen", required_argument, NULL, 'l'},
		{"data", required_argument, NULL, 'D'},
		{"domain", required_argument, NULL, 't'},
		{"life", required_argument, NULL, 'L'},
		{"json", no_argument, NULL, 'j'},
		{"help", no_argument, NULL, 'h'},
		{0},
	};
	int o;
	while ((o = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		switch (o) {
		case 'a':
			if (m->n_addresses == NODE_ADDRESSES_MAX)
				return cli_fail(EXIT_USAGE, "too many --address (at most %d)",
					NODE_ADDRESSES_MAX);
			m->addresses[m->n_addresses++] = optarg;
			break;
		case 'l':
			m->listen = optarg;
			break;
		case 'D':
			m->data = optarg;
			break;
		case 't':
			m->trust_domain = optarg;
			break;
		case 'L':
			m->life_s = life_parse(optarg);
			if (!m->life_s)
				return cli_fail(EXIT_USAGE,
					"'%s' is no time certificates could hold (try --life 90d)",
					optarg);
			break;
		case 'j':
			*json = true;
			break;
		case 'h':
			node_help();
			return -1;
		default:
			return EXIT_USAGE;
		}
	}
	return EXIT_OK;
}

static const char *state_of(const Belay__NodeRow *n)
{
	return n->removed ? "removed" : n->self ? "this node" : n->up ? "up" : "down";
}

static void print_node_json(const Belay__NodeRow *n, const char *addresses)
{
	json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s,s:I}", "node", n->node, "addresses",
		addresses, "link", n->link, "state", state_of(n), "since", n->since, "why", n->why,
		"certificate_until", (json_int_t)n->not_after);
	if (j)
		json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
}

static void print_nodes(const Belay__ControlReply *reply, bool json)
{
	static const char *const titles[] = {
		"NODE", "ADDRESSES", "LINK", "STATE", "SINCE", "CERTIFICATE UNTIL", "WHY"};
	struct cli_table *t = json ? NULL : cli_table_new(ARRAY_LEN(titles), titles);
	for (size_t i = 0; i < reply->n_nodes; i++) {
		const Belay__NodeRow *n = reply->nodes[i];
		char addresses[512] = "", until[32] = "-";
		time_t at = (time_t)n->not_after;
		struct tm tm;
		for (size_t k = 0, len = 0; k < n->n_addresses && len < sizeof(addresses); k++)
			len += (size_t)snprintf(addresses + len, sizeof(addresses) - len, "%s%s",
				k ? "," : "", n->addresses[k]);
		if (json) {
			print_node_json(n, addresses);
			continue;
		}
		if (at && gmtime_r(&at, &tm))
			strftime(until, sizeof(until), "%Y-%m-%dT%H:%M:%SZ", &tm);
		const char *cells[] = {
			n->node, addresses, n->link, state_of(n), n->since, until, n->why};
		for (size_t k = 0; k < ARRAY_LEN(cells); k++)
			cli_table_cell(t, "%s", cells[k]);
	}
	if (t)
		cli_table_print(t);
}

/* Is any link up? *why: what is known of one that is not. */
static bool linked(struct cli_call *c, char why[160])
{
	Belay__NodeRequest m = BELAY__NODE_REQUEST__INIT;
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	m.verb = BELAY__NODE_REQUEST__VERB__LIST;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_NODE;
	rq.node = &m;
	if (cli_call(c, &rq, NULL, 0, &reply) != EXIT_OK)
		return false;
	for (size_t i = 0; i < reply->n_nodes; i++) {
		const Belay__NodeRow *n = reply->nodes[i];
		if (n->up && !n->self)
			return true;
		if (!n->self && !n->removed)
			snprintf(why, 160, "%s: %s", n->node, n->why);
	}
	return false;
}

/* The node is one of the domain now, whatever comes of its links. */
static int join_wait(struct cli_call *c)
{
	char why[160] = "no other node is known";
	struct timespec nap = {.tv_nsec = JOIN_POLL_MS * 1000000L};
	for (unsigned waited = 0; waited < JOIN_WAIT_MS; waited += JOIN_POLL_MS) {
		if (linked(c, why))
			return EXIT_OK;
		if (waited == 20 * JOIN_POLL_MS)
			fprintf(stderr, "belay: waiting for the first link (%s)\n", why);
		nanosleep(&nap, NULL);
	}
	return cli_fail(EXIT_REFUSED,
		"this node has joined, but no link is up after %d s: %s (try belay node list)",
		JOIN_WAIT_MS / 1000, why);
}

int cmd_node(int argc, char **argv)
{
	Belay__NodeRequest m = BELAY__NODE_REQUEST__INIT;
	char *addresses[NODE_ADDRESSES_MAX];
	bool json = false;
	size_t v = 0;
	if (argc < 2)
		return cli_usage("node", false);
	if (!strcmp(argv[1], "--help")) {
		cli_usage("node", true);
		node_help();
		return EXIT_OK;
	}
	while (v < ARRAY_LEN(verbs) && strcmp(verbs[v].word, argv[1]))
		v++;
	if (v == ARRAY_LEN(verbs))
		return cli_fail(
			EXIT_USAGE, "there is no 'belay node %s' (try belay node --help)", argv[1]);
	m.verb = verbs[v].verb;
	m.addresses = addresses;
	argc--;
	argv++;
	int r = node_parse(argc, argv, &m, &json);
	if (r)
		return r < 0 ? EXIT_OK : r;
	bool wants_word = m.verb != BELAY__NODE_REQUEST__VERB__LIST;
	if (optind != argc - (wants_word ? 1 : 0))
		return cli_usage("node", false);
	if (m.verb == BELAY__NODE_REQUEST__VERB__JOIN)
		m.token = argv[optind];
	else if (wants_word)
		m.name = argv[optind];
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_NODE;
	rq.node = &m;
	_cleanup_call_ struct cli_call c = CLI_CALL_INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	r = cli_call(&c, &rq, NULL, 0, &reply);
	if (r != EXIT_OK)
		return r;
	if (m.verb == BELAY__NODE_REQUEST__VERB__LIST)
		print_nodes(reply, json);
	else if (reply->text[0])
		printf("%s\n", reply->text);
	fflush(stdout);
	return m.verb == BELAY__NODE_REQUEST__VERB__JOIN ? join_wait(&c) : EXIT_OK;
}
