/*
 * What tests of the fabric's orders share: a fabric inside its sandbox in namespaces of its own,
 * its answers in `said`, short ways to order, and a resolver that stayed outside.
 */
#pragma once

#include "base/addr.h"
#include "base/clock.h"
#include "fabric/fabric.h"
#include "fabric/ns.h"
#include "fabric/sock.h"
#include "ipc/ipc.h"

/* What the fabric said, in order. */
#define SAID_MAX 1024
struct said {
	Belay__FromFabric *m;
	int fds[FDS_PASS_MAX];
	size_t n_fds;
};

struct pb {
	struct addr a;
	Belay__Addr m;
};

extern struct fabric fabric;
extern uv_loop_t loop;
extern struct said said[SAID_MAX];
extern size_t n_said;
/* Answers every question with the question: with a forgery before for names that begin with 'l',
 * in 1200 bytes for those with 'b'. */
extern char resolver_at[ADDR_TEXT_MAX];
#define RELAY_AT "127.0.0.1:53" /* where programs ask for it */

void forget(void);
void wait_said(size_t want);
Belay__Addr *pb(struct pb *p, const char *text);
int order(Belay__ToFabric *m, int fd);
struct said *ask(Belay__ToFabric *m, int fd);
int program_socket(uint32_t family, Belay__Transport t);
int program_listen(const char *at);
int order_connect(int fd, uint32_t mark, Belay__Transport t, const char *to);
void drain(void);
/* Ends the program as skipped where the host refuses user namespaces. */
int inside_setup(void **state);
