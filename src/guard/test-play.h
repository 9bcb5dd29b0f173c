/*
 * What scenarios of the guard share: a guard in a world of its own, whose attest, fabric and
 * enforce are the test, at the other ends of the arrows.
 */
#pragma once

#include "attest.pb-c.h"
#include "fabric.pb-c.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/judge.h"
#include "guard/pb.h"
#include "guard/refusals.h"
#include "ipc/lease.h"
#include "registry/registry.h"

enum { SERVER = 101, CLIENT = 102, STRANGER = 103 };

struct world {
	struct guard g;
	char dir[64];
	int state_dir, memory, pidfd, attest, fabric, enforce, dispatcher;
	uint64_t question, tree, inode;
	bool lease;          /* questions ask for a lease */
	Belay__Lease leased; /* of the last answer; generation 0: none */
	struct lease_book *book;
	struct heritage_kept kept; /* the book, for a successor */
	bool foreign;              /* whoever is attested has mapped what nobody enrolled */
};

extern struct world *w;

int arrow_to(enum role role);
void turn(void);
void *next(int fd, const ProtobufCMessageDescriptor *d);
void say(int fd, const void *m);
bool attest_one(void);
Belay__ToFabric *order(void);
void fabric_says(uint64_t id, int error, const char *local, uint64_t inode);
uint64_t expect(Belay__ToFabric__BodyCase kind);
void expect_nothing(void);
void fabric_up(const char *const (*flows)[2], size_t n);
void ask_on(Belay__Question__Call call, uint32_t pid, const char *address, int sock);
void ask(Belay__Question__Call call, uint32_t pid, const char *address);
#define NO_ANSWER 1
int answer(void);
void load(const char *text);
void guard_start(void);
void guard_stop(void);
int setup(void **state);
int teardown(void **state);
void listening(const char *at);
void connected(const char *from, const char *to);
