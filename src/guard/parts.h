/* What the dispatcher told of the other components: for status. */
#pragma once

#include "component.pb-c.h"
#include "guard/guard.h"

struct part {
	uint32_t pid, uid, restarts;
	bool alive;
};

struct parts {
	struct part part[_ROLE_N];
};

int parts_init(struct guard *g) _must_check_;
void parts_notice(struct guard *g, const Belay__PeerEnded *m);
