/*
 * Messages between our processes: one protobuf envelope a SOCK_SEQPACKET packet, descriptors beside
 * it.
 *
 * An `ipc_chan` belongs to one libuv loop and one thread. Sending never blocks: what the socket
 * does not take is queued up to IPC_QUEUE_MAX bytes; beyond that the peer is hung and the channel
 * closes itself. Cost: one sendmsg(2) or recvmsg(2) and one pack or unpack a message; a message is
 * copied once each way.
 */
#pragma once

#include <protobuf-c/protobuf-c.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/queue.h>
#include <uv.h>

#include "base/cleanup.h"
#include "base/fds.h"

#define IPC_MSG_MAX (64u * 1024)
#define IPC_QUEUE_MAX (4u * 1024 * 1024)
#define IPC_UNPACK_MAX (512u * 1024) /* memory one unpacked message may take */

struct ipc_chan;

/*
 * One message. The callee takes descriptors by setting their slots to -1; what it leaves is closed.
 * `msg` is unpacked by ipc_unpack() inside. Return: 0, or negative: the peer surprised us, close.
 */
typedef int (*ipc_message_fn)(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds);
/* The peer closed, or ipc closed it after an error. The channel is dead; deinit is still the
 * owner's. */
typedef void (*ipc_closed_fn)(struct ipc_chan *chan, int reason);

struct ipc_queued;
struct ipc_chan {
	int fd; /* -1: not open */
	uv_poll_t *poll;
	ipc_message_fn on_message;
	ipc_closed_fn on_closed;
	void *data; /* the owner's */
	STAILQ_HEAD(, ipc_queued) queue;
	size_t queued;
	bool stranger;   /* the peer is none of ours: its descriptors may wait when closed */
	bool reset;      /* the peer is known to have died; its last messages are being read */
	bool *destroyed; /* set while dispatching, so that a callback may deinit */
};

/* Takes fd. The struct may be embedded; it must be deinit'ed before its memory goes. */
int ipc_chan_init(struct ipc_chan *c, uv_loop_t *loop, int fd, ipc_message_fn on_message,
	ipc_closed_fn on_closed, void *data) _must_check_;
/* Safe on a zeroed or already closed channel, and from within its own callbacks. */
void ipc_chan_deinit(struct ipc_chan *c);
/* Reads what is there now, as the loop would. The channel may close itself. */
void ipc_chan_drain(struct ipc_chan *c);
static inline bool ipc_chan_open(const struct ipc_chan *c)
{
	return c->poll != NULL;
}

/* Sends m. fds stay the caller's (queued messages hold duplicates). -EPIPE when closed, -EMSGSIZE.
 */
int ipc_send(
	struct ipc_chan *c, const ProtobufCMessage *m, const int *fds, size_t n_fds) _must_check_;
/* The same for a message packed before. */
int ipc_send_packed(struct ipc_chan *c, const uint8_t *buf, size_t len, const int *fds,
	size_t n_fds) _must_check_;

/*
 * Unpacks with a capped allocator; NULL if malformed, too large or holding unknown fields anywhere.
 * Free with ipc_free(). ipc_unpack_lenient() accepts unknown fields: for messages of other nodes.
 */
void *ipc_unpack(const ProtobufCMessageDescriptor *d, const uint8_t *buf, size_t len);
void *ipc_unpack_lenient(const ProtobufCMessageDescriptor *d, const uint8_t *buf, size_t len);
void ipc_free(void *message);

/* Blocking use, for the command line: one message each way on a plain descriptor. */
int ipc_send_fd(int fd, const ProtobufCMessage *m, const int *fds, size_t n_fds) _must_check_;
/* -EPIPE at end of stream. *ret is freed with ipc_free(); descriptors are the caller's. */
int ipc_recv_fd(int fd, const ProtobufCMessageDescriptor *d, void **ret, int *fds,
	size_t *ret_n_fds) _must_check_;
