/*
 * Peers of the engine: a node and its data keys. A node whose keys change is a new peer; the old
 * one is retired and lives as long as channels use it. Input: the guard.
 */
#include <stdlib.h>

#include "base/clock.h"
#include "conn/engine.h"
#include "conn/internal.h"
#include "crypto/hkdf.h"

void peer_free(struct engine *e, struct peer *p)
{
	p->retired = true;
	proofs_forget(e, p);
	for (size_t i = 0; i < ENGINE_CARRIERS; i++)
		carrier_release(&p->carriers[i]);
	LIST_REMOVE(p, link);
	e->n_peers--;
	secret_zero(p->dialer_key, sizeof(p->dialer_key));
	secret_zero(p->acceptor_key, sizeof(p->acceptor_key));
	/* Its carriers' watches may be named by events of this turn: peers are buried whole. */
	for (size_t i = 0; i < ENGINE_CARRIERS; i++)
		p->carriers[i].watch.dead = true;
	engine_bury(e, &p->grave);
}

struct peer *peer_find(struct engine *e, const char *node)
{
	struct peer *p;
	LIST_FOREACH (p, &e->peers, link)
		if (!p->retired && p != e->local && strcmp(p->node, node) == 0)
			return p;
	return NULL;
}

struct peer *peer_new(struct engine *e, const char *node, const char *self)
{
	size_t n = strlen(node), s = strlen(self);
	struct peer *p =
		e->n_peers < ENGINE_PEERS_MAX && n <= PREAMBLE_NAME_MAX && s <= PREAMBLE_NAME_MAX
			? calloc(1, sizeof(*p))
			: NULL;
	if (!p)
		return NULL;
	memcpy(p->node, node, n);
	memcpy(p->self, self, s);
	for (uint8_t i = 0; i < ENGINE_CARRIERS; i++)
		carrier_init(&p->carriers[i], e, p, i);
	LIST_INSERT_HEAD(&e->peers, p, link);
	e->n_peers++;
	return p;
}

bool peer_used(const struct peer *p)
{
	for (size_t i = 0; i < ENGINE_CARRIERS; i++)
		if (!LIST_EMPTY(&p->carriers[i].channels))
			return true;
	return false;
}

int engine_peer_set(struct engine *e, const struct engine_peer *in)
{
	e->now = clock_mono_ms();
	_cleanup_secret_ struct secret prk, dialer, acceptor;
	memcpy(prk.bytes, in->secret, SECRET_LEN);
	int r = hkdf_expand_label(&prk, "data dialer", "", 0, dialer.bytes, SECRET_LEN);
	if (r == 0)
		r = hkdf_expand_label(&prk, "data acceptor", "", 0, acceptor.bytes, SECRET_LEN);
	if (r < 0)
		return r;
	struct peer *old = peer_find(e, in->node);
	if (old && secret_equal(old->dialer_key, dialer.bytes, SECRET_LEN))
		return 0; /* told again, by a successor of the guard */
	struct peer *p = peer_new(e, in->node, in->self);
	if (!p)
		return -ENOBUFS;
	memcpy(p->dialer_key, dialer.bytes, SECRET_LEN);
	memcpy(p->acceptor_key, acceptor.bytes, SECRET_LEN);
	p->we_dial = in->we_dial;
	p->data = in->data;
	if (old) {
		old->retired = true;
		proofs_forget(e, old);
		if (!peer_used(old))
			peer_free(e, old);
	}
	for (size_t i = 0; i < ENGINE_CARRIERS && p->we_dial; i++)
		proof_dial(&p->carriers[i]);
	engine_wake(e);
	return 0;
}

void engine_peer_drop(struct engine *e, const char *node, const char *why)
{
	e->now = clock_mono_ms();
	struct peer *p, *next;
	for (p = LIST_FIRST(&e->peers); p; p = next) {
		next = LIST_NEXT(p, link);
		if (p == e->local || strcmp(p->node, node) != 0)
			continue;
		for (size_t i = 0; i < ENGINE_CARRIERS; i++)
			while (!LIST_EMPTY(&p->carriers[i].channels))
				channel_close(e, LIST_FIRST(&p->carriers[i].channels),
					FRAME_RESET_ENDED, why);
		for (size_t i = 0; i < ENGINE_CARRIERS; i++)
			(void)carrier_turn(&p->carriers[i]); /* a last chance for the RESETs */
		peer_free(e, p);
	}
	engine_wake(e);
}
