/* How many open channels count against each rule's limit of connections. */
#pragma once

#include "guard/guard.h"

void limit_add(struct guard *g, const char *rule); /* an empty name has no limit */
void limit_drop(struct guard *g, const char *rule);
uint32_t limit_count(struct guard *g, const char *rule);
void limits_deinit(struct guard *g);
