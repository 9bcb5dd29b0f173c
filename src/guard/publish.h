/* Published ports: a listener that policy lets the outside reach. publish.c has the essay. */
#pragma once

#include "component.pb-c.h"
#include "guard/guard.h"

/* After a listener started, or facts changed: publishes or ends it as policy says now. */
void publish_judge(struct guard *g, struct bind *b);
/* Tells the dispatcher of every published port: a new one, or one that knew our predecessor. */
void publish_again(struct guard *g);
void publish_end(struct guard *g, struct bind *b);
/* The dispatcher's answer to our request. */
void publish_answer(struct guard *g, const Belay__Publish *m);
struct refusal;
/*
 * Why nobody outside reaches the listener at that address. False: nobody listens there, or it is
 * published. Without `whole`, only that it is not: the rest is its user's and the owner's to know.
 */
bool publish_why(
	struct guard *g, const struct addr *a, uint32_t uid, bool whole, struct refusal *ret);
/* Somebody outside connected. Takes fds[0]. */
void publish_connection(struct guard *g, const Belay__Connection *m, int *fds, size_t n_fds);
