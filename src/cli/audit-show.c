/*
 * `belay audit tail` and `query`: entries for people, or as they are (--json). They do not verify;
 * what they show came from files, so nothing a terminal would obey is let through.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "audit/reader.h"
#include "base/clock.h"
#include "cli/audit.h"
#include "cli/cli.h"

#define TAIL_DEFAULT 10
#define TAIL_MAX 100000000u
#define FOLLOW_MS 200
#define TIME_TEXT 32

struct filter {
	const char *type, *program, *verdict, *rule, *channel, *user, *mode;
	char since[TIME_TEXT], until[TIME_TEXT];
	bool json;
	bool some; /* not all entries are wanted */
};

static void print_safe(const char *s)
{
	for (; *s; s++)
		putchar((unsigned char)*s < 0x20 || *s == 0x7f ? '?' : *s);
}

static const char *text(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));
	return s ? s : "";
}

/* " shell[4242] alice alpha 10.0.0.1:5" */
static void party_print(const json_t *p)
{
	static const char *const rest[] = {"user", "node", "address", "unix"};
	const char *name = text(p, "program");
	putchar(' ');
	print_safe(*name ? name : *text(p, "path") ? text(p, "path") : "-");
	if (json_object_get(p, "pid"))
		printf("[%" JSON_INTEGER_FORMAT "]", json_integer_value(json_object_get(p, "pid")));
	for (size_t i = 0; i < ARRAY_LEN(rest); i++) {
		if (!*text(p, rest[i]))
			continue;
		putchar(' ');
		print_safe(text(p, rest[i]));
	}
}

void audit_entry_print(const json_t *o)
{
	static const char *const words[] = {"verdict", "op", "subject", "channel"};
	print_safe(text(o, "time"));
	putchar(' ');
	print_safe(text(o, "type"));
	for (size_t i = 0; i < ARRAY_LEN(words); i++) {
		if (!*text(o, words[i]))
			continue;
		putchar(' ');
		print_safe(text(o, words[i]));
	}
	if (json_object_get(o, "from"))
		party_print(json_object_get(o, "from"));
	if (json_object_get(o, "to")) {
		fputs(" ->", stdout);
		party_print(json_object_get(o, "to"));
	}
	if (*text(o, "rule")) {
		fputs("  rule ", stdout);
		print_safe(text(o, "rule"));
	}
	if (json_object_get(o, "bytes_sent"))
		printf("  sent %" JSON_INTEGER_FORMAT " received %" JSON_INTEGER_FORMAT,
			json_integer_value(json_object_get(o, "bytes_sent")),
			json_integer_value(json_object_get(o, "bytes_received")));
	if (*text(o, "reason")) {
		fputs("  ", stdout);
		print_safe(text(o, "reason"));
	}
	if (json_object_get(o, "count"))
		printf("  count %" JSON_INTEGER_FORMAT,
			json_integer_value(json_object_get(o, "count")));
	if (*text(o, "by")) {
		fputs("  by ", stdout);
		print_safe(text(o, "by"));
	}
	putchar('\n');
}

static bool is(const char *wanted, const json_t *o, const char *key)
{
	return !wanted || !strcmp(text(o, key), wanted);
}

static bool matches(const struct filter *f, const json_t *o)
{
	if (!is(f->type, o, "type") || !is(f->verdict, o, "verdict") || !is(f->rule, o, "rule") ||
		!is(f->mode, o, "mode"))
		return false;
	if (f->channel && strncmp(text(o, "channel"), f->channel, strlen(f->channel)) != 0)
		return false;
	if (f->user && !is(f->user, json_object_get(o, "from"), "user") &&
		!is(f->user, json_object_get(o, "to"), "user") && !is(f->user, o, "by"))
		return false;
	/* Times have one shape and one zone, so text compares as time. */
	if (f->since[0] && strncmp(text(o, "time"), f->since, strlen(f->since)) < 0)
		return false;
	if (f->until[0] && strncmp(text(o, "time"), f->until, strlen(f->until)) > 0)
		return false;
	return !f->program || !strcmp(text(json_object_get(o, "from"), "program"), f->program) ||
	       !strcmp(text(json_object_get(o, "to"), "program"), f->program) ||
	       !strcmp(text(o, "subject"), f->program);
}

static void show(const struct filter *f, const char *entry, size_t len)
{
	bool all = !f->some;
	json_t *o = f->json && all ? NULL : json_loadb(entry, len, 0, NULL);
	if (f->json && (all || (o && matches(f, o)))) {
		fwrite(entry, 1, len, stdout);
		putchar('\n');
	} else if (!f->json && !o) {
		puts("(an entry that is not JSON: belay audit verify)");
	} else if (!f->json && matches(f, o)) {
		audit_entry_print(o);
	}
	json_decref(o);
}

/* Shows what is there from the reader's place on. */
static int show_all(const struct filter *f, struct audit_reader *r)
{
	const char *entry;
	size_t len;
	int k;
	while ((k = audit_reader_next(r, &entry, &len)) > 0)
		show(f, entry, len);
	if (fflush(stdout) == EOF)
		return EXIT_REFUSED;
	return k < 0 ? cli_fail(EXIT_REFUSED,
			       "cannot read the audit log at entry %" PRIu64
			       ": %s (try belay audit verify)",
			       r->index, strerror(-k))
		     : EXIT_OK;
}

static int number_arg(const char *s, uint64_t *ret)
{
	char *end;
	errno = 0;
	unsigned long long v = strtoull(s, &end, 10);
	if (errno || end == s || *end || *s == '-' || v > TAIL_MAX)
		return -EINVAL;
	*ret = v;
	return 0;
}

/* "2026-01-02", "2026-01-02T03:04:05Z", or "90s", "10m", "2h", "1d" ago. */
static int since_arg(const char *s, char ret[TIME_TEXT])
{
	static const char shape[] = "dddd-dd-ddTdd:dd:dd.ddd";
	static const char units[] = "smhd";
	static const unsigned seconds[] = {1, 60, 3600, 86400};
	char *end;
	size_t n = strlen(s);
	unsigned long v = strtoul(s, &end, 10);
	const char *unit = end > s && *end && !end[1] ? strchr(units, *end) : NULL;
	if (unit && v <= TAIL_MAX) {
		time_t t = (time_t)(clock_wall_ms() / 1000) - (time_t)(v * seconds[unit - units]);
		struct tm tm;
		if (!gmtime_r(&t, &tm) || !strftime(ret, TIME_TEXT, "%Y-%m-%dT%H:%M:%S", &tm))
			return -EINVAL;
		return 0;
	}
	if (n && s[n - 1] == 'Z')
		n--;
	if (n < 4 || n >= sizeof(shape))
		return -EINVAL;
	for (size_t i = 0; i < n; i++)
		if (shape[i] == 'd' ? s[i] < '0' || s[i] > '9' : s[i] != shape[i])
			return -EINVAL;
	memcpy(ret, s, n);
	ret[n] = '\0';
	return 0;
}

/* Opens the log at the entry that is `back` before the end (UINT64_MAX: at the first). */
static int reader_open(const char *path, uint64_t back, int *dir, struct audit_reader *r)
{
	char key[AUDIT_KEY_TEXT_MAX];
	uint64_t n = 0;
	int k = audit_dir_open(path, dir, key);
	if (k)
		return k;
	k = back == UINT64_MAX ? 0 : audit_reader_count(*dir, &n);
	if (!k)
		k = audit_reader_init(r, *dir, n > back ? n - back : 0);
	return k < 0 ? cli_fail(EXIT_REFUSED,
			       "cannot read the audit log: %s (try belay audit verify)",
			       strerror(-k))
		     : EXIT_OK;
}

int audit_tail_main(int argc, char **argv)
{
	static const struct option options[] = {
		{"json", no_argument, NULL, 'j'}, {"help", no_argument, NULL, 'h'}, {0}};
	struct filter f = {0};
	struct audit_reader r = {0};
	uint64_t n = TAIL_DEFAULT;
	bool follow = false;
	_cleanup_close_ int dir = -1;
	optind = 0;
	for (int c; (c = getopt_long(argc, argv, "n:fh", options, NULL)) != -1;) {
		if (c == 'f')
			follow = true;
		else if (c == 'j')
			f.json = true;
		else if (c != 'n' || number_arg(optarg, &n) < 0)
			return cli_usage("audit", c == 'h');
	}
	if (argc - optind > 1)
		return cli_usage("audit", false);
	int k = reader_open(argv[optind], n, &dir, &r);
	if (k)
		return k;
	k = show_all(&f, &r);
	while (!k && follow) {
		nanosleep(&(struct timespec){.tv_nsec = FOLLOW_MS * 1000000L}, NULL);
		k = show_all(&f, &r);
	}
	audit_reader_deinit(&r);
	return k;
}

/* False: no such option. */
static bool text_filter(struct filter *f, int option, const char *value)
{
	const char **const places[] = {
		&f->program, &f->verdict, &f->rule, &f->channel, &f->user, &f->mode};
	static const char letters[] = "pvrcUm";
	const char *at = option ? strchr(letters, option) : NULL;
	if (!at)
		return false;
	*places[at - letters] = value;
	return true;
}

int audit_query_main(int argc, char **argv)
{
	static const struct option options[] = {{"json", no_argument, NULL, 'j'},
		{"type", required_argument, NULL, 't'}, {"program", required_argument, NULL, 'p'},
		{"since", required_argument, NULL, 's'}, {"until", required_argument, NULL, 'u'},
		{"verdict", required_argument, NULL, 'v'}, {"rule", required_argument, NULL, 'r'},
		{"channel", required_argument, NULL, 'c'}, {"user", required_argument, NULL, 'U'},
		{"mode", required_argument, NULL, 'm'}, {"help", no_argument, NULL, 'h'}, {0}};
	struct filter f = {0};
	struct audit_reader r = {0};
	_cleanup_close_ int dir = -1;
	optind = 0;
	for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		f.some |= c != 'j';
		if (c == 'j')
			f.json = true;
		else if (c == 't' && audit_type_parse(optarg) != AUDIT_NONE)
			f.type = optarg;
		else if (c == 't')
			return cli_fail(EXIT_USAGE,
				"there are no entries of type %s (docs/audit.md lists them)",
				optarg);
		else if ((c == 's' || c == 'u') &&
			 since_arg(optarg, c == 's' ? f.since : f.until) < 0)
			return cli_fail(EXIT_USAGE,
				"cannot read the time %s (try 2026-01-02T03:04 or 10m)", optarg);
		else if (!text_filter(&f, c, optarg) && c != 's' && c != 'u')
			return cli_usage("audit", c == 'h');
	}
	if (argc - optind > 1)
		return cli_usage("audit", false);
	int k = reader_open(argv[optind], UINT64_MAX, &dir, &r);
	if (!k)
		k = show_all(&f, &r);
	audit_reader_deinit(&r);
	return k;
}
