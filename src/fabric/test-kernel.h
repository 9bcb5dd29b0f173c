/*
 * What tests of the fabric against the kernel share: namespaces made for the test, as root or as an
 * ordinary user, and short ways to listen, grant, connect and pair in them.
 */
#pragma once

#include "base/addr.h"
#include "base/clock.h"
#include "base/fds.h"
#include "fabric/diag.h"
#include "fabric/grant.h"
#include "fabric/nft.h"
#include "fabric/ns.h"
#include "fabric/sock.h"

extern struct nft nft;
extern struct grants grants;
extern struct diag diag;
extern uint64_t cookie;
extern int ns_user, ns_net;
extern bool have_v6;

/* Ends the program as skipped where the host refuses user namespaces. */
int kernel_setup(void);
struct addr at(const char *text);
int listen_at(const char *text, bool udp);
int grant(uint32_t mark, bool udp, const char *to);
int try_connect(int fd, uint32_t mark, const char *to);
int connect_new(uint32_t mark, const char *to);
int pair_new(const char *local, const char *remote, int *ret_a);
void check_talk(int a, int b);
