/* Frames and preambles of a node that cheats (test-cheat.h). */
#include "test-cheat.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#include "base/clock.h"
#include "crypto/hkdf.h"
#include "crypto/hmac.h"

static const struct seal_limits no_limit = {1u << 30, 1u << 30, 1u << 30};

static void read_all(struct world *w, int fd, uint8_t *p, size_t n)
{
	size_t have = 0;
	assert_true(world_until(w, 2000, ({
		ssize_t r = recv(fd, p + have, n - have, MSG_DONTWAIT);
		have += r > 0 ? (size_t)r : 0;
		have == n;
	})));
}

void cheat_dial(struct world *w, struct cheat *c)
{
	int pair[2];
	world_tcp_pair(pair);
	c->fd = pair[0];
	engine_accept(w->side[1], pair[1]);
}

void cheat_prove(struct world *w, struct cheat *c, uint8_t index, const char *from)
{
	struct secret prk;
	uint8_t key[32];
	struct preamble_hello h = {.index = index, .to = "beta"};
	snprintf(h.from, sizeof(h.from), "%s", from);
	memcpy(prk.bytes, w->secret, SECRET_LEN);
	assert_int_equal(hkdf_expand_label(&prk, "data dialer", "", 0, key, 32), 0);
	cheat_dial(w, c);
	int n = preamble_hello_encode(&h, c->said);
	assert_int_equal(send(c->fd, c->said, (size_t)n, MSG_NOSIGNAL), n);
	read_all(w, c->fd, c->said + n, PREAMBLE_REPLY_LEN);
	uint8_t mac[HMAC_LEN];
	assert_int_equal(hmac_sha256(key, 32, c->said, (size_t)n + PREAMBLE_REPLY_LEN, mac), 0);
	assert_int_equal(send(c->fd, mac, sizeof(mac), MSG_NOSIGNAL), sizeof(mac));
	memcpy(c->said + n, mac, sizeof(mac)); /* what a recording of the dialer holds */
	c->len = (size_t)n + sizeof(mac);
}

void cheat_send(
	struct cheat *c, enum frame_type type, const uint8_t *id, const void *body, uint32_t len)
{
	if (len)
		memcpy(c->frame + FRAME_HEADER_LEN, body, len);
	int n = seal_frame(&c->seal, &no_limit, 0, type, id, c->frame, len);
	assert_true(n > 0);
	for (int at = 0; at < n;) {
		ssize_t r =
			send(c->fd, c->frame + at, (size_t)(n - at), MSG_NOSIGNAL | MSG_DONTWAIT);
		at += r > 0 ? (int)r : 0;
	}
}
