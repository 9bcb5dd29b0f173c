/* A node that holds the secret of the data connections and keeps no other rule. */
#pragma once

#include "conn/seal.h"
#include "test-world.h"

struct cheat {
	int fd;
	struct seal seal;
	uint8_t said[PREAMBLE_MAX], frame[FRAME_MAX];
	size_t len;
};
/* Connected to side 1, which knows nothing of it yet. */
void cheat_dial(struct world *w, struct cheat *c);
/* The preamble as it should be, of node `from` with the world's secret, on data connection `index`.
 */
void cheat_prove(struct world *w, struct cheat *c, uint8_t index, const char *from);
/* A frame under c->seal. */
void cheat_send(
	struct cheat *c, enum frame_type type, const uint8_t *id, const void *body, uint32_t len);
