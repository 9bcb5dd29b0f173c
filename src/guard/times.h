/* Rules with times: what is open is judged again when one begins or ends. */
#pragma once

#include "guard/guard.h"

int times_init(struct guard *g) _must_check_;
void times_deinit(struct guard *g);
/* The policy in force is another. */
void times_arm(struct guard *g);
