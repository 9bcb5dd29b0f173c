/*
 * Channels in advance (docs/protocol.md, 4a): entries of the key table that are not open yet. Both
 * nodes have entered them under keys of their own; the connecting side takes one for a program's
 * socket without asking anybody, and the accepting side opens it when its OPEN comes.
 *
 * Input: the guard, and for OPEN the other node, authenticated under the channel's key. A reserved
 * entry belongs to the data connection it was made for and goes with it, so that an OPEN meets its
 * entry or the connection is lost at both sides. Without a socket (the lease has ended) it only
 * says no, until its time is over.
 *
 * Cost: opening is one connect and one getsockname; nobody is asked or waited for.
 */
#include "conn/reserve.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "conn/internal.h"

/* Of an entry that is not open yet; freed when it opens. */
struct reserve {
	uint64_t lease;
	struct addr to; /* accepting side */
};

int engine_reserve_add(struct engine *e, const struct engine_channel *in, uint64_t lease,
	const struct addr *to, int *fd)
{
	e->now = clock_mono_ms();
	struct peer *p = peer_find(e, in->node);
	struct carrier *c = p ? &p->carriers[in->id[0] % ENGINE_CARRIERS] : NULL;
	struct reserve *r = calloc(1, sizeof(*r));
	int n = !r ? -ENOMEM : !c || !c->up ? -EHOSTUNREACH : 0;
	if (n == 0 && table_find(e, in->id))
		n = -EEXIST; /* written once */
	if (n == 0) {
		r->lease = lease;
		r->to = *to;
		n = channel_new(e, in, c, in->initiator, fd, r);
	}
	if (n < 0)
		free(r);
	if (*fd >= 0)
		close(take_fd(fd));
	return n;
}

/* One that may be opened: the entry is there, on a connection that stands, and was not before. */
static struct channel *reserved(struct engine *e, const uint8_t *id)
{
	struct channel *ch = entry_channel(table_find(e, id));
	return ch && ch->reserve && ch->initiator && ch->carrier->up ? ch : NULL;
}

static int open_on(struct engine *e, struct channel *ch)
{
	free(take_ptr(ch->reserve));
	ch->leased = true;
	ch->last_ms = e->now;
	int r = engine_watch(e, ch->fd, &ch->watch, WATCH_CHANNEL);
	if (r == 0 && ch->idle_ms)
		engine_schedule(e, e->now + ch->idle_ms);
	return r;
}

void engine_reserve_take(struct engine *e, const uint8_t id[FRAME_CHANNEL_LEN], int *fd)
{
	e->now = clock_mono_ms();
	struct channel *ch = reserved(e, id);
	if (!ch) {
		fd_reset(take_fd(fd));
		e->ops.closed(e->data, id,
			&(struct engine_result){
				.reason = "no data connection to the other node", .leased = true});
		return;
	}
	ch->fd = take_fd(fd);
	fd_tune(ch->fd);
	if (open_on(e, ch) < 0)
		channel_close(e, ch, FRAME_RESET_NONE, "out of memory");
	else
		channel_start(e, ch);
	engine_wake(e);
}

bool reserve_open(struct engine *e, struct channel *ch)
{
	struct sockaddr_storage sa;
	socklen_t len;
	struct addr local = {0}, to = ch->reserve->to;
	if (ch->fd < 0) {
		/* RESET is sealed like any other frame: whoever opened it has the key. */
		ch->started = true;
		channel_close(e, ch, FRAME_RESET_ENDED, "opened after the lease had ended");
		return false;
	}
	int family = to.ip_len == 4 ? AF_INET : AF_INET6;
	int r = addr_to_sockaddr(&to, family, &sa, &len);
	if (r == 0)
		r = connect(ch->fd, (struct sockaddr *)&sa, len) < 0 ? -errno : 0;
	len = sizeof(sa);
	if ((r == 0 || r == -EINPROGRESS) && getsockname(ch->fd, (struct sockaddr *)&sa, &len) == 0)
		r = addr_from_sockaddr(&sa, len, &local);
	ch->started = true;
	if (r == 0)
		r = open_on(e, ch);
	if (r < 0) {
		channel_close(e, ch, FRAME_RESET_PROGRAM, "its listener does not take it");
		return false;
	}
	e->ops.used(e->data, ch->entry.id, &local);
	return true;
}

void reserve_free(struct channel *ch)
{
	free(take_ptr(ch->reserve));
}

void engine_reserve_end(struct engine *e, uint64_t lease)
{
	e->now = clock_mono_ms();
	for (size_t i = 0; i < e->table_size; i++) {
		struct entry *en = LIST_FIRST(&e->table[i]), *next;
		for (; en; en = next) {
			next = LIST_NEXT(en, hash);
			struct channel *ch = entry_channel(en);
			if (!ch || !ch->reserve || (lease && ch->reserve->lease != lease))
				continue;
			if (ch->initiator)
				channel_close(e, ch, FRAME_RESET_NONE, "");
			else if (ch->fd >= 0)
				close(take_fd(&ch->fd));
		}
	}
}
