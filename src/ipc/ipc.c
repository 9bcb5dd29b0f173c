/*
 * Messages between our processes (ipc.h). The input is another Belay process or the command line: a
 * message that does not unpack exactly is a surprise and closes the channel; nothing is repaired.
 */
#include "ipc/ipc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/discard.h"

struct ipc_queued {
	STAILQ_ENTRY(ipc_queued) link;
	size_t len, n_fds;
	int fds[FDS_PASS_MAX];
	uint8_t buf[];
};

static void queued_free(struct ipc_queued *q)
{
	for (size_t i = 0; i < q->n_fds; i++)
		fds_close_foreign(q->fds[i]);
	explicit_bzero(q->buf, q->len); /* may hold keys */
	free(q);
}

/* What a stranger holds in his queue may be closed with the channel. */
static void chan_close(bool stranger, int fd)
{
	if (stranger)
		(void)fds_discard(fd);
	else
		fds_close_foreign(fd);
}

static void poll_free(uv_handle_t *h)
{
	free(h);
}

void ipc_chan_deinit(struct ipc_chan *c)
{
	if (c->destroyed)
		*c->destroyed = true;
	c->destroyed = NULL;
	if (!c->poll)
		return;
	uv_poll_stop(c->poll);
	c->poll->data = NULL;
	uv_close((uv_handle_t *)c->poll, poll_free);
	c->poll = NULL;
	chan_close(c->stranger, c->fd);
	c->fd = -1;
	while (!STAILQ_EMPTY(&c->queue)) {
		struct ipc_queued *q = STAILQ_FIRST(&c->queue);
		STAILQ_REMOVE_HEAD(&c->queue, link);
		queued_free(q);
	}
	c->queued = 0;
}

static void chan_fail(struct ipc_chan *c, int reason)
{
	ipc_closed_fn fn = c->on_closed;
	ipc_chan_deinit(c);
	if (fn)
		fn(c, reason);
}

/*
 * One message: a question rarely has a second one behind it, and to look costs a system call each
 * time. The loop comes back while more is there. Returns false when the channel is gone.
 */
static bool chan_read(struct ipc_chan *c)
{
	static _Thread_local uint8_t buf[IPC_MSG_MAX];
	bool gone = false, stranger = c->stranger;
	for (;;) {
		int fds[FDS_PASS_MAX];
		size_t n_fds;
		ssize_t n = fds_recv(c->fd, buf, sizeof(buf), fds, &n_fds, MSG_DONTWAIT);
		if (n == -EAGAIN)
			return true;
		/*
		 * The peer died with messages of ours unread. The kernel says so before it hands
		 * over the peer's last messages, and says it once: those still count.
		 */
		if (n == -ECONNRESET && !c->reset) {
			c->reset = true;
			continue;
		}
		if (n <= 0) {
			chan_fail(c, n ? (int)n : -EPIPE);
			return false;
		}
		c->destroyed = &gone;
		int r = c->on_message(c, buf, (size_t)n, fds, n_fds);
		for (size_t k = 0; k < n_fds; k++)
			if (fds[k] >= 0)
				chan_close(stranger, fds[k]);
		explicit_bzero(buf, (size_t)n); /* may hold keys */
		if (gone)
			return false;
		c->destroyed = NULL;
		if (r < 0)
			chan_fail(c, r);
		return r >= 0;
	}
}

static void chan_ready(uv_poll_t *p, int status, int events);

static void chan_watch(struct ipc_chan *c)
{
	int ev = UV_READABLE | (STAILQ_EMPTY(&c->queue) ? 0 : UV_WRITABLE);
	uv_poll_start(c->poll, ev, chan_ready);
}

static void chan_flush(struct ipc_chan *c)
{
	while (!STAILQ_EMPTY(&c->queue)) {
		struct ipc_queued *q = STAILQ_FIRST(&c->queue);
		int r = fds_send(c->fd, q->buf, q->len, q->fds, q->n_fds, MSG_DONTWAIT);
		if (r == -EAGAIN)
			return;
		if (r < 0) {
			chan_fail(c, r);
			return;
		}
		STAILQ_REMOVE_HEAD(&c->queue, link);
		c->queued -= q->len;
		queued_free(q);
	}
	chan_watch(c);
}

/* Reads until nothing is there. False: the channel is gone, and perhaps its memory. */
static bool chan_drain(struct ipc_chan *c)
{
	for (struct pollfd p = {.fd = c->fd, .events = POLLIN}; poll(&p, 1, 0) > 0;)
		if (!chan_read(c))
			return false;
	return true;
}

static void chan_ready(uv_poll_t *p, int status, int events)
{
	struct ipc_chan *c = p->data;
	if (!c)
		return;
	if (status < 0) {
		/* The loop does not watch it any more, so all that is left is read now. */
		if (chan_drain(c))
			chan_fail(c, -EPIPE);
		return;
	}
	if ((events & UV_READABLE) && !chan_read(c))
		return;
	if (events & UV_WRITABLE)
		chan_flush(c);
}

void ipc_chan_drain(struct ipc_chan *c)
{
	if (ipc_chan_open(c))
		(void)chan_drain(c);
}

int ipc_chan_init(struct ipc_chan *c, uv_loop_t *loop, int fd, ipc_message_fn on_message,
	ipc_closed_fn on_closed, void *data)
{
	memset(c, 0, sizeof(*c));
	c->fd = -1;
	STAILQ_INIT(&c->queue);
	uv_poll_t *p = calloc(1, sizeof(*p));
	if (!p) {
		close(fd);
		return -ENOMEM;
	}
	int r = uv_poll_init(loop, p, fd);
	if (r < 0) {
		free(p);
		close(fd);
		return r;
	}
	c->fd = fd;
	c->poll = p;
	c->on_message = on_message;
	c->on_closed = on_closed;
	c->data = data;
	p->data = c;
	chan_watch(c);
	return 0;
}

static int chan_queue(
	struct ipc_chan *c, const uint8_t *buf, size_t len, const int *fds, size_t n_fds)
{
	if (c->queued + len > IPC_QUEUE_MAX)
		return -ENOBUFS;
	struct ipc_queued *q = calloc(1, sizeof(*q) + len);
	if (!q)
		return -ENOMEM;
	memcpy(q->buf, buf, len);
	q->len = len;
	for (; q->n_fds < n_fds; q->n_fds++) {
		q->fds[q->n_fds] = fcntl(fds[q->n_fds], F_DUPFD_CLOEXEC, 3);
		if (q->fds[q->n_fds] < 0) {
			int r = -errno;
			queued_free(q);
			return r;
		}
	}
	STAILQ_INSERT_TAIL(&c->queue, q, link);
	c->queued += len;
	chan_watch(c);
	return 0;
}

int ipc_send_packed(
	struct ipc_chan *c, const uint8_t *buf, size_t len, const int *fds, size_t n_fds)
{
	if (!ipc_chan_open(c))
		return -EPIPE;
	if (len > IPC_MSG_MAX || n_fds > FDS_PASS_MAX)
		return -EMSGSIZE;
	int r = -EAGAIN;
	if (STAILQ_EMPTY(&c->queue))
		r = fds_send(c->fd, buf, len, fds, n_fds, MSG_DONTWAIT);
	return r == -EAGAIN ? chan_queue(c, buf, len, fds, n_fds) : r;
}

int ipc_send(struct ipc_chan *c, const ProtobufCMessage *m, const int *fds, size_t n_fds)
{
	if (!ipc_chan_open(c))
		return -EPIPE;
	size_t len = protobuf_c_message_get_packed_size(m);
	if (len > IPC_MSG_MAX || n_fds > FDS_PASS_MAX)
		return -EMSGSIZE;
	uint8_t small[1024], *buf = small;
	if (len > sizeof(small)) {
		buf = malloc(len);
		if (!buf)
			return -ENOMEM;
	}
	protobuf_c_message_pack(m, buf);
	int r = ipc_send_packed(c, buf, len, fds, n_fds);
	explicit_bzero(buf, len);
	if (buf != small)
		free(buf);
	return r;
}

/* ---- unpacking with a cap ---- */

struct capped {
	size_t left;
};
#define CAPPED_HEAD _Alignof(max_align_t)

static void *capped_alloc(void *data, size_t n)
{
	struct capped *c = data;
	if (n > c->left)
		return NULL;
	c->left -= n;
	/* Its length before it, so that what is freed can be wiped: messages carry keys. */
	size_t *p = malloc(CAPPED_HEAD + n);
	if (!p)
		return NULL;
	*p = n;
	return (char *)p + CAPPED_HEAD;
}

static void capped_free(void *data, void *p)
{
	(void)data;
	if (!p)
		return;
	size_t *head = (size_t *)(void *)((char *)p - CAPPED_HEAD);
	explicit_bzero(p, *head);
	free(head);
}

static bool has_unknown(const ProtobufCMessage *m);

static bool field_has_unknown(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f)
{
	if (f->type != PROTOBUF_C_TYPE_MESSAGE)
		return false;
	const char *base = (const char *)m;
	if (f->label == PROTOBUF_C_LABEL_REPEATED) {
		size_t n = *(const size_t *)(base + f->quantifier_offset);
		ProtobufCMessage *const *v = *(ProtobufCMessage *const *const *)(base + f->offset);
		for (size_t i = 0; i < n; i++)
			if (has_unknown(v[i]))
				return true;
		return false;
	}
	if ((f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF) &&
		*(const uint32_t *)(base + f->quantifier_offset) != f->id)
		return false;
	const ProtobufCMessage *sub = *(const ProtobufCMessage *const *)(base + f->offset);
	return sub && has_unknown(sub);
}

static bool has_unknown(const ProtobufCMessage *m)
{
	if (m->n_unknown_fields)
		return true;
	for (unsigned i = 0; i < m->descriptor->n_fields; i++)
		if (field_has_unknown(m, &m->descriptor->fields[i]))
			return true;
	return false;
}

void *ipc_unpack_lenient(const ProtobufCMessageDescriptor *d, const uint8_t *buf, size_t len)
{
	struct capped cap = {.left = IPC_UNPACK_MAX};
	ProtobufCAllocator a = {.alloc = capped_alloc, .free = capped_free, .allocator_data = &cap};
	return len > IPC_MSG_MAX ? NULL : protobuf_c_message_unpack(d, &a, len, buf);
}

void *ipc_unpack(const ProtobufCMessageDescriptor *d, const uint8_t *buf, size_t len)
{
	ProtobufCMessage *m = ipc_unpack_lenient(d, buf, len);
	if (m && has_unknown(m)) {
		ipc_free(m);
		return NULL;
	}
	return m;
}

void ipc_free(void *message)
{
	ProtobufCAllocator a = {.alloc = capped_alloc, .free = capped_free};
	if (message)
		protobuf_c_message_free_unpacked(message, &a);
}

/* ---- blocking use ---- */

int ipc_send_fd(int fd, const ProtobufCMessage *m, const int *fds, size_t n_fds)
{
	size_t len = protobuf_c_message_get_packed_size(m);
	if (len > IPC_MSG_MAX)
		return -EMSGSIZE;
	_cleanup_free_ uint8_t *buf = malloc(len ? len : 1);
	if (!buf)
		return -ENOMEM;
	protobuf_c_message_pack(m, buf);
	return fds_send(fd, buf, len, fds, n_fds, 0);
}

int ipc_recv_fd(
	int fd, const ProtobufCMessageDescriptor *d, void **ret, int *fds, size_t *ret_n_fds)
{
	_cleanup_free_ uint8_t *buf = malloc(IPC_MSG_MAX);
	if (!buf)
		return -ENOMEM;
	ssize_t n = fds_recv(fd, buf, IPC_MSG_MAX, fds, ret_n_fds, 0);
	if (n <= 0)
		return n ? (int)n : -EPIPE;
	*ret = ipc_unpack(d, buf, (size_t)n);
	if (*ret)
		return 0;
	for (size_t i = 0; i < *ret_n_fds; i++)
		close(fds[i]);
	*ret_n_fds = 0;
	return -EBADMSG;
}
