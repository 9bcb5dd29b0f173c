/* Judging again what is open, after the policy or the registry changed. */
#pragma once

#include "guard/guard.h"

/* Everything open is held against the facts of now; what no longer holds ends, with that reason. */
void judge_all(struct guard *g, const char *reason);
/* *s (may be NULL) becomes what it is by the facts of now. Subjects of other nodes stay. */
void judge_subject(struct guard *g, struct subject **s);
