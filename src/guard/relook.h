/* Looking again at programs that hold channels: relook.c has the essay. */
#pragma once

#include "guard/guard.h"

int relook_init(struct guard *g) _must_check_;
void relook_deinit(struct guard *g);
/* There is a channel. */
void relook_watch(struct guard *g);
