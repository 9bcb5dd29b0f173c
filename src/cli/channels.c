/* `belay channels` and `belay revoke`: what flows, and how to end it. */
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#include "base/hex.h"
#include "cli/cli.h"
#include "ipc/ipc.h"

#define CHANNEL_ID_LEN 16

static void end_text(const Belay__ChannelEndRow *e, char text[CLI_TEXT_MAX * 3])
{
	char addr[CLI_TEXT_MAX];
	if (!e) {
		snprintf(text, CLI_TEXT_MAX * 3, "-");
		return;
	}
	cli_format_addr(e->address, addr);
	if (!e->pid && !e->node[0]) {
		snprintf(text, CLI_TEXT_MAX * 3, "%.40s %s", e->program, addr);
		return;
	}
	snprintf(text, CLI_TEXT_MAX * 3, "%.40s%s%.40s (%.32s %u) %s", e->node,
		e->node[0] ? "/" : "", e->program[0] ? e->program : "?", e->user, e->pid, addr);
}

static json_t *end_json(const Belay__ChannelEndRow *e)
{
	char addr[CLI_TEXT_MAX];
	if (!e)
		return json_null();
	cli_format_addr(e->address, addr);
	return json_pack("{s:s,s:s,s:I,s:I,s:s,s:s}", "program", e->program, "user", e->user, "uid",
		(json_int_t)e->uid, "pid", (json_int_t)e->pid, "node", e->node, "address", addr);
}

static bool is_udp(const Belay__ChannelRow *r)
{
	return r->transport == BELAY__TRANSPORT__TRANSPORT_UDP;
}

static void print_channel_json(const Belay__ChannelRow *r)
{
	char id[2 * CHANNEL_ID_LEN + 1] = "";
	if (r->channel.len == CHANNEL_ID_LEN)
		hex_encode(r->channel.data, CHANNEL_ID_LEN, id);
	json_t *j = json_pack("{s:s,s:o,s:o,s:s,s:s,s:I,s:I,s:I,s:I,s:s,s:s}", "channel", id,
		"from", end_json(r->from), "to", end_json(r->to), "rule", r->rule, "protection",
		r->protection, "bytes_sent", (json_int_t)r->bytes_sent, "bytes_received",
		(json_int_t)r->bytes_received, "age_ms", (json_int_t)r->age_ms, "idle_ms",
		(json_int_t)r->idle_ms, "state", r->state, "transport", is_udp(r) ? "udp" : "tcp");
	if (j)
		json_dumpf(j, stdout, JSON_COMPACT);
	putchar('\n');
	json_decref(j);
}

static void add_channel_row(struct cli_table *t, const Belay__ChannelRow *r)
{
	char id[2 * CHANNEL_ID_LEN + 1] = "", from[CLI_TEXT_MAX * 3], to[CLI_TEXT_MAX * 3];
	char sent[CLI_TEXT_MAX], received[CLI_TEXT_MAX], age[CLI_TEXT_MAX];
	if (r->channel.len == CHANNEL_ID_LEN)
		hex_encode(r->channel.data, CHANNEL_ID_LEN, id);
	end_text(r->from, from);
	end_text(r->to, to);
	cli_format_bytes(r->bytes_sent, sent);
	cli_format_bytes(r->bytes_received, received);
	cli_format_ms(r->age_ms, age);
	cli_table_cell(t, "%.12s", id);
	cli_table_cell(t, "%s", from);
	cli_table_cell(t, "%s", to);
	cli_table_cell(t, "%s", r->rule);
	cli_table_cell(t, "%s", r->protection);
	cli_table_cell(t, "%s", sent);
	cli_table_cell(t, "%s", received);
	cli_table_cell(t, "%s", age);
	cli_table_cell(t, "%s%s", r->state, is_udp(r) ? " (udp)" : "");
}

/* ctx: the table; NULL: JSON. */
static void print_rows(void *ctx, const Belay__ControlReply *reply)
{
	for (size_t i = 0; i < reply->n_channels; i++)
		if (ctx)
			add_channel_row(ctx, reply->channels[i]);
		else
			print_channel_json(reply->channels[i]);
}

int cmd_channels(int argc, char **argv)
{
	bool json = false;
	Belay__ChannelsRequest m = BELAY__CHANNELS_REQUEST__INIT;
	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--json"))
			json = true;
		else if (!strcmp(argv[i], "--ended"))
			m.ended = true;
		else
			return cli_usage("channels", !strcmp(argv[i], "--help"));
	}
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_CHANNELS;
	rq.channels = &m;
	static const char *const titles[] = {
		"CHANNEL", "FROM", "TO", "RULE", "PROTECTION", "SENT", "RECEIVED", "AGE", "STATE"};
	struct cli_table *t = json ? NULL : cli_table_new(ARRAY_LEN(titles), titles);
	int r = cli_rows(&rq, print_rows, t);
	if (t && r == EXIT_OK)
		cli_table_print(t);
	return r;
}

/* A channel is named by its id or a beginning of it of at least 8 digits; everything else is a
 * program. */
static size_t channel_prefix(const char *text, uint8_t id[CHANNEL_ID_LEN])
{
	size_t n = strlen(text);
	if (n < 8 || n % 2 || n > 2 * CHANNEL_ID_LEN)
		return 0;
	return hex_decode(text, id, n / 2) ? 0 : n / 2;
}

int cmd_revoke(int argc, char **argv)
{
	bool undo = argc == 3 && !strcmp(argv[2], "--undo");
	if ((argc != 2 && !undo) || argv[1][0] == '-')
		return cli_usage("revoke", argc == 2 && !strcmp(argv[1], "--help"));
	Belay__RevokeRequest m = BELAY__REVOKE_REQUEST__INIT;
	uint8_t id[CHANNEL_ID_LEN];
	m.undo = undo;
	m.channel.len = channel_prefix(argv[1], id);
	m.channel.data = id;
	if (!m.channel.len)
		m.program = argv[1];
	Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
	rq.body_case = BELAY__CONTROL_REQUEST__BODY_REVOKE;
	rq.revoke = &m;
	return cli_ask(&rq, NULL, 0);
}
