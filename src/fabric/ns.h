/* The fabric's namespaces: a network of its own in a user namespace of its own. */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

/* Makes both namespaces and enters them. The process must have one thread. Descriptors are the
 * caller's. */
int ns_create(int *ret_user, int *ret_net, struct error *e) _must_check_;
/* Enters those a predecessor made. The descriptors stay the caller's. */
int ns_enter(int user, int net, struct error *e) _must_check_;
/* Loopback up, every address local, the sysctls that matter. Harmless when done before. */
int ns_configure(bool *ret_v6, struct error *e) _must_check_;
/* The kernel's name for the network namespace this thread is in: never used twice until reboot. */
int ns_cookie(uint64_t *ret) _must_check_;
