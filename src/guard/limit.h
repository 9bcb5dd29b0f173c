/*
 * How many open channels, and connections on their way to be one, count against each rule's limit;
 * and how fast new ones come against its rate.
 */
#pragma once

#include "guard/guard.h"

void limit_add(struct guard *g, const char *rule); /* an empty name has no limit */
void limit_drop(struct guard *g, const char *rule);
/*
 * A place under the limit of an allowing verdict and in the asking one's share of the channels
 * (share.h), from the decision until seat_leave(): there is no channel to count yet, and others ask
 * meanwhile. Without room the verdict becomes a refusal.
 */
void seat_take(struct guard *g, struct verdict *v, struct seat *s, uint64_t who);
void seat_leave(struct guard *g, struct seat *s);
uint32_t limit_count(struct guard *g, const char *rule);
void limits_deinit(struct guard *g);
