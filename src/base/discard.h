/*
 * Closing descriptors that strangers made. close(2) of the last reference can wait: a stream socket
 * lingers as long as its maker said, a file of a file system in user space until its server
 * answers. So a process that serves many leaves such closing to threads of its own.
 */
#pragma once

#include <stdbool.h>

/* Starts the threads; once, after the sandbox stands. Without it closing happens in place. */
int discard_start(void);
/*
 * Closes what may be anything. False: too many wait to be closed; the descriptor is lost, and
 * whoever makes such descriptors is to be refused.
 */
bool fds_discard(int fd);
/* Closes a socket, or what is known not to wait; a lingering one is closed by a thread. */
void fds_close_foreign(int fd);
/* Nothing gets closed any more: every thread waits, and the queue is half full. */
bool discard_jammed(void);
