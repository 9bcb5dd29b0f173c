/* The guard's other ends, played by a test (test-play.h). */
#include "guard/test-play.h"

#include <fcntl.h>
#include <setjmp.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cmocka.h>

#include "guard/policies.h"
#include "guard/state.h"
#include "guard/tree.h"
#include "policy/compile.h"

static const char rules[] = "version: 1\n"
			    "rules:\n"
			    "  - name: listens\n"
			    "    allow: bind\n"
			    "    from: { program: server }\n"
			    "    port: 7000-7010\n"
			    "  - name: connects\n"
			    "    allow: connect\n"
			    "    from: { program: client }\n"
			    "    to: { program: server }\n"
			    "    port: 7000-7010\n"
			    "    connections: 2\n";

struct world *w;

/* ---- the other ends ---- */

int arrow_to(enum role role)
{
	int s[2];
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(arrow_open(&w->g, role, s[0]), 0);
	return s[1];
}

void turn(void)
{
	for (int i = 0; i < 4; i++)
		uv_run(&w->g.component.loop, UV_RUN_NOWAIT);
}

/* The next message at one of our ends, or NULL. */
void *next(int fd, const ProtobufCMessageDescriptor *d)
{
	uint8_t buf[IPC_MSG_MAX];
	int fds[FDS_PASS_MAX];
	size_t n = 0;
	turn();
	ssize_t len = fds_recv(fd, buf, sizeof(buf), fds, &n, MSG_DONTWAIT);
	if (len <= 0)
		return NULL;
	void *m = ipc_unpack(d, buf, (size_t)len);
	assert_non_null(m);
	const Belay__ToEnforce *e = m;
	if (d == &belay__to_enforce__descriptor &&
		e->body_case == BELAY__TO_ENFORCE__BODY_LEASE_BOOK) {
		lease_book_unmap(w->book);
		assert_int_equal(lease_book_map(fds[0], &w->book), 0);
		if (w->kept.name[0])
			close(w->kept.fd);
		w->kept = (struct heritage_kept){.name = "leases", .fd = dup(fds[0])};
	}
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
	return m;
}

void say(int fd, const void *m)
{
	assert_int_equal(ipc_send_fd(fd, m, NULL, 0), 0);
	turn();
}

/* Attests one process as asked: its program is its pid. */
bool attest_one(void)
{
	Belay__ToAttest *q = next(w->attest, &belay__to_attest__descriptor);
	if (!q)
		return false;
	uint8_t sha[32];
	memset(sha, (int)q->process->pid, sizeof(sha));
	Belay__Evidence e = BELAY__EVIDENCE__INIT;
	Belay__FromAttest m = BELAY__FROM_ATTEST__INIT;
	e.pid = q->process->pid;
	e.start_time = 1000 + e.pid;
	e.uid = getuid();
	e.exe_path = pb_text(e.pid == STRANGER ? "/tmp/stranger" : "/usr/bin/program");
	e.exe_sha256 = pb_bytes(sha, 32);
	e.exe_size = 4096;
	char *foreign[] = {pb_text("/tmp/x.so sha256:7777777777777777777777777777777777777777"
				   "777777777777777777777777")};
	e.foreign = foreign;
	e.n_foreign = w->foreign;
	m.id = q->id;
	m.evidence = &e;
	say(w->attest, &m);
	ipc_free(q);
	return true;
}

Belay__ToFabric *order(void)
{
	while (attest_one())
		;
	return next(w->fabric, &belay__to_fabric__descriptor);
}

void fabric_says(uint64_t id, int error, const char *local, uint64_t inode)
{
	struct addr a = {0};
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	if (local)
		assert_int_equal(addr_parse(local, &a), 0);
	Belay__Addr addr = pb_addr(&a);
	m.id = id;
	m.error = error;
	m.local = local ? &addr : NULL;
	m.inode = inode;
	say(w->fabric, &m);
}

/* The order that is next must be of that kind; its id. */
uint64_t expect(Belay__ToFabric__BodyCase kind)
{
	Belay__ToFabric *m = order();
	assert_non_null(m);
	assert_int_equal(m->body_case, kind);
	uint64_t id = m->id;
	ipc_free(m);
	return id;
}

void expect_nothing(void)
{
	assert_null(order());
}

/* Sets a fresh fabric up: its configuration, and a dump of what exists. */
void fabric_up(const char *const (*flows)[2], size_t n)
{
	w->fabric = arrow_to(ROLE_FABRIC);
	uint64_t config = expect(BELAY__TO_FABRIC__BODY_CONFIG);
	uint64_t dump = expect(BELAY__TO_FABRIC__BODY_DUMP);
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	Belay__FabricFlow f[8], *ptr[8];
	Belay__Addr addr[8][2];
	struct addr a[8][2];
	for (size_t i = 0; i < n; i++) {
		f[i] = (Belay__FabricFlow)BELAY__FABRIC_FLOW__INIT;
		for (int k = 0; k < 2; k++) {
			if (!flows[i][k])
				continue;
			assert_int_equal(addr_parse(flows[i][k], &a[i][k]), 0);
			addr[i][k] = pb_addr(&a[i][k]);
		}
		f[i].a = &addr[i][0];
		f[i].b = flows[i][1] ? &addr[i][1] : NULL;
		ptr[i] = &f[i];
	}
	fabric_says(config, 0, NULL, 0);
	m.id = dump;
	m.flows = ptr;
	m.n_flows = n;
	say(w->fabric, &m);
}

void ask_on(Belay__Question__Call call, uint32_t pid, const char *address, int sock)
{
	struct addr a = {0};
	Belay__Question q = BELAY__QUESTION__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	if (address)
		assert_int_equal(addr_parse(address, &a), 0);
	Belay__Addr addr = pb_addr(&a);
	int fds[] = {w->pidfd, sock};
	q.call = call;
	q.tree = w->tree;
	q.pid = pid;
	q.family = AF_INET;
	q.lease = w->lease;
	q.address = address ? &addr : NULL;
	m.id = ++w->question;
	m.body_case = BELAY__FROM_ENFORCE__BODY_QUESTION;
	m.question = &q;
	assert_int_equal(ipc_send_fd(w->enforce, &m.base, fds,
				 call == BELAY__QUESTION__CALL__CALL_EXEC ? 1 : 2),
		0);
	turn();
}

void ask(Belay__Question__Call call, uint32_t pid, const char *address)
{
	_cleanup_close_ int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ask_on(call, pid, address, sock);
}

/* The answer to the last question; 1 if there is none yet. */
int answer(void)
{
	while (attest_one())
		;
	Belay__ToEnforce *m = next(w->enforce, &belay__to_enforce__descriptor);
	if (!m)
		return NO_ANSWER;
	assert_int_equal(m->body_case, BELAY__TO_ENFORCE__BODY_ANSWER);
	assert_int_equal(m->id, w->question);
	int error = m->answer->error;
	w->leased = m->answer->lease ? *m->answer->lease : (Belay__Lease){0};
	ipc_free(m);
	return error;
}

/* ---- the world ---- */

static void enroll(const char *name, int pid)
{
	struct error e = ERROR_INIT;
	struct enrollment n = {.name = name, .path = "/usr/bin/program", .size = 4096};
	memset(n.sha256.bytes, pid, 32);
	assert_int_equal(registry_enroll(w->g.registry, &n, &e), 0);
}

void load(const char *text)
{
	struct policy_compile_options o = {.source = "test"};
	_cleanup_diagnostics_ struct policy_diagnostics d = {0};
	_cleanup_free_ void *image = NULL;
	size_t len;
	struct error e = ERROR_INIT;
	assert_int_equal(policy_compile(text, strlen(text), &o, &d, &image, &len), 0);
	_cleanup_close_ int fd = fds_memfd("policy", image, len);
	assert_int_equal(policies_load(&w->g, fd, "test", getuid(), &e), 0);
}

void guard_start(void)
{
	struct error e = ERROR_INIT;
	int s[2];
	memset(&w->g, 0, sizeof(w->g));
	w->g.facts = 1;
	assert_int_equal(uv_loop_init(&w->g.component.loop), 0);
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
	w->dispatcher = s[1];
	assert_int_equal(ipc_chan_init(&w->g.component.dispatcher, &w->g.component.loop, s[0], NULL,
				 NULL, NULL),
		0);
	w->g.component.heritage.state_dir = w->state_dir;
	w->g.component.heritage.memory = w->memory;
	w->g.component.heritage.owner_uid = getuid();
	if (w->kept.name[0]) { /* a successor's */
		w->g.component.heritage.kept = &w->kept;
		w->g.component.heritage.n_kept = 1;
	}
	if (guard_open(&w->g, &e) < 0)
		fail_msg("%s", e.text);
	w->kept.name[0] = '\0';
	w->attest = arrow_to(ROLE_ATTEST);
	w->enforce = arrow_to(ROLE_ENFORCE);
	Belay__ToEnforce *book = next(w->enforce, &belay__to_enforce__descriptor);
	assert_int_equal(book->body_case, BELAY__TO_ENFORCE__BODY_LEASE_BOOK);
	ipc_free(book);
}

/* As a kill would: nothing is told to anybody; only the memory and the directory stay. */
void guard_stop(void)
{
	guard_close(&w->g);
	ipc_chan_deinit(&w->g.component.dispatcher);
	while (uv_run(&w->g.component.loop, UV_RUN_NOWAIT))
		;
	assert_int_equal(uv_loop_close(&w->g.component.loop), 0);
	int *ends[] = {&w->attest, &w->fabric, &w->enforce, &w->dispatcher};
	for (size_t i = 0; i < ARRAY_LEN(ends); i++)
		close(take_fd(ends[i]));
}

int setup(void **state)
{
	(void)state;
	assert_true(sodium_init() >= 0);
	w = calloc(1, sizeof(*w));
	strcpy(w->dir, "/tmp/belay-guard-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->state_dir = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	w->memory = memfd_create("state", MFD_CLOEXEC);
	assert_int_equal(ftruncate(w->memory, (off_t)STATE_MEMORY_LEN), 0);
	w->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	assert_true(w->pidfd >= 0);
	guard_start();
	enroll("server", SERVER);
	enroll("client", CLIENT);
	load(rules);
	assert_int_equal(
		tree_start(&w->g, 100, getuid(), "", (const uint8_t *)"a token of a run", &w->tree),
		0);
	fabric_up(NULL, 0);
	return 0;
}

int teardown(void **state)
{
	(void)state;
	guard_stop();
	lease_book_unmap(w->book);
	if (w->kept.name[0])
		close(w->kept.fd);
	close(w->state_dir);
	close(w->memory);
	close(w->pidfd);
	char cmd[96];
	snprintf(cmd, sizeof(cmd), "rm -rf %s", w->dir);
	assert_int_equal(system(cmd), 0);
	free(w);
	return 0;
}

void listening(const char *at)
{
	ask(BELAY__QUESTION__CALL__CALL_BIND, SERVER, at);
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_BIND);
	struct addr a;
	assert_int_equal(addr_parse(at, &a), 0);
	fabric_says(id, 0, at, 0);
	assert_int_equal(answer(), 0);
	/* The test's sockets differ from question to question: listen goes by the bound name. */
	struct bind *b = bind_at(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a, false);
	assert_non_null(b);
	b->listening = true;
	assert_int_equal(bind_record(&w->g, b), 0);
}

void connected(const char *from, const char *to)
{
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, to);
	fabric_says(expect(BELAY__TO_FABRIC__BODY_CONNECT), 0, from, 77);
	assert_int_equal(answer(), 0);
}
