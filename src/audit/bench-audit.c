/* Entries a second that one writer appends, with checkpoints as the guard makes them. Argument: a
 * directory. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "audit/audit.h"
#include "audit/note.h"
#include "base/clock.h"

#define ENTRIES 200000u

static int seal(struct audit_log *log, const struct audit_key *key, const struct secret *seed)
{
	uint64_t size;
	uint8_t root[AUDIT_ROOT_LEN], sig[ED25519_SIGNATURE_LEN];
	char text[AUDIT_NOTE_MAX], note[AUDIT_NOTE_MAX];
	int n = audit_checkpoint_root(log, &size, root);
	if (!n)
		n = audit_note_text(key->name, size, root, text);
	if (n > 0)
		n = ed25519_sign(seed, text, (size_t)n, sig);
	if (!n)
		n = audit_note_seal(text, key, sig, note);
	return n < 0 ? n : audit_checkpoint_put(log, note, (size_t)n);
}

int main(int argc, char **argv)
{
	struct error e = ERROR_INIT;
	struct secret seed = {{1}};
	struct audit_key key = {.name = "belay.bench/audit"};
	struct addr a = {.ip_len = 4, .ip = {127, 0, 0, 1}, .port = 6379};
	struct audit_log *log = NULL;
	int dir = open(argc > 1 ? argv[1] : ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (dir < 0 || ed25519_public(&seed, key.public_key) < 0 || audit_open(dir, &log, &e) < 0 ||
		audit_key_set(log, key.name, key.public_key, &e) < 0) {
		fprintf(stderr, "cannot open the log: %s\n", e.text);
		return 1;
	}
	struct audit_record r = {.type = AUDIT_DECISION,
		.verdict = AUDIT_ALLOW,
		.op = "connect",
		.transport = "tcp",
		.rule = "shell-to-cache",
		.from = {.program = "shell",
			.path = "/usr/bin/redis-cli",
			.sha256 = key.public_key,
			.user = "alice",
			.uid = 1000,
			.pid = 4242},
		.to = {.program = "cache", .user = "redis", .uid = 101, .pid = 777, .address = &a}};
	uint64_t start = clock_ns(CLOCK_MONOTONIC), worst = 0;
	unsigned checkpoints = 0;
	int bad = 0;
	for (unsigned i = 0; i < ENTRIES && !bad; i++) {
		uint64_t t = clock_ns(CLOCK_MONOTONIC);
		r.from.pid = i + 1;
		bad = audit_record(log, &r);
		t = clock_ns(CLOCK_MONOTONIC) - t;
		worst = t > worst ? t : worst;
		if (i % 20000 == 19999) {
			bad |= seal(log, &key, &seed);
			checkpoints++;
		}
	}
	double s = (double)(clock_ns(CLOCK_MONOTONIC) - start) / 1e9;
	printf("%u entries, %u checkpoints: %.0f entries/s, slowest append %.0f us\n", ENTRIES,
		checkpoints, ENTRIES / s, (double)worst / 1000);
	audit_close(log);
	return bad != 0;
}
