/* How the notify descriptor gets to the instance: handover.c has the essay. */
#pragma once

#include <pthread.h>

#include "base/error.h"
#include "control.pb-c.h"

#define HANDOVER_TOKEN_LEN 16

struct handover {
	int control; /* connected already, for the first try; or -1 */
	int dir;     /* the instance's directory, opened before it was masked */
	const char *as;
	char **argv;
	/* the rest is its own */
	pthread_t thread;
	int go[2];  /* the notify descriptor's number comes through it; its end: there is none */
	int result; /* 0 or negative */
	struct error error;
};

/* Before the filter is loaded, with one thread and in the namespaces the program is to have. */
int handover_open(struct handover *h, struct error *e) _must_check_;
/* Waits until the instance serves the descriptor, or says why it does not. notify -1: gives up. */
int handover_finish(struct handover *h, int notify, struct error *e) _must_check_;
