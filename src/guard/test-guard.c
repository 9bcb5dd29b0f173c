/*
 * The guard in a world of its own: attest, fabric and enforce are this test, at the other ends of
 * the arrows. Each scenario asks enforce's questions and plays the others' answers.
 */
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

#include "attest.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/judge.h"
#include "guard/pb.h"
#include "guard/policies.h"
#include "guard/refusals.h"
#include "guard/state.h"
#include "guard/tree.h"
#include "policy/compile.h"
#include "registry/registry.h"

enum { SERVER = 101, CLIENT = 102, STRANGER = 103 };

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

struct world {
	struct guard g;
	char dir[64];
	int state_dir, memory, pidfd, attest, fabric, enforce, dispatcher;
	uint64_t question, tree, inode;
	bool foreign; /* whoever is attested has mapped what nobody enrolled */
};

static struct world *w;

/* ---- the other ends ---- */

static int arrow_to(enum role role)
{
	int s[2];
	assert_int_equal(
		socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, s), 0);
	assert_int_equal(arrow_open(&w->g, role, s[0]), 0);
	return s[1];
}

static void turn(void)
{
	for (int i = 0; i < 4; i++)
		uv_run(&w->g.component.loop, UV_RUN_NOWAIT);
}

/* The next message at one of our ends, or NULL. */
static void *next(int fd, const ProtobufCMessageDescriptor *d)
{
	uint8_t buf[IPC_MSG_MAX];
	int fds[FDS_PASS_MAX];
	size_t n = 0;
	turn();
	ssize_t len = fds_recv(fd, buf, sizeof(buf), fds, &n, MSG_DONTWAIT);
	if (len <= 0)
		return NULL;
	for (size_t i = 0; i < n; i++)
		close(fds[i]);
	void *m = ipc_unpack(d, buf, (size_t)len);
	assert_non_null(m);
	return m;
}

static void say(int fd, const void *m)
{
	assert_int_equal(ipc_send_fd(fd, m, NULL, 0), 0);
	turn();
}

/* Attests one process as asked: its program is its pid. */
static bool attest_one(void)
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

static Belay__ToFabric *order(void)
{
	while (attest_one())
		;
	return next(w->fabric, &belay__to_fabric__descriptor);
}

static void fabric_says(uint64_t id, int error, const char *local, uint64_t inode)
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
static uint64_t expect(Belay__ToFabric__BodyCase kind)
{
	Belay__ToFabric *m = order();
	assert_non_null(m);
	assert_int_equal(m->body_case, kind);
	uint64_t id = m->id;
	ipc_free(m);
	return id;
}

static void expect_nothing(void)
{
	assert_null(order());
}

/* Sets a fresh fabric up: its configuration, and a dump of what exists. */
static void fabric_up(const char *const (*flows)[2], size_t n)
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

static void ask_on(Belay__Question__Call call, uint32_t pid, const char *address, int sock)
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
	q.address = address ? &addr : NULL;
	m.id = ++w->question;
	m.body_case = BELAY__FROM_ENFORCE__BODY_QUESTION;
	m.question = &q;
	assert_int_equal(ipc_send_fd(w->enforce, &m.base, fds,
				 call == BELAY__QUESTION__CALL__CALL_EXEC ? 1 : 2),
		0);
	turn();
}

static void ask(Belay__Question__Call call, uint32_t pid, const char *address)
{
	_cleanup_close_ int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ask_on(call, pid, address, sock);
}

/* The answer to the last question; 1 if there is none yet. */
static int answer(void)
{
	while (attest_one())
		;
	Belay__ToEnforce *m = next(w->enforce, &belay__to_enforce__descriptor);
	if (!m)
		return 1;
	assert_int_equal(m->body_case, BELAY__TO_ENFORCE__BODY_ANSWER);
	assert_int_equal(m->id, w->question);
	int error = m->answer->error;
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

static void load(const char *text)
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

static void guard_start(void)
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
	if (guard_open(&w->g, &e) < 0)
		fail_msg("%s", e.text);
	w->attest = arrow_to(ROLE_ATTEST);
	w->enforce = arrow_to(ROLE_ENFORCE);
}

/* As a kill would: nothing is told to anybody; only the memory and the directory stay. */
static void guard_stop(void)
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

static int setup(void **state)
{
	(void)state;
	assert_true(sodium_init() >= 0);
	w = calloc(1, sizeof(*w));
	strcpy(w->dir, "/tmp/belay-guard-XXXXXX");
	assert_non_null(mkdtemp(w->dir));
	w->state_dir = open(w->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	w->memory = memfd_create("state", MFD_CLOEXEC);
	assert_int_equal(ftruncate(w->memory, (off_t)STATE_RECORDS_MAX * STATE_RECORD_LEN), 0);
	w->pidfd = (int)syscall(SYS_pidfd_open, getpid(), 0);
	assert_true(w->pidfd >= 0);
	guard_start();
	enroll("server", SERVER);
	enroll("client", CLIENT);
	load(rules);
	assert_int_equal(tree_start(&w->g, 100, getuid(), "", &w->tree), 0);
	fabric_up(NULL, 0);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	guard_stop();
	close(w->state_dir);
	close(w->memory);
	close(w->pidfd);
	char cmd[96];
	snprintf(cmd, sizeof(cmd), "rm -rf %s", w->dir);
	assert_int_equal(system(cmd), 0);
	free(w);
	return 0;
}

static void listening(const char *at)
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

static void connected(const char *from, const char *to)
{
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, to);
	fabric_says(expect(BELAY__TO_FABRIC__BODY_CONNECT), 0, from, 77);
	assert_int_equal(answer(), 0);
}

/* ---- scenarios ---- */

static void test_a_connection_from_question_to_end(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	assert_int_equal(channels_count(&w->g), 1);
	struct channel *c = channel_first(&w->g);
	assert_string_equal(c->rule, "connects");
	assert_string_equal(subject_name(c->from), "client");
	assert_string_equal(subject_name(c->to), "server");
	/* The fabric says it is gone. */
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	Belay__FabricClosed closed = BELAY__FABRIC_CLOSED__INIT;
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	Belay__Addr a = pb_addr(&c->a), b = pb_addr(&c->b);
	f.a = &a;
	f.b = &b;
	f.bytes_a_to_b = 5;
	closed.flow = &f;
	m.closed = &closed;
	say(w->fabric, &m);
	assert_int_equal(channels_count(&w->g), 0);
	assert_int_equal(channel_ended_get(&w->g, 0)->copy.bytes_ab, 5);
}

static void test_who_is_refused_and_how(void **state)
{
	(void)state;
	/* Nobody listens: refused by the kernel's word where policy could allow it, else by ours.
	 */
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7001");
	assert_int_equal(answer(), -ECONNREFUSED);
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, STRANGER, "127.0.0.1:7001");
	assert_int_equal(answer(), -EACCES);
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:8001");
	assert_int_equal(answer(), -EACCES);
	ask(BELAY__QUESTION__CALL__CALL_BIND, CLIENT, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	ask(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "10.9.9.9:7000");
	assert_int_equal(answer(), -EADDRNOTAVAIL);
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "192.0.2.1:7000");
	assert_int_equal(answer(), -EACCES);
	listening("127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, STRANGER, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	expect_nothing();
	size_t i = 0;
	const struct refusal *r = refusals_get(&w->g, &i, STRANGER, NULL);
	assert_non_null(r);
	assert_non_null(strstr(r->text, "127.0.0.1:7000"));
}

static void test_the_rules_limit_of_connections(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	connected("127.0.0.1:40001", "127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	expect_nothing();
}

static void test_connections_on_their_way_count(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_CONNECT);
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	fabric_says(id, -ECONNREFUSED, NULL, 0);
	assert_int_equal(answer(), -ECONNREFUSED);
	/* Its place is free again. */
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	id = expect(BELAY__TO_FABRIC__BODY_CONNECT);
	fabric_says(id, -ECONNREFUSED, NULL, 0);
	assert_int_equal(answer(), -ECONNREFUSED);
	expect_nothing();
}

static void test_revocation_ends_what_is_open(void **state)
{
	(void)state;
	struct error e = ERROR_INIT;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	assert_int_equal(registry_revoke(w->g.registry, REVOKED_PROGRAM, "client", "", &e), 0);
	judge_all(&w->g, "revoked");
	expect(BELAY__TO_FABRIC__BODY_REVOKE);
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_DESTROY);
	fabric_says(id, 0, NULL, 0);
	assert_int_equal(channels_count(&w->g), 0);
	assert_string_equal(channel_ended_get(&w->g, 0)->reason, "revoked");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	assert_int_equal(answer(), -EACCES);
	expect_nothing();
}

static void test_a_policy_that_takes_the_listeners_right_ends_it(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	load("version: 1\nrules: []\n");
	Belay__ToFabric *m;
	int destroyed = 0;
	while ((m = order())) {
		destroyed += m->body_case == BELAY__TO_FABRIC__BODY_DESTROY;
		fabric_says(m->id, 0, NULL, 0);
		ipc_free(m);
	}
	assert_int_equal(destroyed, 2);
	assert_int_equal(channels_count(&w->g), 0);
	struct addr a;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void test_a_lost_fabric_fails_closed_and_comes_back(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	expect(BELAY__TO_FABRIC__BODY_CONNECT);
	close(w->fabric);
	assert_int_equal(answer(), -EACCES);
	/* What the dead one connected without our knowing is destroyed; what we know stays. */
	const char *const flows[][2] = {{"127.0.0.1:7000", NULL},
		{"127.0.0.1:40000", "127.0.0.1:7000"}, {"127.0.0.1:40001", "127.0.0.1:7000"},
		{"127.0.0.1:7009", NULL}};
	fabric_up(flows, 4);
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
	expect(BELAY__TO_FABRIC__BODY_DESTROY);
	expect_nothing();
	assert_int_equal(channels_count(&w->g), 1);
	connected("127.0.0.1:40002", "127.0.0.1:7000");
}

static void test_a_lost_attest_is_asked_again(void **state)
{
	(void)state;
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7001");
	close(w->attest);
	turn();
	assert_null(next(w->enforce, &belay__to_enforce__descriptor));
	w->attest = arrow_to(ROLE_ATTEST);
	assert_int_equal(answer(), -ECONNREFUSED);
}

static void test_a_successor_takes_over(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	connected("127.0.0.1:40001", "127.0.0.1:7000");
	guard_stop();
	guard_start();
	assert_true(tree_known(&w->g, w->tree));
	assert_int_equal(channels_count(&w->g), 2);
	/* Before the fabric has spoken nothing is answered. */
	w->question = 0;
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, STRANGER, "127.0.0.1:7000");
	assert_null(next(w->enforce, &belay__to_enforce__descriptor));
	const char *const flows[][2] = {
		{"127.0.0.1:7000", NULL}, {"127.0.0.1:40001", "127.0.0.1:7000"}};
	fabric_up(flows, 2);
	assert_int_equal(answer(), -EACCES);
	assert_int_equal(channels_count(&w->g), 1);
	assert_string_equal(channel_ended_get(&w->g, 0)->reason, "lost");
	/* The listener restored: its principal is still its own. */
	connected("127.0.0.1:40002", "127.0.0.1:7000");
	assert_string_equal(subject_name(channel_next(channel_first(&w->g))->to), "server");
}

/* Answers every order there is; how many ended sockets. */
static int orders_done(void)
{
	int destroyed = 0;
	for (Belay__ToFabric *m; (m = order());) {
		destroyed += m->body_case == BELAY__TO_FABRIC__BODY_DESTROY;
		fabric_says(m->id, 0, NULL, 0);
		ipc_free(m);
	}
	return destroyed;
}

static void test_a_listener_that_ends_while_its_order_is_out(void **state)
{
	(void)state;
	_cleanup_close_ int sock = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct addr a;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	ask_on(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "127.0.0.1:7000", sock);
	fabric_says(expect(BELAY__TO_FABRIC__BODY_BIND), 0, "127.0.0.1:7000", 0);
	assert_int_equal(answer(), 0);
	ask_on(BELAY__QUESTION__CALL__CALL_LISTEN, SERVER, NULL, sock);
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_LISTEN);
	load("version: 1\nrules: []\n");
	fabric_says(id, 0, "127.0.0.1:7000", 0);
	assert_int_equal(orders_done(), 1);
	assert_int_equal(answer(), -EACCES);
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void test_a_bind_is_judged_by_the_policy_in_force_when_it_is_done(void **state)
{
	(void)state;
	struct addr a;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	ask(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "127.0.0.1:7000");
	uint64_t id = expect(BELAY__TO_FABRIC__BODY_BIND);
	load("version: 1\nrules: []\n");
	fabric_says(id, 0, "127.0.0.1:7000", 0);
	orders_done();
	assert_int_equal(answer(), -EACCES);
	assert_null(bind_at(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a, false));
}

static void test_a_listener_that_was_replaced_is_not_reached(void **state)
{
	(void)state;
	struct addr a;
	listening("127.0.0.1:7000");
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	w->g.facts++; /* no lease holds */
	ask(BELAY__QUESTION__CALL__CALL_CONNECT, CLIENT, "127.0.0.1:7000");
	assert_true(attest_one()); /* the client; the listener is attested next, and meanwhile: */
	struct bind *b = bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a);
	b->inode++;
	assert_int_equal(answer(), -ECONNREFUSED);
	expect_nothing();
}

static void test_a_name_that_is_used_again_is_a_new_channel(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	uint8_t first[CHANNEL_ID_LEN];
	memcpy(first, channel_first(&w->g)->id, sizeof(first));
	/* The kernel gave the port again before the news of the first one's end got here. */
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	assert_int_equal(channels_count(&w->g), 1);
	struct channel *c = channel_first(&w->g);
	assert_memory_not_equal(c->id, first, sizeof(first));
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	Belay__FabricClosed closed = BELAY__FABRIC_CLOSED__INIT;
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	struct addr from = c->a, to = c->b;
	Belay__Addr a = pb_addr(&from), b = pb_addr(&to);
	f.a = &a;
	f.b = &b;
	closed.flow = &f;
	m.closed = &closed;
	say(w->fabric, &m); /* of the first */
	assert_int_equal(channels_count(&w->g), 1);
	say(w->fabric, &m);
	assert_int_equal(channels_count(&w->g), 0);
}

static void test_a_successor_remembers_the_libraries(void **state)
{
	(void)state;
	struct addr a;
	struct error e = ERROR_INIT;
	struct enrollment lib = {
		.name = "lib", .path = "/tmp/x.so", .size = 4096, .flags = PROGRAM_LIBRARY};
	memset(lib.sha256.bytes, 0x77, 32);
	assert_int_equal(registry_enroll(w->g.registry, &lib, &e), 0);
	w->foreign = true;
	listening("127.0.0.1:7000");
	w->foreign = false;
	guard_stop();
	guard_start();
	const char *const flows[][2] = {{"127.0.0.1:7000", NULL}};
	fabric_up(flows, 1);
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	assert_non_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
	judge_all(&w->g, "registry");
	assert_non_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
	assert_int_equal(registry_unenroll(w->g.registry, "lib", NULL, &e), 0);
	judge_all(&w->g, "registry");
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void closes(Belay__Transport transport, const char *at)
{
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	Belay__FabricClosed closed = BELAY__FABRIC_CLOSED__INIT;
	Belay__FabricFlow f = BELAY__FABRIC_FLOW__INIT;
	struct addr addr;
	assert_int_equal(addr_parse(at, &addr), 0);
	Belay__Addr a = pb_addr(&addr);
	f.a = &a;
	f.transport = closed.transport = transport;
	closed.flow = &f;
	closed.listener = true;
	m.closed = &closed;
	say(w->fabric, &m);
}

static void test_the_end_of_a_bound_socket_ends_its_entry_alone(void **state)
{
	(void)state;
	struct addr a, b;
	assert_int_equal(addr_parse("127.0.0.1:7000", &a), 0);
	assert_int_equal(addr_parse("127.0.0.1:7001", &b), 0);
	listening("127.0.0.1:7000");
	/* A datagram socket of the same name is not the listener. */
	closes(BELAY__TRANSPORT__TRANSPORT_UDP, "127.0.0.1:7000");
	assert_non_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
	/* One that never listened has an entry, too. The kernel tells no inode at the end. */
	ask(BELAY__QUESTION__CALL__CALL_BIND, SERVER, "127.0.0.1:7001");
	fabric_says(expect(BELAY__TO_FABRIC__BODY_BIND), 0, "127.0.0.1:7001", 5);
	assert_int_equal(answer(), 0);
	closes(BELAY__TRANSPORT__TRANSPORT_TCP, "127.0.0.1:7001");
	assert_null(bind_at(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &b, false));
	closes(BELAY__TRANSPORT__TRANSPORT_TCP, "127.0.0.1:7000");
	assert_null(bind_find(&w->g, BELAY__TRANSPORT__TRANSPORT_TCP, &a));
}

static void test_lost_news_are_made_good_by_a_dump(void **state)
{
	(void)state;
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	connected("127.0.0.1:40001", "127.0.0.1:7000");
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.overrun = true;
	say(w->fabric, &m);
	say(w->fabric, &m); /* while the first dump is still to come */
	assert_true(arrow_up(&w->g, ROLE_FABRIC));
	for (int i = 0; i < 2; i++) {
		uint64_t id = expect(BELAY__TO_FABRIC__BODY_DUMP);
		expect_nothing();
		Belay__FabricFlow f[2] = {BELAY__FABRIC_FLOW__INIT, BELAY__FABRIC_FLOW__INIT};
		Belay__FabricFlow *flows[] = {&f[0], &f[1]};
		struct addr from, to;
		assert_int_equal(addr_parse("127.0.0.1:40001", &from), 0);
		assert_int_equal(addr_parse("127.0.0.1:7000", &to), 0);
		Belay__Addr a = pb_addr(&from), b = pb_addr(&to);
		f[0].a = &b;
		f[1].a = &a;
		f[1].b = &b;
		m = (Belay__FromFabric)BELAY__FROM_FABRIC__INIT;
		m.id = id;
		m.flows = flows;
		m.n_flows = 2;
		say(w->fabric, &m);
		assert_int_equal(channels_count(&w->g), 1);
	}
	expect_nothing();
	assert_int_equal(channel_first(&w->g)->a.port, 40001);
}

static void test_an_image_that_inherits_is_held_to_its_own_rule(void **state)
{
	(void)state;
	static const char text[] = "version: 1\nrules:\n"
				   "  - name: a\n"
				   "    allow: bind\n"
				   "    from: { program: [server, client] }\n"
				   "  - name: b\n"
				   "    allow: connect\n"
				   "    from: { program: client }\n"
				   "    port: 7000\n"
				   "  - name: c\n"
				   "    allow: connect\n"
				   "    from: { program: server }\n"
				   "    port: 7000\n"
				   "    protection: encrypt\n";
	load(text);
	listening("127.0.0.1:7000");
	connected("127.0.0.1:40000", "127.0.0.1:7000");
	struct channel *c = channel_first(&w->g);
	Belay__Question q = BELAY__QUESTION__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	Belay__Inherited i = BELAY__INHERITED__INIT, *list[] = {&i};
	Belay__Addr a = pb_addr(&c->a), b = pb_addr(&c->b);
	i.local = &a;
	i.remote = &b;
	q.call = BELAY__QUESTION__CALL__CALL_EXEC;
	q.tree = w->tree;
	q.pid = SERVER;
	q.n_inherited = 1;
	q.inherited = list;
	m.id = ++w->question;
	m.body_case = BELAY__FROM_ENFORCE__BODY_QUESTION;
	m.question = &q;
	assert_int_equal(ipc_send_fd(w->enforce, &m.base, &w->pidfd, 1), 0);
	turn();
	assert_int_equal(orders_done(), 1);
	assert_int_equal(answer(), 0);
	assert_int_equal(channels_count(&w->g), 0);
}

static void test_a_surprise_closes_the_arrow(void **state)
{
	(void)state;
	Belay__FromFabric m = BELAY__FROM_FABRIC__INIT;
	m.id = 12345;
	say(w->fabric, &m);
	assert_false(arrow_up(&w->g, ROLE_FABRIC));
	assert_true(arrow_up(&w->g, ROLE_ATTEST));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(test_##name, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_connection_from_question_to_end),
		T(who_is_refused_and_how),
		T(the_rules_limit_of_connections),
		T(connections_on_their_way_count),
		T(revocation_ends_what_is_open),
		T(a_policy_that_takes_the_listeners_right_ends_it),
		T(a_lost_fabric_fails_closed_and_comes_back),
		T(a_lost_attest_is_asked_again),
		T(a_successor_takes_over),
		T(a_listener_that_ends_while_its_order_is_out),
		T(a_bind_is_judged_by_the_policy_in_force_when_it_is_done),
		T(a_listener_that_was_replaced_is_not_reached),
		T(a_name_that_is_used_again_is_a_new_channel),
		T(a_successor_remembers_the_libraries),
		T(the_end_of_a_bound_socket_ends_its_entry_alone),
		T(lost_news_are_made_good_by_a_dump),
		T(an_image_that_inherits_is_held_to_its_own_rule),
		T(a_surprise_closes_the_arrow),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
