/*
 * dispatcher: checks each component against its start record before it gets a single descriptor,
 * makes the arrows of role.def, accepts connections and passes them on. It parses no byte of a
 * connection; its input is belayd's records, the guard's listening orders, and the credentials the
 * kernel keeps of each connection.
 */
#pragma once

#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

#include "base/addr.h"
#include "dispatcher/rate.h"
#include "ipc/component.h"

struct Belay__Listen;
struct Belay__Publish;

#define LISTENERS_MAX 1024
#define ACCEPT_BATCH 32 /* connections a turn of the loop */
#define ACCEPT_QUEUE_MAX \
	65536u /* bytes waiting for a component; beyond, connections wait in the kernel */
#define ACCEPT_PAUSE_MS 10 /* then we look again */
#define LISTENER_CONFIRM_MS \
	10000u /* a new guard says in this time which listeners it still wants */
#define ARROWS_MAX 64

/* The component that fills a role, once verified. */
struct peer {
	enum role role;
	uint32_t pid, generation;
	struct ipc_chan chan;
	struct dispatcher *dispatcher;
};

/* What a successor must know; a memfd kept by belayd. Each word is written after the act it tells
 * of. */
struct memory {
	struct {
		uint32_t from, to; /* generations both ends had when this arrow was made */
	} arrow[ARROWS_MAX];
	uint32_t guard; /* generation of the guard that confirmed the listeners */
};

enum listener_kind { LISTENER_CONTROL, LISTENER_LINK, LISTENER_DATA, LISTENER_PUBLISHED };

struct listener {
	LIST_ENTRY(listener) link;
	struct dispatcher *dispatcher;
	enum listener_kind kind;
	uint64_t id; /* published */
	struct addr addr;
	bool confirmed; /* the guard of now wants it */
	int fd;
	uv_poll_t poll;
};

struct dispatcher {
	struct component component;
	struct peer peer[_ROLE_N];
	struct memory *memory;
	LIST_HEAD(, listener) listeners;
	size_t n_listeners;
	uv_timer_t pause, confirm;
	struct rate rate;
};

/* verify.c: is this process the one belayd started? 0, or -errno with the reason in e. */
int verify_component(enum role role, uint32_t pid, uint64_t start_time, uint32_t uid, int pidfd,
	struct error *e) _must_check_;

/* arrows.c */
int arrows_open(struct dispatcher *d, struct error *e) _must_check_;
/* Makes every arrow of this role that does not stand between the present two ends. */
void arrows_make(struct dispatcher *d, enum role role);
/* Has belayd end the component. */
void peer_reject(struct dispatcher *d, enum role role, uint32_t generation, const char *why);

/* listeners.c: sockets outside, made on the guard's order. */
int listeners_open(struct dispatcher *d, struct error *e) _must_check_;
void listeners_guard_started(struct dispatcher *d);
/* Watches exactly those listeners whose taker is there and keeps up; the others' connections wait
 * in the kernel. */
void listeners_update(struct dispatcher *d);
/* Calls listeners_update() after ACCEPT_PAUSE_MS. */
void listeners_pause(struct dispatcher *d);
/* Who takes the connections of this listener. */
struct peer *listener_taker(struct listener *l);
int listeners_listen(struct dispatcher *d, const struct Belay__Listen *m);
int listeners_publish(struct dispatcher *d, const struct Belay__Publish *m);
void listeners_unpublish(struct dispatcher *d, uint64_t id);

/* accept.c */
void accept_ready(struct listener *l);
