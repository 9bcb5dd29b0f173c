/* Channels in advance: reserve.c. */
#pragma once

#include "conn/engine.h"

/*
 * Enters a channel that opens later. Initiator: *fd is -1, engine_reserve_take() brings the
 * program's socket. Else *fd is an unconnected socket that OPEN connects to `to`; it is taken, also
 * when this fails. -EHOSTUNREACH: its data connection is down; -EEXIST: entered before.
 */
int engine_reserve_add(struct engine *e, const struct engine_channel *c, uint64_t lease,
	const struct addr *to, int *fd) _must_check_;
/* Opens it with a program's socket, which is taken; one that is not there is reported closed. */
void engine_reserve_take(struct engine *e, const uint8_t id[FRAME_CHANNEL_LEN], int *fd);
/* Nothing of that lease (0: of any) opens from here on. What is open goes on. */
void engine_reserve_end(struct engine *e, uint64_t lease);
