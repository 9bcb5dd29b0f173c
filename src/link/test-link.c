/* Links between two or three nodes in one process: who is accepted, which link stays, keep-alive,
 * joining. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"
#include "link/link.h"

static const struct link_limits quick = {.ping_ms = 100,
	.dead_ms = 400,
	.handshake_ms = 500,
	.retry_first_ms = 50,
	.retry_last_ms = 200};

struct domain {
	struct x509_key *key;
	struct der ca;
};
struct world;
struct node {
	struct world *w;
	char name[16];
	struct x509_key *key;
	struct der key_der, cert, csr;
	struct links *links;
	int listener;
	struct addr address;
	uv_poll_t poll;
	bool mute; /* accepts nothing */
	/* seen */
	int ups, downs, ups_by_us, joins, answers;
	char up[X509_NODE_MAX], down_why[160], got[160];
	struct secret exporter;
	uint64_t join;
	struct link_joined joined;
	uint8_t token[LINK_TOKEN_LEN];
	char joined_why[160];
	size_t cert_len;
};
struct world {
	uv_loop_t loop;
	uv_timer_t beat;
	struct domain one, other;
	struct node n[3];
};

#define until(w, ms, condition)                                           \
	({                                                                \
		uint64_t until_ = clock_mono_ms() + (ms);                 \
		bool met_;                                                \
		while (!(met_ = (condition)) && clock_mono_ms() < until_) \
			uv_run(&(w)->loop, UV_RUN_ONCE);                  \
		met_;                                                     \
	})

static void on_up(void *data, const struct x509_node *p, const struct secret *x, bool we_dialed,
	const char *remote)
{
	struct node *n = data;
	(void)remote;
	n->ups++;
	n->ups_by_us += we_dialed;
	n->exporter = *x;
	snprintf(n->up, sizeof(n->up), "%s", p->node);
	assert_int_equal(p->n_addresses, 1);
}

static void on_down(void *data, const char *node, const char *why)
{
	struct node *n = data;
	(void)node;
	n->downs++;
	snprintf(n->down_why, sizeof(n->down_why), "%s", why);
}

static int on_received(void *data, const char *node, const uint8_t *buf, size_t len)
{
	struct node *n = data;
	snprintf(n->got, sizeof(n->got), "%s: %.*s", node, (int)len, (const char *)buf);
	return buf[0] == '!' ? -EBADMSG : 0;
}

static void on_join_request(void *data, uint64_t join, const struct link_join *j)
{
	struct node *n = data;
	n->joins++;
	n->join = join;
	memcpy(n->token, j->token, LINK_TOKEN_LEN);
}

static void on_joined(void *data, uint64_t id, const struct link_joined *j)
{
	struct node *n = data;
	n->answers++;
	n->join = id;
	n->joined = *j;
	n->cert_len = j->cert_len;
	snprintf(n->joined_why, sizeof(n->joined_why), "%s", j->why);
}

static const struct links_ops ops = {on_up, on_down, on_received, on_join_request, on_joined};

static void on_listen(uv_poll_t *p, int status, int events)
{
	(void)status, (void)events;
	struct node *n = p->data;
	int fd = accept4(n->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	if (fd >= 0 && !n->mute)
		links_accept(n->links, fd);
}

static void on_beat(uv_timer_t *t)
{
	(void)t;
}

static void domain_make(struct domain *d)
{
	struct error e = ERROR_INIT;
	assert_int_equal(x509_key_new(&d->key), 0);
	assert_int_equal(x509_ca_make(d->key, "example.test", &d->ca, &e), 0);
}

static void node_make(
	struct world *w, int i, const char *name, const struct domain *d, bool identity)
{
	struct node *n = &w->n[i];
	struct error e = ERROR_INIT;
	struct addr a = {.ip_len = 4, .ip = {10, 0, 0, (uint8_t)(i + 1)}};
	n->w = w;
	snprintf(n->name, sizeof(n->name), "%s", name);
	assert_int_equal(x509_key_new(&n->key), 0);
	assert_int_equal(x509_key_to_der(n->key, &n->key_der), 0);
	assert_int_equal(x509_csr_make(n->key, name, &n->csr, &e), 0);
	const struct x509_term term = {.life_s = 3600};
	assert_int_equal(x509_node_issue(d->key, d->ca.data, d->ca.len, n->csr.data, n->csr.len,
				 name, &a, 1, &term, &n->cert, &e),
		0);
	assert_int_equal(links_new(&w->loop, &ops, n, &quick, &n->links), 0);
	if (identity)
		assert_int_equal(links_identity(n->links, &n->key_der, &n->cert, &d->ca, &e), 0);
	n->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	struct sockaddr_in sin = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(sin);
	assert_int_equal(bind(n->listener, (struct sockaddr *)&sin, len), 0);
	assert_int_equal(listen(n->listener, 16), 0);
	assert_int_equal(getsockname(n->listener, (struct sockaddr *)&sin, &len), 0);
	assert_int_equal(addr_from_sockaddr(&sin, len, &n->address), 0);
	uv_poll_init(&w->loop, &n->poll, n->listener);
	n->poll.data = n;
	uv_poll_start(&n->poll, UV_READABLE, on_listen);
}

static void world_init(struct world *w)
{
	memset(w, 0, sizeof(*w));
	uv_loop_init(&w->loop);
	uv_timer_init(&w->loop, &w->beat);
	uv_timer_start(&w->beat, on_beat, 10, 10);
	domain_make(&w->one);
	domain_make(&w->other);
}

static void world_deinit(struct world *w)
{
	for (int i = 0; i < 3; i++) {
		struct node *n = &w->n[i];
		if (!n->links)
			continue;
		links_free(n->links);
		uv_close((uv_handle_t *)&n->poll, NULL);
		close(n->listener);
		x509_key_free(n->key);
		der_clear(&n->key_der);
		der_clear(&n->cert);
		der_clear(&n->csr);
	}
	uv_close((uv_handle_t *)&w->beat, NULL);
	uv_run(&w->loop, UV_RUN_DEFAULT);
	assert_int_equal(uv_loop_close(&w->loop), 0);
	struct domain *d[] = {&w->one, &w->other};
	for (int i = 0; i < 2; i++) {
		x509_key_free(d[i]->key);
		der_clear(&d[i]->ca);
	}
}

static void meet(struct world *w, int from, int to)
{
	struct link_listed l = {.address = w->n[to].address};
	snprintf(l.node, sizeof(l.node), "%s", w->n[to].name);
	assert_int_equal(links_peers(w->n[from].links, &l, 1), 0);
}

static void test_up_and_messages(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	node_make(&w, 0, "alpha", &w.one, true);
	node_make(&w, 1, "beta", &w.one, true);
	struct node *a = &w.n[0], *b = &w.n[1];
	meet(&w, 0, 1);
	assert_true(until(&w, 3000, a->ups == 1 && b->ups == 1));
	assert_string_equal(a->up, "beta");
	assert_string_equal(b->up, "alpha");
	assert_memory_equal(a->exporter.bytes, b->exporter.bytes, SECRET_LEN);
	assert_int_equal(a->ups_by_us, 1);
	assert_int_equal(b->ups_by_us, 0);
	assert_int_equal(links_send(a->links, "beta", (const uint8_t *)"hello", 5), 0);
	assert_true(until(&w, 2000, strcmp(b->got, "alpha: hello") == 0));
	static uint8_t big[LINK_MESSAGE_MAX + 1];
	memset(big, 'x', sizeof(big));
	assert_int_equal(links_send(b->links, "alpha", big, sizeof(big)), -EMSGSIZE);
	assert_int_equal(links_send(b->links, "alpha", big, LINK_MESSAGE_MAX), 0);
	assert_true(until(&w, 2000, a->got[0] != 0));
	assert_int_equal(links_send(b->links, "gamma", big, 1), -ENOTCONN);
	/* Silent for longer than the dead limit: keep-alive holds it up. */
	if (until(&w, 900, a->downs || b->downs))
		fail_msg("alpha: %s; beta: %s", a->down_why, b->down_why);
	/* A surprise at one end ends it; the dialer comes back. */
	assert_int_equal(links_send(a->links, "beta", (const uint8_t *)"!", 1), 0);
	assert_true(until(&w, 3000, a->ups == 2 && b->ups == 2));
	assert_int_equal(a->downs, 1);
	links_drop(b->links, "alpha", "policy");
	assert_true(until(&w, 3000, a->downs == 2 && b->downs == 2));
	assert_string_equal(b->down_why, "policy");
	world_deinit(&w);
}

/* Both dial at once: in the end one link, the same at both, dialed by the first in the alphabet. */
static void test_tie(void **state)
{
	(void)state;
	for (int round = 0; round < 5; round++) {
		struct world w;
		world_init(&w);
		node_make(&w, 0, "alpha", &w.one, true);
		node_make(&w, 1, "beta", &w.one, true);
		struct node *a = &w.n[0], *b = &w.n[1];
		meet(&w, round % 2, !(round % 2));
		if (round > 2) /* the later name's dial succeeds first */
			assert_true(until(&w, 3000, a->ups && b->ups));
		meet(&w, !(round % 2), round % 2);
		assert_true(until(&w, 3000, a->ups && b->ups));
		assert_false(until(&w, 1200, false));
		assert_int_equal(a->ups - a->downs, 1);
		assert_int_equal(b->ups - b->downs, 1);
		assert_memory_equal(a->exporter.bytes, b->exporter.bytes, SECRET_LEN);
		a->got[0] = b->got[0] = 0;
		assert_int_equal(links_send(a->links, "beta", (const uint8_t *)"x", 1), 0);
		assert_int_equal(links_send(b->links, "alpha", (const uint8_t *)"x", 1), 0);
		assert_true(until(&w, 2000, a->got[0] && b->got[0]));
		world_deinit(&w);
	}
}

static void test_strangers(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	node_make(&w, 0, "alpha", &w.one, true);
	node_make(&w, 1, "beta", &w.other, true); /* another CA */
	node_make(&w, 2, "gamma", &w.one, true);
	struct node *a = &w.n[0], *b = &w.n[1];
	meet(&w, 0, 1);
	meet(&w, 1, 0);
	assert_false(until(&w, 1500, a->ups || b->ups));
	/* gamma answers where beta was meant: its certificate is good, its name is not the one. */
	struct link_listed l = {.node = "delta", .address = w.n[2].address};
	assert_int_equal(links_peers(a->links, &l, 1), 0);
	assert_false(until(&w, 1000, a->ups));
	/* Not TLS at all, and silence. */
	int fds[2];
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	links_accept(a->links, fds[1]);
	assert_int_equal(send(fds[0], "GET / HTTP/1.0\r\n\r\n", 18, MSG_NOSIGNAL), 18);
	char c[64];
	assert_true(until(&w, 2000, recv(fds[0], c, sizeof(c), MSG_DONTWAIT) == 0));
	close(fds[0]);
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
	links_accept(a->links, fds[1]);
	assert_true(until(&w, 2000, recv(fds[0], c, sizeof(c), MSG_DONTWAIT) == 0));
	close(fds[0]);
	world_deinit(&w);
}

/* The other node stops hearing: within the limit the link is down, and says why. */
static void test_dead(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	node_make(&w, 0, "alpha", &w.one, true);
	node_make(&w, 1, "beta", &w.one, true);
	struct node *a = &w.n[0], *b = &w.n[1];
	meet(&w, 0, 1);
	assert_true(until(&w, 3000, a->ups == 1 && b->ups == 1));
	b->mute = true;
	b->links = links_free(b->links);
	assert_int_equal(links_new(&w.loop, &ops, b, &quick, &b->links), 0);
	assert_true(until(&w, 3000, a->downs == 1));
	struct error e = ERROR_INIT;
	assert_int_equal(links_identity(b->links, &b->key_der, &b->cert, &w.one.ca, &e), 0);
	b->mute = false;
	assert_true(until(&w, 3000, a->ups == 2)); /* back-off, then again */
	world_deinit(&w);
}

static struct link_join join_to(struct world *w, int to, const struct domain *pin, uint8_t token)
{
	struct link_join j = {.address = w->n[to].address,
		.csr = w->n[1].csr.data,
		.csr_len = w->n[1].csr.len,
		.listen = w->n[1].address};
	memset(j.token, token, sizeof(j.token));
	x509_fingerprint(pin->ca.data, pin->ca.len, j.ca_sha256);
	return j;
}

static void test_join(void **state)
{
	(void)state;
	struct world w;
	world_init(&w);
	node_make(&w, 0, "alpha", &w.one, true);
	node_make(&w, 1, "beta", &w.one, false); /* has no certificate yet */
	node_make(&w, 2, "rogue", &w.other, true);
	struct node *a = &w.n[0], *b = &w.n[1];
	/* A server of another CA never hears the token. */
	struct link_join j = join_to(&w, 2, &w.one, 7);
	links_join(b->links, 1, &j);
	assert_true(until(&w, 3000, b->answers == 1));
	assert_true(b->joined.error < 0);
	assert_int_equal(w.n[2].joins, 0);
	/* Refused: the reason arrives. */
	j = join_to(&w, 0, &w.one, 8);
	links_join(b->links, 2, &j);
	assert_true(until(&w, 3000, a->joins == 1));
	assert_int_equal(a->token[5], 8);
	struct link_joined no = {.error = -EACCES, .why = "this token was used before"};
	links_join_answer(a->links, a->join, &no);
	assert_true(until(&w, 3000, b->answers == 2));
	assert_int_equal(b->joined.error, -EACCES);
	assert_string_equal(b->joined_why, "this token was used before");
	/* Accepted. */
	links_join(b->links, 3, &j);
	assert_true(until(&w, 3000, a->joins == 2));
	struct link_listed listed = {.address = a->address};
	strcpy(listed.node, "alpha");
	struct link_joined yes = {.cert = b->cert.data,
		.cert_len = b->cert.len,
		.ca = w.one.ca.data,
		.ca_len = w.one.ca.len,
		.listed = &listed,
		.n_listed = 1};
	links_join_answer(a->links, a->join, &yes);
	assert_true(until(&w, 3000, b->answers == 3));
	assert_int_equal(b->joined.error, 0);
	assert_int_equal(b->cert_len, b->cert.len);
	assert_int_equal(b->joined.n_listed, 1);
	/* The certificate is in force; the link comes up. Nobody was a link before. */
	assert_int_equal(a->ups + b->ups, 0);
	struct error e = ERROR_INIT;
	assert_int_equal(links_identity(b->links, &b->key_der, &b->cert, &w.one.ca, &e), 0);
	meet(&w, 1, 0);
	assert_true(until(&w, 3000, a->ups == 1 && b->ups == 1));
	/* Nobody there. */
	j.address.port = 1;
	links_join(b->links, 4, &j);
	assert_true(until(&w, 3000, b->answers == 4));
	assert_true(b->joined.error < 0);
	world_deinit(&w);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(test_up_and_messages),
		cmocka_unit_test(test_tie),
		cmocka_unit_test(test_strangers),
		cmocka_unit_test(test_dead),
		cmocka_unit_test(test_join),
	};
	cmocka_set_message_output(CM_OUTPUT_TAP);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
