/* One profile (profiles.def); inside the sandbox room. */
#pragma once

#include "sandbox/sandbox.h"

enum profile_net { NET_NONE = 0, NET_BIND = 1, NET_CONNECT = 2, NET_ALL = 3 };

struct profile {
	unsigned files;
	bool threads, landlock, signals;
	enum profile_net net;
};

const struct profile *profile_get(enum sandbox_profile p);
