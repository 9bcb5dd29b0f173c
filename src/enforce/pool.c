/*
 * Sockets of the fabric in stock, because making one costs two hops and giving one costs none. The
 * first of them also tells which network namespace the fabric is. Input: the guard's descriptors,
 * each checked to be what was asked for. Cost of a trapped socket(2): one ADDFD, and a hundredth of
 * a refill.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/log.h"
#include "enforce/enforce.h"
#include "enforce/target.h"

#define POOL_RETRY_MS 1000
#define POOL_MARKED_BATCH FDS_PASS_MAX /* they go fast */
#define POOL_MARKED_LOW 24

void pool_init(struct enforce *e)
{
	for (int i = 0; i < POOLS; i++) {
		e->pool[i].family = i & 1 ? AF_INET6 : AF_INET;
		e->pool[i].transport =
			i & 2 ? BELAY__TRANSPORT__TRANSPORT_UDP : BELAY__TRANSPORT__TRANSPORT_TCP;
	}
}

static struct pool *pool_find(
	struct enforce *e, int family, Belay__Transport transport, uint32_t mark)
{
	for (int i = 0; i < POOLS + POOLS_MARKED; i++)
		if (e->pool[i].family == family && e->pool[i].transport == transport &&
			e->pool[i].mark == mark)
			return &e->pool[i];
	return NULL;
}

static void pool_empty(struct pool *p)
{
	while (p->n)
		close(p->fd[--p->n]);
}

/* The sockets of a lease, perhaps none yet. */
static struct pool *pool_of_lease(struct enforce *e, const struct leased *l)
{
	struct pool *p = pool_find(e, l->family, BELAY__TRANSPORT__TRANSPORT_TCP, l->mark);
	if (!p) {
		p = &e->pool[POOLS];
		for (int i = POOLS; i < POOLS + POOLS_MARKED; i++)
			if (e->pool[i].used < p->used)
				p = &e->pool[i];
		pool_empty(p);
		p->family = l->family;
		p->mark = l->mark;
	}
	if (p->generation != l->generation)
		p->asked_ms = 0;
	p->lease = l->number;
	p->generation = l->generation;
	p->used = ++e->lease_uses;
	return p;
}

static void pool_want(struct enforce *e, struct pool *p)
{
	uint64_t now = clock_mono_ms();
	if (p->n >= (p->mark ? POOL_MARKED_LOW : POOL_LOW) || !ipc_chan_open(&e->guard) ||
		(p->asked_ms && now - p->asked_ms < POOL_RETRY_MS))
		return;
	Belay__SocketsWanted w = BELAY__SOCKETS_WANTED__INIT;
	Belay__FromEnforce m = BELAY__FROM_ENFORCE__INIT;
	w.family = (uint32_t)p->family;
	w.transport = p->transport;
	w.count = p->mark ? POOL_MARKED_BATCH : POOL_BATCH;
	w.lease = p->lease;
	w.generation = p->generation;
	m.body_case = BELAY__FROM_ENFORCE__BODY_SOCKETS_WANTED;
	m.sockets_wanted = &w;
	if (ipc_send(&e->guard, &m.base, NULL, 0) >= 0)
		p->asked_ms = now;
}

void pool_refill(struct enforce *e)
{
	for (int i = 0; i < POOLS; i++)
		pool_want(e, &e->pool[i]);
}

void pool_reset(struct enforce *e)
{
	for (int i = 0; i < POOLS + POOLS_MARKED; i++)
		e->pool[i].asked_ms = 0;
}

static int socket_check(struct enforce *e, int fd, const struct pool *p)
{
	int type = p->transport == BELAY__TRANSPORT__TRANSPORT_UDP ? SOCK_DGRAM : SOCK_STREAM;
	uint64_t cookie = sock_cookie_netns(fd);
	if (sock_domain(fd) != p->family || sock_int(fd, SOL_SOCKET, SO_TYPE) != type || !cookie)
		return -EBADMSG;
	if (e->cookie && e->cookie != cookie)
		log_warn("the fabric is another one now: sockets of the old one are refused");
	e->cookie = cookie;
	return 0;
}

int pool_add(struct enforce *e, const Belay__Sockets *m, int *fds, size_t n_fds)
{
	struct pool *p = pool_find(e, (int)m->family, m->transport, m->mark);
	if (!p)
		return m->mark ? 0 : -EBADMSG; /* it has given way */
	p->asked_ms = n_fds ? 0 : p->asked_ms; /* none: ask again after a while */
	for (size_t i = 0; i < n_fds && p->n < POOL_MAX; i++) {
		uint64_t before = e->cookie;
		int r = socket_check(e, fds[i], p);
		if (r < 0)
			return r;
		for (int k = 0; before && before != e->cookie && k < POOLS + POOLS_MARKED; k++)
			pool_empty(&e->pool[k]);
		p->fd[p->n++] = take_fd(&fds[i]);
	}
	for (uint32_t i = 0; i < JOURNAL_SLOTS && e->waiting; i++) {
		struct request *r = &e->request[i];
		if (r->state == REQUEST_WAIT_SOCKETS)
			call_serve(e, r);
	}
	return 0;
}

/* The filter let only what follows through, but a filter is its owner's own work: look again. */
static int socket_wanted(const struct seccomp_data *d, int *family, Belay__Transport *transport)
{
	int type = (int)d->args[1], protocol = (int)d->args[2];
	*family = (int)d->args[0];
	if (*family != AF_INET && *family != AF_INET6)
		return -EAFNOSUPPORT;
	if (type & ~(0xf | SOCK_NONBLOCK | SOCK_CLOEXEC))
		return -EINVAL;
	switch (type & 0xf) {
	case SOCK_STREAM:
		*transport = BELAY__TRANSPORT__TRANSPORT_TCP;
		return protocol == 0 || protocol == IPPROTO_TCP ? 0 : -EPROTONOSUPPORT;
	case SOCK_DGRAM:
		*transport = BELAY__TRANSPORT__TRANSPORT_UDP;
		return protocol == 0 || protocol == IPPROTO_UDP ? 0 : -EPROTONOSUPPORT;
	case SOCK_RAW:
		return -EPERM;
	default:
		return -ESOCKTNOSUPPORT;
	}
}

/* Marked for what the process has a lease for, should it connect there; else as good as any. */
static struct pool *pool_choose(
	struct enforce *e, struct request *r, int family, Belay__Transport transport)
{
	pid_t pid;
	const struct leased *l = NULL;
	if (e->n_leased && transport == BELAY__TRANSPORT__TRANSPORT_TCP &&
		target_process((pid_t)r->n.pid, &pid, &r->pidfd) == 0) {
		r->pid = (uint32_t)pid;
		l = leased_likely(e, r, family);
	}
	struct pool *p = l ? pool_of_lease(e, l) : NULL;
	if (p && !p->n)
		pool_want(e, p);
	return p && p->n ? p : pool_find(e, family, transport, 0);
}

void pool_serve(struct enforce *e, struct request *r)
{
	int family, type = (int)r->n.data.args[1];
	Belay__Transport transport;
	int bad = socket_wanted(&r->n.data, &family, &transport);
	if (bad < 0) {
		call_reply(e, r, bad, 0);
		return;
	}
	struct pool *p = pool_choose(e, r, family, transport);
	if (!p->n) {
		pool_want(e, p);
		call_wait(e, r, REQUEST_WAIT_SOCKETS);
		return;
	}
	_cleanup_close_ int fd = p->fd[p->n - 1];
	if ((type & SOCK_NONBLOCK) && fcntl(fd, F_SETFL, O_RDWR | O_NONBLOCK) < 0) {
		fd = -1;
		call_reply(e, r, -EMFILE, 0);
		return;
	}
	p->n--;
	/*
	 * Two steps, although the kernel knows one (FLAG_SEND): that one, when we are killed inside
	 * it, leaves the caller with the answer 0, which it would take for a socket. This way it
	 * waits for our successor, and at worst holds a descriptor it does not know of.
	 */
	struct seccomp_notif_addfd a = {.id = r->n.id,
		.srcfd = (uint32_t)fd,
		.newfd_flags = type & SOCK_CLOEXEC ? O_CLOEXEC : 0};
	int n = ioctl(r->tree->notify, SECCOMP_IOCTL_NOTIF_ADDFD, &a), error = errno;
	if (n >= 0 && transport == BELAY__TRANSPORT__TRANSPORT_UDP)
		sockets_note(e, r, fd, n);
	close(take_fd(&fd));
	if (n >= 0)
		call_reply(e, r, 0, n);
	else if (error == ENOENT)
		call_drop(e, r);
	else
		call_reply(e, r, error == EMFILE || error == ENFILE ? -error : -ENOBUFS, 0);
	pool_want(e, p);
}
