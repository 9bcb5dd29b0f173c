/* Counting channels and ending idle ones: idle.c has the essay. */
#pragma once

#include "guard/guard.h"

int idle_init(struct guard *g) _must_check_;
void idle_deinit(struct guard *g);
/* The channel's idle limit is new or changed. */
void idle_watch(struct guard *g, const struct channel *c);
