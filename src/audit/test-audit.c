/*
 * The log against everything that may happen to it: each flipped byte, lost tails, reordering,
 * missing files, a writer killed at any instant, a full disk; and against known answers of RFC 6962
 * and inclusion proofs read from the tiles.
 */
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
#include "audit/test-log.h"
#include "audit/verify.h"
#include "base/clock.h"
#include "base/fds.h"
#include "base/hex.h"
#include "crypto/random.h"

#define FILES_MAX 64
#define KILLS 200
/* Verifying reads a whole log: one that only grows makes the test slow. */
#define KILLS_PER_LOG 25

/* ---- the tree ---- */

static void test_rfc6962(void **state)
{
	(void)state;
	/* The reference implementations' eight leaves and the roots of 0 to 8 of them. */
	static const char *const leaves[] = {"", "00", "10", "2021", "3031", "40414243",
		"5051525354555657", "606162636465666768696a6b6c6d6e6f"};
	static const char *const roots[] = {
		"e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
		"6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
		"fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
		"aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
		"d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
		"4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
		"76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
		"ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
		"5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328"};
	static struct tree t;
	tree_init(&t);
	for (size_t i = 0; i <= ARRAY_LEN(leaves); i++) {
		uint8_t want[32], got[32], b[32], h[32];
		assert_int_equal(hex_decode(roots[i], want, 32), 0);
		tree_root(&t, got);
		assert_memory_equal(got, want, 32);
		if (i == ARRAY_LEN(leaves))
			break;
		size_t n = strlen(leaves[i]) / 2;
		assert_int_equal(hex_decode(leaves[i], b, n), 0);
		tree_leaf_hash(b, n, h);
		tree_append(&t, h);
	}
}

static void test_paths(void **state)
{
	(void)state;
	char p[STORE_PATH_MAX];
	store_tile_path(0, 1234067, 0, p);
	assert_string_equal(p, "tile/0/x001/x234/067");
	store_tile_path(3, 7, 12, p);
	assert_string_equal(p, "tile/3/007.p/12");
	store_tile_path(STORE_ENTRIES, 1000, 0, p);
	assert_string_equal(p, "tile/entries/x001/000");
}

/* Hash of the subtree of `level8` rows and `k` more doublings above, number j: from the tiles
 * alone. */
static void tile_hash(int dir, unsigned k, uint64_t j, uint64_t size, uint8_t ret[32])
{
	unsigned l = k / 8, up = k % 8;
	uint64_t first = j << up, tile = first / TREE_TILE, nodes = size >> (8 * l);
	unsigned w = tile == nodes / TREE_TILE ? (unsigned)(nodes % TREE_TILE) : 0;
	char p[STORE_PATH_MAX];
	_cleanup_free_ char *buf = NULL;
	size_t len;
	store_tile_path((int)l, tile, w, p);
	assert_int_equal(fds_read_file(dir, p, STORE_TILE_LEN, &buf, &len), 0);
	assert_true((first % TREE_TILE + (1u << up)) * 32 <= len);
	tree_perfect_root((const uint8_t(*)[32])buf + first % TREE_TILE, 1u << up, ret);
}

/* Root of leaves [lo, hi) of RFC 6962, from the tiles. */
static void range_hash(int dir, uint64_t lo, uint64_t hi, uint64_t size, uint8_t ret[32])
{
	uint64_t n = hi - lo;
	unsigned k = 63 - (unsigned)__builtin_clzll(n);
	if (n == (uint64_t)1 << k) {
		tile_hash(dir, k, lo >> k, size, ret);
		return;
	}
	uint8_t l[32], r[32];
	range_hash(dir, lo, lo + ((uint64_t)1 << k), size, l);
	range_hash(dir, lo + ((uint64_t)1 << k), hi, size, r);
	tree_node_hash(l, r, ret);
}

/* The inclusion path of leaf m among [lo, hi), lowest first. */
static size_t path_make(
	int dir, uint64_t m, uint64_t lo, uint64_t hi, uint64_t size, uint8_t (*path)[32])
{
	if (hi - lo == 1)
		return 0;
	uint64_t k = (uint64_t)1 << (63 - __builtin_clzll(hi - lo - 1));
	bool left = m < lo + k;
	size_t n = left ? path_make(dir, m, lo, lo + k, size, path)
			: path_make(dir, m, lo + k, hi, size, path);
	range_hash(dir, left ? lo + k : lo, left ? hi : lo + k, size, path[n]);
	return n + 1;
}

static void test_inclusion(void **state)
{
	(void)state;
	char path[96];
	_cleanup_close_ int dir = dir_new(path, "inclusion");
	log_make(dir, 0, 1000, true);
	good(dir, 1000, 1000);
	struct audit_report rep;
	assert_int_equal(check(dir, &rep, NULL), 0);
	for (uint64_t i = 0; i < 1000; i++) {
		uint8_t leaf[32], proof[64][32], root[32];
		tile_hash(dir, 0, i, 1000, leaf);
		size_t n = path_make(dir, i, 0, 1000, 1000, proof);
		assert_int_equal(
			tree_inclusion_root(i, 1000, leaf, (const uint8_t(*)[32])proof, n, root),
			0);
		assert_memory_equal(root, rep.root, 32);
		leaf[0] ^= 1;
		(void)tree_inclusion_root(i, 1000, leaf, (const uint8_t(*)[32])proof, n, root);
		assert_memory_not_equal(root, rep.root, 32);
	}
}

/* ---- entries and notes ---- */

static void test_record(void **state)
{
	(void)state;
	char b[AUDIT_ENTRY_MAX];
	static char nasty[400];
	memset(nasty, 0x01, sizeof(nasty) - 1);
	struct audit_record r = {.time_ms = 1700000000123u,
		.type = AUDIT_DECISION,
		.verdict = AUDIT_DENY,
		.rule = "a\"b\\c\n\xff\xc3\xa4",
		.from = {.program = "p", .pid = 7, .uid = 0}};
	int n = audit_record_write(&r, b, sizeof(b));
	assert_true(n > 0);
	assert_string_equal(b,
		"{\"time\":\"2023-11-14T22:13:20.123Z\",\"type\":\"decision\",\"verdict\":\"deny\","
		"\"rule\":\"a\\\"b\\\\x5cc\\u000a\\\\xff\xc3\xa4\",\"from\":{\"program\":\"p\","
		"\"uid\":0,\"pid\":7}}");
	assert_int_equal(audit_record_check(b, (size_t)n), 0);
	/* All texts at their worst still fit, and still are one JSON line. */
	uint8_t d[32] = {0};
	struct addr a = {.ip_len = 16, .port = 65535};
	struct audit_party worst = {
		nasty, nasty, d, nasty, UINT32_MAX, UINT32_MAX, nasty, &a, nasty};
	r = (struct audit_record){.type = AUDIT_TAMPER,
		.op = nasty,
		.transport = nasty,
		.protection = nasty,
		.rule = nasty,
		.reason = nasty,
		.channel = d,
		.from = worst,
		.to = worst,
		.subject = nasty,
		.sha256 = d,
		.by = nasty,
		.has_bytes = true,
		.bytes_sent = UINT64_MAX,
		.bytes_received = UINT64_MAX,
		.count = UINT64_MAX};
	n = audit_record_write(&r, b, sizeof(b));
	assert_true(n > 0);
	assert_int_equal(audit_record_check(b, (size_t)n), 0);
	assert_null(memchr(b, '\n', (size_t)n));
	assert_int_equal(audit_record_write(&r, b, 100), -EMSGSIZE);
	assert_int_equal(audit_record_check("{}", 2), -EBADMSG);
	assert_int_equal(audit_record_check("[", 1), -EBADMSG);
}

static void test_note(void **state)
{
	(void)state;
	uint8_t root[32];
	char note[AUDIT_NOTE_MAX], text[AUDIT_KEY_TEXT_MAX];
	struct audit_checkpoint c;
	struct audit_key k;
	memset(root, 7, sizeof(root));
	int n = note_sign(42, root, note);
	assert_true(n > 0);
	assert_int_equal(audit_note_parse(note, (size_t)n, &c), 0);
	assert_int_equal(audit_note_verify(note, &c, &key), 0);
	assert_int_equal(c.size, 42);
	/* Every flipped bit and every cut is noticed. */
	for (int i = 0; i < 8 * n; i++) {
		note[i / 8] ^= (char)(1 << i % 8);
		assert_true(audit_note_parse(note, (size_t)n, &c) < 0 ||
			    audit_note_verify(note, &c, &key) < 0);
		note[i / 8] ^= (char)(1 << i % 8);
		assert_true(audit_note_parse(note, (size_t)i / 8, &c) < 0);
	}
	assert_int_equal(audit_key_format(&key, text), 0);
	assert_int_equal(audit_key_parse(text, strlen(text), &k), 0);
	assert_memory_equal(k.public_key, key.public_key, 32);
	text[strlen(text) - 1] ^= 1;
	assert_int_equal(audit_key_parse(text, strlen(text), &k), -EBADMSG);
}

/* ---- tampering ---- */

struct files {
	char name[FILES_MAX][96];
	size_t n;
};
static struct files *walk_out;

static int walk_one(const char *path, const struct stat *st, int flag, struct FTW *f)
{
	(void)st;
	(void)f;
	if (flag == FTW_F && walk_out->n < FILES_MAX)
		snprintf(walk_out->name[walk_out->n++], 96, "%s", path);
	return 0;
}

static void files_list(const char *path, struct files *f)
{
	f->n = 0;
	walk_out = f;
	assert_int_equal(nftw(path, walk_one, 16, FTW_PHYS), 0);
	assert_true(f->n > 0 && f->n < FILES_MAX);
}

/* A log with a full bundle, a partial one, three checkpoints: every byte of every file counts. */
static void test_every_byte(void **state)
{
	(void)state;
	char path[96];
	static struct files f;
	_cleanup_close_ int dir = dir_new(path, "bytes");
	log_make(dir, 0, 5, true);
	good(dir, 5, 5);
	files_list(path, &f);
	for (int round = 0; round < 2; round++) {
		for (size_t i = 0; i < f.n; i++) {
			int fd = open(f.name[i], O_RDWR);
			struct stat st;
			assert_int_equal(fstat(fd, &st), 0);
			/* All bytes of the small log, a sample of the large one's. */
			for (off_t o = 0; o < st.st_size; o += round ? 1 + st.st_size / 9 : 1) {
				uint8_t was, now;
				assert_int_equal(pread(fd, &was, 1, o), 1);
				for (int bit = 0; bit < 8; bit += round ? 1 : 3) {
					now = (uint8_t)(was ^ 1u << bit);
					assert_int_equal(pwrite(fd, &now, 1, o), 1);
					if (!check(dir, NULL, NULL))
						fail_msg("byte %ld of %s, bit %d", (long)o,
							f.name[i], bit);
				}
				assert_int_equal(pwrite(fd, &was, 1, o), 1);
			}
			close(fd);
		}
		if (!round) {
			log_make(dir, 5, 300, true);
			log_make(dir, 300, 520, true);
			files_list(path, &f);
		}
		good(dir, 520, 520);
	}
	/* Cut each file by a byte, then take it away. */
	for (size_t i = 0; i < f.n; i++) {
		char aside[128];
		_cleanup_free_ char *was = NULL;
		size_t len;
		snprintf(aside, sizeof(aside), "%s/aside", top);
		assert_int_equal(fds_read_file(AT_FDCWD, f.name[i], 1 << 24, &was, &len), 0);
		assert_int_equal(truncate(f.name[i], (off_t)len - 1), 0);
		/* A history that lost its last newline is what a killed writer leaves; nothing is
		 * lost by it. */
		if (!check(dir, NULL, NULL) && !strstr(f.name[i], "checkpoints"))
			fail_msg("cut %s", f.name[i]);
		assert_int_equal(rename(f.name[i], aside), 0);
		if (!check(dir, NULL, NULL))
			fail_msg("without %s", f.name[i]);
		int fd = open(f.name[i], O_WRONLY | O_CREAT | O_TRUNC, 0600);
		assert_int_equal(fds_write_all(fd, was, len), 0);
		close(fd);
	}
	good(dir, 520, 520);
}

static void test_reorder(void **state)
{
	(void)state;
	char path[96], p[STORE_PATH_MAX];
	_cleanup_close_ int dir = dir_new(path, "reorder");
	_cleanup_free_ char *b = NULL;
	size_t len, off = 0, n0, n1;
	const uint8_t *e0, *e1;
	log_make(dir, 0, 4, true);
	/* Two entries of one length change places in every file that holds them. */
	for (int i = 0; i < 2; i++) {
		store_live_path(0, p);
		if (i)
			store_tile_path(STORE_ENTRIES, 0, 4, p);
		free(take_ptr(b));
		off = 0;
		assert_int_equal(fds_read_file(dir, p, 1 << 20, &b, &len), 0);
		assert_int_equal(store_entry_next((uint8_t *)b, len, &off, &e0, &n0), 1);
		assert_int_equal(store_entry_next((uint8_t *)b, len, &off, &e0, &n0), 1);
		assert_int_equal(store_entry_next((uint8_t *)b, len, &off, &e1, &n1), 1);
		assert_int_equal(store_entry_next((uint8_t *)b, len, &off, &e1, &n1), 1);
		assert_int_equal(n0, n1);
		char *x = (char *)e0, *y = (char *)e1;
		for (size_t k = 0; k < n0; k++) {
			char t = x[k];
			x[k] = y[k];
			y[k] = t;
		}
		assert_int_equal(store_put(dir, p, b, len), 0);
	}
	assert_int_equal(check(dir, NULL, NULL), -EUCLEAN);
	struct audit_log *log = NULL;
	assert_int_equal(audit_open(dir, &log, NULL), -EUCLEAN);
}

/* A shorter log, signed again with the right key: the history of checkpoints tells. */
static void test_signed_again(void **state)
{
	(void)state;
	char path[96], shorter[96];
	_cleanup_close_ int dir = dir_new(path, "again"), cut = dir_new(shorter, "shorter");
	struct audit_report rep;
	log_make(dir, 0, 300, true);
	log_make(dir, 300, 600, true);
	assert_int_equal(check(dir, &rep, NULL), 0);
	struct audit_checkpoint since = {.size = rep.sealed};
	memcpy(since.root, rep.root, sizeof(since.root));
	log_make(cut, 0, 350, true);
	good(cut, 350, 350);
	_cleanup_free_ char *history = NULL;
	size_t len;
	assert_int_equal(fds_read_file(dir, "checkpoints", 1 << 20, &history, &len), 0);
	/* Kept by an outsider: a later size than the log has. */
	struct audit_verify_options o = {.since = &since, .unsealed_max = 0};
	assert_int_equal(audit_verify(cut, &o, &rep, NULL), -EUCLEAN);
	assert_int_equal(audit_verify(dir, &o, &rep, NULL), 0);
	since.root[0] ^= 1;
	assert_int_equal(audit_verify(dir, &o, &rep, NULL), -EUCLEAN);
	/* Kept in the directory. */
	assert_int_equal(store_put(cut, "checkpoints", history, len), 0);
	assert_int_equal(check(cut, NULL, NULL), -EUCLEAN);
}

static void test_unsealed(void **state)
{
	(void)state;
	char path[96];
	_cleanup_close_ int dir = dir_new(path, "unsealed");
	struct audit_report rep;
	log_make(dir, 0, 10, false);
	assert_int_equal(check(dir, NULL, NULL), -ENODATA);
	log_make(dir, 10, 300, true);
	log_make(dir, 300, 310, false);
	good(dir, 310, 300);
	struct audit_verify_options o = {.unsealed_max = 9};
	assert_int_equal(audit_verify(dir, &o, &rep, NULL), -ENODATA);
	/* A torn last entry: said, and cut off by the next writer. */
	int fd = openat(dir, "live.1", O_WRONLY | O_APPEND);
	assert_int_equal(write(fd, "\x01\x00{", 3), 3);
	close(fd);
	assert_int_equal(check(dir, &rep, NULL), 0);
	assert_true(rep.torn);
	log_make(dir, 310, 311, true);
	good(dir, 311, 311);
	/* Two writers never. */
	_cleanup_audit_ struct audit_log *log = log_open(dir), *second = NULL;
	assert_int_equal(audit_open(dir, &second, NULL), -EBUSY);
	uint8_t other[32] = {1};
	assert_int_equal(audit_key_set(log, key.name, other, NULL), -EKEYREJECTED);
	assert_int_equal(audit_checkpoint_wait_ms(log, clock_mono_ms()), UINT64_MAX);
	assert_int_equal(log_add(log, 1), 0);
	assert_true(audit_checkpoint_wait_ms(log, clock_mono_ms()) <= AUDIT_SEAL_MS);
	assert_int_equal(audit_checkpoint_wait_ms(log, clock_mono_ms() + AUDIT_SEAL_MS), 0);
}

/* ---- kill -9 ---- */

static _Noreturn void writer(int dir, int go)
{
	struct audit_log *log = NULL;
	struct error e = ERROR_INIT;
	if (audit_open(dir, &log, &e) < 0 || audit_key_set(log, key.name, key.public_key, &e) < 0 ||
		write(go, "g", 1) != 1) {
		fprintf(stderr, "# %s\n", e.text);
		_exit(3);
	}
	for (unsigned i = 0;; i++) {
		if (log_add(log, i) < 0 || (i % 23 == 22 && log_seal(log) < 0))
			_exit(4);
	}
}

/* Kills a writer at a moment of its life that is drawn. Return: as check(). */
static int kill_one(int dir, struct audit_report *rep, struct error *e)
{
	int go[2], st;
	char c;
	uint32_t us;
	assert_int_equal(pipe(go), 0);
	pid_t pid = fork();
	if (!pid)
		writer(dir, go[1]);
	close(go[1]);
	assert_int_equal(read(go[0], &c, 1), 1);
	close(go[0]);
	random_bytes(&us, sizeof(us));
	nanosleep(&(struct timespec){.tv_nsec = (long)(us % 3000) * 1000}, NULL);
	kill(pid, SIGKILL);
	assert_int_equal(waitpid(pid, &st, 0), pid);
	assert_true(WIFSIGNALED(st));
	return check(dir, rep, e);
}

static void test_killed(void **state)
{
	(void)state;
	char path[96];
	uint64_t last = 0, entries = 0, torn = 0, max_unsealed = 0;
	_cleanup_close_ int dir = -1;
	for (int i = 0; i < KILLS; i++) {
		struct audit_report rep;
		struct error e = ERROR_INIT;
		if (i % KILLS_PER_LOG == 0) {
			if (dir >= 0)
				close(dir);
			dir = dir_new(path, "killed");
			entries += last;
			last = 0;
		}
		int r = kill_one(dir, &rep, &e);
		if (r == -ENODATA && !rep.sealed)
			continue; /* killed before its first checkpoint */
		if (r < 0)
			fail_msg("kill %d: %s", i, e.text);
		assert_true(rep.entries >= last && rep.sealed <= rep.entries);
		last = rep.entries;
		torn += rep.torn;
		if (rep.entries - rep.sealed > max_unsealed)
			max_unsealed = rep.entries - rep.sealed;
	}
	entries += last;
	print_message("# %llu entries, %llu torn, at most %llu unsealed\n",
		(unsigned long long)entries, (unsigned long long)torn,
		(unsigned long long)max_unsealed);
	assert_true(entries > 1000);
}

/* While a writer is at work, verification never cries wolf. */
static void test_live(void **state)
{
	(void)state;
	char path[96], c;
	int go[2], st;
	_cleanup_close_ int dir = dir_new(path, "alive");
	assert_int_equal(pipe(go), 0);
	pid_t pid = fork();
	if (!pid)
		writer(dir, go[1]);
	close(go[1]);
	assert_int_equal(read(go[0], &c, 1), 1);
	close(go[0]);
	nanosleep(&(struct timespec){.tv_nsec = 30000000}, NULL);
	kill(pid, SIGSTOP); /* in the middle of whatever it did */
	struct error e = ERROR_INIT;
	int r = check(dir, NULL, &e);
	kill(pid, SIGCONT);
	for (int i = 0; !r && i < 10; i++) {
		r = check(dir, NULL, &e);
		if (r == -EBUSY) /* an unpaced writer may outrun us; that is not an accusation */
			r = 0;
	}
	kill(pid, SIGKILL);
	waitpid(pid, &st, 0);
	if (r < 0)
		fail_msg("%s", e.text);
}

/* ---- a full disk ---- */

static void test_full_disk(void **state)
{
	(void)state;
	char path[96];
	int at = dir_new(path, "full");
	close(at);
	if (geteuid() != 0 || mount("tmpfs", path, "tmpfs", 0, "size=256k,nr_inodes=64") < 0) {
		printf("# needs root, to mount a small disk\n");
		skip();
	}
	_cleanup_close_ int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	struct audit_log *log = log_open(dir);
	int r = 0, failures = 0;
	unsigned n = 0;
	for (unsigned tries = 0; tries < 3000; tries++) {
		r = log_add(log, n);
		if (!r)
			n++;
		else if (r == -ENOSPC)
			failures++;
		else
			break;
		if (tries % 50 == 0) {
			int s = log_seal(log);
			assert_true(!s || s == -ENOSPC);
		}
	}
	assert_true(r == 0 || r == -ENOSPC);
	assert_true(failures > 0);
	assert_int_equal(audit_size(log), n);
	struct error e = ERROR_INIT;
	if (check(dir, NULL, &e) < 0)
		fail_msg("%s", e.text);
	/* Room again: it goes on where it was, also in a new process. */
	assert_int_equal(mount("tmpfs", path, "tmpfs", MS_REMOUNT, "size=8m,nr_inodes=1000"), 0);
	assert_int_equal(log_add(log, n++), 0);
	log = audit_close(log);
	log_make(dir, n, n + 600, true);
	good(dir, n + 600, n + 600);
	close(take_fd(&dir));
	assert_int_equal(umount(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_rfc6962),
		cmocka_unit_test(test_paths),
		cmocka_unit_test(test_record),
		cmocka_unit_test(test_note),
		cmocka_unit_test(test_inclusion),
		cmocka_unit_test(test_every_byte),
		cmocka_unit_test(test_reorder),
		cmocka_unit_test(test_signed_again),
		cmocka_unit_test(test_unsealed),
		cmocka_unit_test(test_killed),
		cmocka_unit_test(test_live),
		cmocka_unit_test(test_full_disk),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, group_setup, group_teardown);
}
