/* Messages between processes: what is sent arrives with its descriptors; surprises close the
 * channel. */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "component.pb-c.h"
#include "ipc/ipc.h"

#include <cmocka.h>

static struct {
	uv_loop_t loop;
	struct ipc_chan chan;
	int other;
	unsigned messages, closed, taken;
	int reason, answer;
	bool deinit;
} t;

static int on_message(struct ipc_chan *c, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	t.messages++;
	Belay__ToBelayd *m = ipc_unpack(&belay__to_belayd__descriptor, buf, len);
	if (!m)
		return -EBADMSG;
	ipc_free(m);
	t.taken += (unsigned)n_fds;
	for (size_t i = 0; i < n_fds; i++)
		assert_true(fcntl(fds[i], F_GETFD) & FD_CLOEXEC);
	if (t.deinit)
		ipc_chan_deinit(c);
	return t.answer;
}

static void on_closed(struct ipc_chan *c, int reason)
{
	(void)c;
	t.closed++;
	t.reason = reason;
}

static int setup(void **state)
{
	int pair[2];
	(void)state;
	memset(&t, 0, sizeof(t));
	uv_loop_init(&t.loop);
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return -1;
	t.other = pair[1];
	return ipc_chan_init(&t.chan, &t.loop, pair[0], on_message, on_closed, NULL);
}

static int teardown(void **state)
{
	(void)state;
	ipc_chan_deinit(&t.chan);
	while (uv_run(&t.loop, UV_RUN_NOWAIT))
		;
	close(t.other);
	return uv_loop_close(&t.loop);
}

static void send_keep(int *fds, size_t n)
{
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	Belay__Keep k = BELAY__KEEP__INIT;
	char name[] = "tree-1";
	k.name = name;
	m.body_case = BELAY__TO_BELAYD__BODY_KEEP;
	m.keep = &k;
	assert_int_equal(ipc_send_fd(t.other, &m.base, fds, n), 0);
}

static size_t open_descriptors(void)
{
	size_t n = 0;
	for (int fd = 0; fd < 1024; fd++)
		n += fcntl(fd, F_GETFD) >= 0;
	return n;
}

static void test_descriptors(void **state)
{
	int fds[FDS_PASS_MAX];
	(void)state;
	for (size_t i = 0; i < FDS_PASS_MAX; i++)
		fds[i] = STDIN_FILENO;
	size_t before = open_descriptors();
	send_keep(fds, FDS_PASS_MAX);
	ipc_chan_drain(&t.chan);
	assert_int_equal(t.taken, FDS_PASS_MAX);
	assert_int_equal(t.closed, 0);
	assert_int_equal(open_descriptors(), before); /* what is not taken is closed */
}

static void test_surprises(void **state)
{
	(void)state;
	/* An unknown field, number 15. */
	assert_int_equal(fds_send(t.other, "\x78\x01", 2, NULL, 0, 0), 0);
	ipc_chan_drain(&t.chan);
	assert_int_equal(t.closed, 1);
	assert_int_equal(t.reason, -EBADMSG);
	assert_false(ipc_chan_open(&t.chan));
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	assert_int_equal(ipc_send(&t.chan, &m.base, NULL, 0), -EPIPE);
}

static void test_too_long(void **state)
{
	static uint8_t big[IPC_MSG_MAX + 1];
	(void)state;
	assert_int_equal(fds_send(t.other, big, sizeof(big), NULL, 0, 0), 0);
	ipc_chan_drain(&t.chan);
	assert_int_equal(t.messages, 0);
	assert_int_equal(t.reason, -EMSGSIZE);
}

static void test_end(void **state)
{
	(void)state;
	send_keep(NULL, 0);
	close(t.other);
	t.other = -1;
	ipc_chan_drain(&t.chan);
	assert_int_equal(t.messages, 1); /* the last words count */
	assert_int_equal(t.reason, -EPIPE);
}

/* As above, of a peer that was killed before it read what was sent to it. */
static void test_end_of_a_busy_peer(void **state)
{
	(void)state;
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	Belay__Drop d = BELAY__DROP__INIT;
	char name[] = "tree-1";
	d.name = name;
	m.body_case = BELAY__TO_BELAYD__BODY_DROP;
	m.drop = &d;
	for (int i = 0; i < 100; i++)
		send_keep(NULL, 0);
	assert_int_equal(ipc_send(&t.chan, &m.base, NULL, 0), 0);
	close(t.other);
	t.other = -1;
	uv_run(&t.loop, UV_RUN_ONCE);
	assert_int_equal(t.messages, 100);
	assert_int_equal(t.closed, 1);
	assert_int_equal(t.reason, -EPIPE);
}

static void test_deinit_inside(void **state)
{
	(void)state;
	t.deinit = true;
	send_keep(NULL, 0);
	send_keep(NULL, 0);
	ipc_chan_drain(&t.chan);
	assert_int_equal(t.messages, 1);
	assert_int_equal(t.closed, 0);
}

static void test_queue(void **state)
{
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	Belay__Drop d = BELAY__DROP__INIT;
	static char name[8192];
	unsigned sent = 0, got = 0;
	(void)state;
	memset(name, 'a', sizeof(name) - 1);
	d.name = name;
	m.body_case = BELAY__TO_BELAYD__BODY_DROP;
	m.drop = &d;
	int r;
	while ((r = ipc_send(&t.chan, &m.base, NULL, 0)) == 0)
		sent++;
	assert_int_equal(r, -ENOBUFS);
	assert_true(t.chan.queued <= IPC_QUEUE_MAX);
	for (; got < sent; got++) {
		void *back = NULL;
		int fds[FDS_PASS_MAX];
		size_t n;
		uv_run(&t.loop, UV_RUN_NOWAIT);
		assert_int_equal(
			ipc_recv_fd(t.other, &belay__to_belayd__descriptor, &back, fds, &n), 0);
		ipc_free(back);
	}
	assert_int_equal(t.chan.queued, 0);
}

/* What a freed message leaves behind for the next who is given its memory. */
static void test_wiped(void **state)
{
	(void)state;
	char secret[200], *seen[64];
	memset(secret, 'k', sizeof(secret));
	secret[sizeof(secret) - 1] = '\0';
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	Belay__Keep keep = BELAY__KEEP__INIT;
	uint8_t buf[512];
	keep.name = secret;
	m.body_case = BELAY__TO_BELAYD__BODY_KEEP;
	m.keep = &keep;
	size_t len = protobuf_c_message_pack(&m.base, buf);
	Belay__ToBelayd *u = ipc_unpack(&belay__to_belayd__descriptor, buf, len);
	assert_string_equal(u->keep->name, secret);
	ipc_free(u);
	for (size_t i = 0; i < ARRAY_LEN(seen); i++) {
		seen[i] = malloc(200 + i % 4 * 8);
		assert_null(memmem(seen[i], 200, "kkkkkkkk", 8));
	}
	for (size_t i = 0; i < ARRAY_LEN(seen); i++)
		free(seen[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(test_descriptors, setup, teardown),
		cmocka_unit_test_setup_teardown(test_surprises, setup, teardown),
		cmocka_unit_test_setup_teardown(test_too_long, setup, teardown),
		cmocka_unit_test_setup_teardown(test_end, setup, teardown),
		cmocka_unit_test_setup_teardown(test_end_of_a_busy_peer, setup, teardown),
		cmocka_unit_test_setup_teardown(test_deinit_inside, setup, teardown),
		cmocka_unit_test_setup_teardown(test_queue, setup, teardown),
		cmocka_unit_test(test_wiped)};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
