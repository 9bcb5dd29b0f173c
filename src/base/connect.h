/* connect(2) on a program's own socket, without ever waiting for it. */
#pragma once

#include "base/addr.h"

/* connect(2) as it is. -EAFNOSUPPORT: an IPv6 destination on an IPv4 socket. */
int connect_to(int fd, int family, const struct addr *to) _must_check_;
/*
 * The same on a TCP socket that has no connection, or one on its way, without waiting whatever the
 * socket's flags. -EINPROGRESS: the program is to wait. *lent (may be NULL) is 1 while the open
 * file has a flag that is not its program's.
 */
int connect_now(int fd, int family, const struct addr *to, uint32_t *lent) _must_check_;
/* What is lent is given back. */
void connect_give_back(int fd, uint32_t *lent);
