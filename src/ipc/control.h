/* Where an instance is found. Used by the command line, `belay run` and belayd, so that all agree.
 */
#pragma once

#include "base/error.h"

#define CONTROL_VERSION 1
#define CONTROL_WAIT_S 90 /* for an answer; the instance itself ends idle connections sooner */
/*
 * Descriptor numbers of the programs' Unix datagram sockets. The filter of `belay run` hands what
 * is sent through these numbers to enforce, which gives the sockets these numbers. Nothing rests on
 * it: the sockets themselves send nothing. The number of them is a power of two, the first a
 * multiple.
 */
#define DATAGRAM_FD_FIRST 1008
#define DATAGRAM_FDS 16

#define INSTANCE_DIR_MAX 200 /* reached through a descriptor, so sun_path does not limit it */

/*
 * An instance is a directory: DIR/control is the control socket (SEQPACKET), DIR/state/ROLE/ its
 * files. Order of search: --dir or BELAY_DIR; the user's own (XDG_STATE_HOME/belay, else
 * ~/.local/state/belay) if its control socket answers; the host's (/run/belay, state in
 * /var/lib/belay).
 */
struct instance {
	char dir[INSTANCE_DIR_MAX];
	char found[128]; /* "--dir", "BELAY_DIR", "the user's own instance", "the host's instance"
			  */
};

/* Default directory of this user's private instance, or the host's for uid 0. For belayd without
 * --dir. */
int instance_default(struct instance *ret, struct error *e) _must_check_;
/* Finds and connects. dir may be NULL. Return: connected socket, or -errno with e set. */
int instance_connect(const char *dir, struct instance *ret, struct error *e) _must_check_;
/* Again to the instance of that directory, however its name looks by now. Return: socket, or
 * -errno. */
int instance_reconnect(int dirfd) _must_check_;
