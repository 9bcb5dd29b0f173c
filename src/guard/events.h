/* What arrows bring besides answers, and what happens when they open and close. */
#pragma once

#include "guard/arrow.h"

extern const struct arrow_ops events_arrows[_ROLE_N];
