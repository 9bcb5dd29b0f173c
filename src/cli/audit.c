/* `belay audit`: finding the log, and its verification. Reads files only; the instance is asked
 * where they are. */
#include "cli/audit.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

#include "audit/verify.h"
#include "base/clock.h"
#include "base/fds.h"
#include "cli/cli.h"

#define PROGRESS_AFTER_MS 2000
#define PROGRESS_EVERY_MS 500

int audit_dir_open(const char *dir, int *ret_fd, char ret_key[AUDIT_KEY_TEXT_MAX])
{
	_cleanup_call_ struct cli_call call = CLI_CALL_INIT;
	_cleanup_reply_ Belay__ControlReply *reply = NULL;
	ret_key[0] = '\0';
	if (!dir) {
		Belay__AuditRequest s = BELAY__AUDIT_REQUEST__INIT;
		Belay__ControlRequest rq = BELAY__CONTROL_REQUEST__INIT;
		rq.body_case = BELAY__CONTROL_REQUEST__BODY_AUDIT;
		rq.audit = &s;
		int r = cli_call(&call, &rq, NULL, 0, &reply);
		if (r != EXIT_OK)
			return r;
		if (!reply->status || !reply->status->audit_dir[0])
			return cli_fail(
				EXIT_REFUSED, "cannot read the audit log: the instance keeps none");
		dir = reply->status->audit_dir;
		if (strlen(reply->status->audit_key) < AUDIT_KEY_TEXT_MAX)
			strcpy(ret_key, reply->status->audit_key);
	}
	*ret_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (*ret_fd < 0)
		return cli_fail(EXIT_REFUSED, "cannot read the audit log in %s: %s%s", dir,
			strerror(errno), errno == EACCES ? " (try as the instance's owner)" : "");
	return EXIT_OK;
}

struct progress {
	uint64_t start, last;
	bool shown;
};

static void on_progress(void *data, uint64_t done, uint64_t total)
{
	struct progress *p = data;
	uint64_t now = clock_mono_ms();
	if (now - p->start < PROGRESS_AFTER_MS || now - p->last < PROGRESS_EVERY_MS)
		return;
	p->last = now;
	p->shown = true;
	fprintf(stderr, "\r%" PRIu64 " of %" PRIu64 " entries", done, total > done ? total : done);
}

/* The key's text itself, or a file that holds it. */
static int key_arg(const char *arg, struct audit_key *ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len;
	if (audit_key_parse(arg, strlen(arg), ret) == 0)
		return EXIT_OK;
	int r = fds_read_file(AT_FDCWD, arg, AUDIT_KEY_TEXT_MAX, &text, &len);
	if (!r)
		r = audit_key_parse(text, len, ret);
	return r < 0 ? cli_fail(EXIT_USAGE, "cannot read the key %s: %s (try a key.pub)", arg,
			       strerror(-r))
		     : EXIT_OK;
}

static int since_arg(const char *arg, const struct audit_key *key, struct audit_checkpoint *ret)
{
	_cleanup_free_ char *note = NULL;
	size_t len;
	int r = fds_read_file(AT_FDCWD, arg, AUDIT_NOTE_MAX, &note, &len);
	if (!r)
		r = audit_note_parse(note, len, ret);
	if (r < 0)
		return cli_fail(EXIT_USAGE, "cannot read the checkpoint %s: %s", arg, strerror(-r));
	if (audit_note_verify(note, ret, key) < 0)
		return cli_fail(EXIT_REFUSED,
			"cannot use the checkpoint %s: it is not signed by this log's key", arg);
	return EXIT_OK;
}

static int verify_say(int r, const struct audit_report *rep, const struct error *e)
{
	if (r == -ENODATA)
		return cli_fail(EXIT_UNSEALED, "the audit log is not sealed: %s", e->text);
	if (r < 0)
		return cli_fail(EXIT_REFUSED, "the audit log does not verify: %s", e->text);
	printf("verified: %" PRIu64 " entries, %" PRIu64 " sealed, %" PRIu64
	       " earlier checkpoints agree\nkey:      %s\n",
		rep->entries, rep->sealed, rep->checkpoints, rep->key.name);
	if (rep->entries > rep->sealed)
		printf("unsealed: %" PRIu64 " entries after the last checkpoint (normal while the "
		       "log is written, or after a crash)\n",
			rep->entries - rep->sealed);
	if (rep->torn)
		printf("torn:     the last entry was being written when its writer stopped\n");
	return EXIT_OK;
}

int audit_verify_main(int argc, char **argv)
{
	static const struct option options[] = {{"key", required_argument, NULL, 'k'},
		{"since", required_argument, NULL, 's'}, {"sealed", no_argument, NULL, 'e'},
		{"help", no_argument, NULL, 'h'}, {0}};
	const char *key_text = NULL, *since_path = NULL;
	char live_key[AUDIT_KEY_TEXT_MAX];
	struct audit_verify_options o = {.unsealed_max = AUDIT_UNSEALED_MAX};
	struct progress p = {.start = clock_mono_ms()};
	struct audit_key key;
	struct audit_checkpoint since;
	struct audit_report rep = {0};
	struct error e = ERROR_INIT;
	optind = 0;
	for (int c; (c = getopt_long(argc, argv, "h", options, NULL)) != -1;) {
		if (c == 'k')
			key_text = optarg;
		else if (c == 's')
			since_path = optarg;
		else if (c == 'e')
			o.unsealed_max = 0;
		else
			return cli_usage("audit", c == 'h');
	}
	if (argc - optind > 1)
		return cli_usage("audit", false);
	_cleanup_close_ int dir = -1;
	int r = audit_dir_open(argv[optind], &dir, live_key);
	if (!r && !key_text && live_key[0])
		key_text = live_key;
	if (!r && key_text) {
		r = key_arg(key_text, &key);
		o.key = &key;
	}
	if (!r && since_path) {
		if (!o.key && audit_key_read(dir, &key) < 0)
			return cli_fail(EXIT_REFUSED, "the audit log does not verify: no key.pub");
		r = since_arg(since_path, &key, &since);
		o.since = &since;
	}
	if (r)
		return r;
	if (isatty(STDERR_FILENO)) {
		o.progress = on_progress;
		o.data = &p;
	}
	r = audit_verify(dir, &o, &rep, &e);
	if (p.shown)
		fputc('\n', stderr);
	return verify_say(r, &rep, &e);
}

int cmd_audit(int argc, char **argv)
{
	static const struct {
		const char *name;
		int (*main)(int argc, char **argv);
	} verbs[] = {{"verify", audit_verify_main}, {"tail", audit_tail_main},
		{"query", audit_query_main}};
	const char *verb = argc > 1 ? argv[1] : "";
	for (size_t i = 0; i < ARRAY_LEN(verbs); i++)
		if (!strcmp(verb, verbs[i].name))
			return verbs[i].main(argc - 1, argv + 1);
	return cli_usage("audit", !strcmp(verb, "--help") || !strcmp(verb, "-h"));
}
