/* A log of a test (test-log.h). */
#include "audit/test-log.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
/* cmocka needs the four above */
#include <cmocka.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>

#include "audit/audit.h"
#include "audit/store.h"
#include "audit/verify.h"
#include "base/clock.h"
#include "base/fds.h"
#include "base/hex.h"
#include "crypto/random.h"

char top[64];
struct secret seed;
struct audit_key key;

static int rm_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	(void)st;
	(void)flag;
	(void)f;
	return remove(path);
}

int dir_new(char path[96], const char *name)
{
	snprintf(path, 96, "%s/%s", top, name);
	(void)nftw(path, rm_one, 16, FTW_DEPTH | FTW_PHYS);
	assert_int_equal(mkdir(path, 0700), 0);
	int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(fd >= 0);
	return fd;
}

int group_setup(void **state)
{
	(void)state;
	const char *tmp = getenv("TMPDIR");
	snprintf(top, sizeof(top), "%.40s/belay-audit-XXXXXX", tmp ? tmp : "/tmp");
	if (!mkdtemp(top))
		return -1;
	random_secret(&seed);
	snprintf(key.name, sizeof(key.name), "belay.test/audit");
	return ed25519_public(&seed, key.public_key);
}

int group_teardown(void **state)
{
	(void)state;
	return nftw(top, rm_one, 16, FTW_DEPTH | FTW_PHYS);
}

struct audit_log *log_open(int dir)
{
	struct audit_log *log = NULL;
	struct error e = ERROR_INIT;
	if (audit_open(dir, &log, &e) < 0 || audit_key_set(log, key.name, key.public_key, &e) < 0)
		fail_msg("%s", e.text);
	return log;
}

int log_add(struct audit_log *log, unsigned n)
{
	char reason[40];
	struct addr a = {.ip_len = 4, .ip = {127, 0, 0, 1}, .port = 6379};
	snprintf(reason, sizeof(reason), "entry %u", n);
	return audit_record(log, &(struct audit_record){.time_ms = 1700000000000u + n,
					 .type = AUDIT_DECISION,
					 .verdict = n % 2 ? AUDIT_ALLOW : AUDIT_DENY,
					 .op = "connect",
					 .rule = "cache",
					 .reason = reason,
					 .from = {.program = "shell", .pid = n + 1, .user = "u"},
					 .to = {.program = "cache", .address = &a}});
}

/* What the signer does. */
int note_sign(uint64_t size, const uint8_t root[32], char note[AUDIT_NOTE_MAX])
{
	char text[AUDIT_NOTE_MAX];
	uint8_t sig[64];
	int n = audit_note_text(key.name, size, root, text);
	if (n < 0 || ed25519_sign(&seed, text, (size_t)n, sig) < 0)
		return -EIO;
	return audit_note_seal(text, &key, sig, note);
}

int log_seal(struct audit_log *log)
{
	uint64_t size;
	uint8_t root[32];
	char note[AUDIT_NOTE_MAX];
	int r = audit_checkpoint_root(log, &size, root);
	if (r < 0)
		return r;
	int n = note_sign(size, root, note);
	return n < 0 ? n : audit_checkpoint_put(log, note, (size_t)n);
}

void log_make(int dir, unsigned from, unsigned to, bool seal)
{
	_cleanup_audit_ struct audit_log *log = log_open(dir);
	assert_int_equal(audit_size(log), from);
	for (unsigned i = from; i < to; i++)
		assert_int_equal(log_add(log, i), 0);
	if (seal)
		assert_int_equal(log_seal(log), 0);
}

int check(int dir, struct audit_report *rep, struct error *e)
{
	static struct audit_report none;
	struct audit_verify_options o = {.unsealed_max = AUDIT_UNSEALED_MAX, .key = &key};
	return audit_verify(dir, &o, rep ? rep : &none, e);
}

void good(int dir, uint64_t entries, uint64_t sealed)
{
	struct audit_report rep;
	struct error e = ERROR_INIT;
	if (check(dir, &rep, &e) < 0)
		fail_msg("%s", e.text);
	assert_int_equal(rep.entries, entries);
	assert_int_equal(rep.sealed, sealed);
}
