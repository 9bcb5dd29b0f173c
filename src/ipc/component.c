/*
 * The frame of a component process (component.h). Input: the command line and descriptors of
 * belayd, and ToComponent messages of the dispatcher, which has no reason to lie but is checked all
 * the same: a message that is not exactly one of the schema, with exactly its descriptors, ends
 * this process. Not on any hot path: a message a connection or a restarted peer.
 */
#include "ipc/component.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "component.pb-c.h"

/* ---- what is inherited ---- */

static int check_socket(int fd)
{
	int type = 0, domain = 0;
	socklen_t len = sizeof(type);
	if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 ||
		getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0)
		return -errno;
	return type == SOCK_SEQPACKET && domain == AF_UNIX ? 0 : -ENOTSOCK;
}

static int check_stat(int fd, mode_t kind)
{
	struct stat st;
	if (fstat(fd, &st) < 0)
		return -errno;
	return !kind || (st.st_mode & S_IFMT) == kind ? 0 : -EBADF;
}

static int check_memory(int fd)
{
	/* Only memory files know seals. */
	return fcntl(fd, F_GET_SEALS) < 0 ? -errno : check_stat(fd, S_IFREG);
}

static int heritage_check(struct heritage *h, struct error *e)
{
	struct {
		int fd, r;
		const char *what;
	} all[] = {
		{h->dispatcher, check_socket(h->dispatcher), "dispatcher"},
		{h->belayd, check_socket(h->belayd), "belayd"},
		{h->state_dir, h->state_dir < 0 ? 0 : check_stat(h->state_dir, S_IFDIR), "state"},
		{h->memory, h->memory < 0 ? 0 : check_memory(h->memory), "memory"},
	};
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (all[i].r < 0)
			return error_errno(e, all[i].r,
				"inherited descriptor %d (%s) is not what it must be", all[i].fd,
				all[i].what);
		if (all[i].fd >= 0 && fcntl(all[i].fd, F_SETFD, FD_CLOEXEC) < 0)
			return error_errno(e, -errno, "descriptor %d", all[i].fd);
	}
	for (size_t i = 0; i < h->n_kept; i++)
		if (check_stat(h->kept[i].fd, 0) < 0 ||
			fcntl(h->kept[i].fd, F_SETFD, FD_CLOEXEC) < 0)
			return error_errno(e, -errno, "kept descriptor %s", h->kept[i].name);
	return 0;
}

/* "@FD": the text is in a sealed memfd, because it is too long for an argument. */
static int heritage_from_memfd(const char *number, struct heritage *ret, struct error *e)
{
	char *end;
	errno = 0;
	long fd = strtol(number, &end, 10);
	if (errno || *end || fd < 3 || fd > HERITAGE_FD_MAX)
		return error_set(e, -EINVAL, "no descriptor number in --heritage @%s", number);
	const void *map;
	size_t len;
	int r = fds_map((int)fd, HERITAGE_TEXT_MAX, &map, &len);
	if (r < 0)
		return error_errno(e, r, "cannot read the heritage from descriptor %ld", fd);
	_cleanup_free_ char *text = strndup(map, len);
	munmap((void *)(uintptr_t)map, len);
	close((int)fd);
	return text ? heritage_parse(text, ret, e) : error_set(e, -ENOMEM, "out of memory");
}

/* Nobody may trace us, read our memory or find it in a core; nothing we exec gains anything. */
static int harden(struct error *e)
{
	struct rlimit none = {0};
	if (setrlimit(RLIMIT_CORE, &none) < 0 || prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0 ||
		prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return error_errno(e, -errno, "cannot harden the process");
	if (signal(SIGPIPE, SIG_IGN) == SIG_ERR)
		return error_errno(e, -errno, "cannot ignore SIGPIPE");
	return 0;
}

/* ---- the dispatcher's messages ---- */

static int take_arrow(struct component *c, const Belay__Arrow *a, int *fds, size_t n_fds)
{
	enum role peer = role_from_number(a->role);
	if (!peer || !role_arrow(c->heritage.role, peer) || n_fds != 1 ||
		check_socket(fds[0]) < 0 || !c->ops->on_arrow)
		return -EBADMSG;
	log_info("arrow to %s %u, its start %u", role_name(peer), a->pid, a->generation);
	c->peer[peer] = a->generation;
	return c->ops->on_arrow(c, peer, take_fd(&fds[0]));
}

static int take_connection(struct component *c, const Belay__Connection *m, int *fds, size_t n_fds)
{
	size_t want = m->kind == BELAY__CONNECTION_KIND__CONNECTION_CONTROL ? 2 : 1;
	if (n_fds != want || !c->ops->on_connection)
		return -EBADMSG;
	return c->ops->on_connection(c, m, fds, n_fds);
}

static int take_message(struct component *c, const Belay__ToComponent *m, int *fds, size_t n_fds)
{
	switch (m->body_case) {
	case BELAY__TO_COMPONENT__BODY_ARROW:
		return take_arrow(c, m->arrow, fds, n_fds);
	case BELAY__TO_COMPONENT__BODY_CONNECTION:
		return take_connection(c, m->connection, fds, n_fds);
	case BELAY__TO_COMPONENT__BODY_PEER_ENDED:
	case BELAY__TO_COMPONENT__BODY_PUBLISH:
	case BELAY__TO_COMPONENT__BODY_LISTEN:
		if (c->heritage.role != ROLE_GUARD || n_fds)
			return -EBADMSG;
		return c->ops->on_notice ? c->ops->on_notice(c, m) : 0;
	default:
		return -EBADMSG;
	}
}

static int dispatcher_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	struct component *c = chan->data;
	if (c->ops->on_raw)
		return c->ops->on_raw(chan, buf, len, fds, n_fds);
	Belay__ToComponent *m = ipc_unpack(&belay__to_component__descriptor, buf, len);
	if (!m)
		return -EBADMSG;
	int r = take_message(c, m, fds, n_fds);
	ipc_free(m);
	return r;
}

static void dispatcher_closed(struct ipc_chan *chan, int reason)
{
	struct component *c = chan->data;
	if (reason != -EPIPE && reason != -ECONNRESET) {
		log_error("the dispatcher's socket: %s", strerror(-reason));
		c->failed = true;
	}
	uv_stop(&c->loop);
}

/* belayd asks one thing: whether this loop still turns. */
static int belayd_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	Belay__FromBelayd *m = ipc_unpack(&belay__from_belayd__descriptor, buf, len);
	Belay__ToBelayd reply = BELAY__TO_BELAYD__INIT;
	Belay__Pong pong = BELAY__PONG__INIT;
	int r = -EBADMSG;
	(void)fds;
	if (m && m->body_case == BELAY__FROM_BELAYD__BODY_PING && !n_fds) {
		pong.round = m->ping->round;
		reply.body_case = BELAY__TO_BELAYD__BODY_PONG;
		reply.pong = &pong;
		r = ipc_send(chan, &reply.base, NULL, 0);
	}
	ipc_free(m);
	return r;
}

/* ---- life ---- */

static int component_start(struct component *c, struct error *e)
{
	int r = uv_loop_init(&c->loop);
	if (r < 0)
		return error_errno(e, r, "cannot make the loop");
	r = ipc_chan_init(&c->dispatcher, &c->loop, c->heritage.dispatcher, dispatcher_message,
		dispatcher_closed, c);
	if (r < 0)
		return error_errno(e, r, "cannot watch the dispatcher's socket");
	r = ipc_chan_init(
		&c->belayd, &c->loop, c->heritage.belayd, belayd_message, dispatcher_closed, c);
	return r < 0 ? error_errno(e, r, "cannot watch belayd's socket") : 0;
}

int component_open(struct component *c, int argc, char **argv, const struct component_ops *ops,
	void *data, struct error *e)
{
	memset(c, 0, sizeof(*c));
	c->ops = ops;
	c->data = data;
	if (argc != 3 || strcmp(argv[1], "--heritage"))
		return error_set(
			e, -EINVAL, "%s is part of an instance and is started by belayd", argv[0]);
	int r = argv[2][0] == '@' ? heritage_from_memfd(argv[2] + 1, &c->heritage, e)
				  : heritage_parse(argv[2], &c->heritage, e);
	if (r < 0)
		return r;
	log_init(role_process(c->heritage.role));
	r = heritage_check(&c->heritage, e);
	if (!r)
		r = harden(e);
	if (!r)
		r = component_start(c, e);
	return r;
}

/* A stopped or hung process does not see its sockets close. */
void component_tie(void)
{
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
}

int component_run(struct component *c)
{
	component_tie();
	uv_run(&c->loop, UV_RUN_DEFAULT);
	return c->failed ? 1 : 0;
}

int component_keep(struct component *c, const char *name, int fd)
{
	if (!heritage_name_valid(name))
		return -EINVAL;
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	Belay__Keep keep = BELAY__KEEP__INIT;
	Belay__Drop drop = BELAY__DROP__INIT;
	if (fd >= 0) {
		keep.name = (char *)(uintptr_t)name;
		m.body_case = BELAY__TO_BELAYD__BODY_KEEP;
		m.keep = &keep;
		return ipc_send(&c->belayd, &m.base, &fd, 1);
	}
	drop.name = (char *)(uintptr_t)name;
	m.body_case = BELAY__TO_BELAYD__BODY_DROP;
	m.drop = &drop;
	return ipc_send(&c->belayd, &m.base, NULL, 0);
}

bool component_kept_all(const struct component *c)
{
	return c->belayd.queued ==
	       0; /* what the socket has taken is read, whatever becomes of us */
}

int component_kept(struct component *c, const char *name)
{
	for (size_t i = 0; i < c->heritage.n_kept; i++)
		if (!strcmp(c->heritage.kept[i].name, name))
			return take_fd(&c->heritage.kept[i].fd);
	return -1;
}

int component_reject(struct component *c, enum role role, uint32_t generation, const char *why)
{
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	Belay__Reject reject = BELAY__REJECT__INIT;
	reject.role = role;
	reject.generation = generation;
	reject.why = (char *)(uintptr_t)why;
	m.body_case = BELAY__TO_BELAYD__BODY_REJECT;
	m.reject = &reject;
	return ipc_send(&c->belayd, &m.base, NULL, 0);
}

void component_look(struct component *c)
{
	Belay__ToBelayd m = BELAY__TO_BELAYD__INIT;
	Belay__Look look = BELAY__LOOK__INIT;
	m.body_case = BELAY__TO_BELAYD__BODY_LOOK;
	m.look = &look;
	if (ipc_send(&c->belayd, &m.base, NULL, 0) < 0)
		log_error("belayd does not answer");
}
