/* `belay node`: a domain of nodes. `init` makes one, `invite` lets one node in once, `join` is that
 * node. */
#include <getopt.h>
#include <jansson.h>
#include <string.h>

#include "cli/cli.h"
#include "ipc/ipc.h"

#define NODE_ADDRESSES_MAX 16

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
	     "                 make a domain with this node as its first; ADDR is what programs "
	     "connect to\n"
	     "  invite NAME --address ADDR…   print a one-time token for that node\n"
	     "  join TOKEN --listen IP:PORT [--data IP:PORT]\n"
	     "  list [--json]\n"
	     "  remove NAME    end its links and never accept it again");
}

/* Returns EXIT_OK, or the status to end with; -1: help was printed. */
static int node_parse(int argc, char **argv, Belay__NodeRequest *m, bool *json)
{
	static const struct option options[] = {
		{"address", required_argument, NULL, 'a'},
		{"listen", required_argument, NULL, 'l'},
		{"data", required_argument, NULL, 'D'},
		{"domain", required_argument, NULL, 't'},
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

static void print_nodes(const Belay__ControlReply *reply, bool json)
{
	static const char *const titles[] = {"NODE", "ADDRESSES", "LINK", "STATE", "SINCE", "WHY"};
	struct cli_table *t = json ? NULL : cli_table_new(ARRAY_LEN(titles), titles);
	for (size_t i = 0; i < reply->n_nodes; i++) {
		const Belay__NodeRow *n = reply->nodes[i];
		const char *state = n->self ? "this node" : n->up ? "up" : "down";
		char addresses[512] = "";
		for (size_t k = 0, len = 0; k < n->n_addresses && len < sizeof(addresses); k++)
			len += (size_t)snprintf(addresses + len, sizeof(addresses) - len, "%s%s",
				k ? "," : "", n->addresses[k]);
		if (json) {
			json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:s}", "node", n->node,
				"addresses", addresses, "link", n->link, "state", state, "since",
				n->since, "why", n->why);
			if (j)
				json_dumpf(j, stdout, JSON_COMPACT);
			putchar('\n');
			json_decref(j);
			continue;
		}
		const char *cells[] = {n->node, addresses, n->link, state, n->since, n->why};
		for (size_t k = 0; k < ARRAY_LEN(cells); k++)
			cli_table_cell(t, "%s", cells[k]);
	}
	if (t)
		cli_table_print(t);
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
	return EXIT_OK;
}
