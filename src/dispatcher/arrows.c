/*
 * The arrows of role.def. An arrow is a socket pair; each end is sent to one verified component,
 * which then speaks with the other directly. An arrow stands as long as both ends' processes do:
 * the generations it was made for are noted in memory belayd keeps, after both ends are sent, so
 * that a successor of this process neither makes a standing one again nor leaves a half-made one.
 */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include "base/log.h"
#include "component.pb-c.h"
#include "dispatcher/dispatcher.h"

static const struct {
	enum role from, to;
} arrows[] = {
#define ARROW(from, to) {ROLE_##from, ROLE_##to},
#include "ipc/role.def"
#undef ARROW
};
_Static_assert(ARRAY_LEN(arrows) <= ARROWS_MAX, "memory has room for every arrow");

int arrows_open(struct dispatcher *d, struct error *e)
{
	_cleanup_close_ int fd = component_kept(&d->component, "arrows");
	struct stat st;
	if (fd >= 0 && (fstat(fd, &st) < 0 || st.st_size != (off_t)sizeof(struct memory)))
		return error_set(e, -EBADF, "the kept memory of arrows has another size");
	if (fd < 0) {
		fd = memfd_create("belay-arrows", MFD_CLOEXEC | MFD_ALLOW_SEALING);
		if (fd < 0 || ftruncate(fd, sizeof(struct memory)) < 0 ||
			fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
			return error_errno(e, -errno, "cannot make the memory of arrows");
		int r = component_keep(&d->component, "arrows", fd);
		if (r < 0)
			return error_errno(e, r, "cannot give belayd the memory of arrows");
	}
	d->memory = mmap(NULL, sizeof(struct memory), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	return d->memory == MAP_FAILED ? error_errno(e, -errno, "cannot map the memory of arrows")
				       : 0;
}

void peer_reject(struct dispatcher *d, enum role role, uint32_t generation, const char *why)
{
	log_error("%s, start %u: %s", role_name(role), generation, why);
	if (component_reject(&d->component, role, generation, why) < 0)
		log_error("belayd does not answer");
	ipc_chan_deinit(&d->peer[role].chan);
}

static int arrow_send(struct peer *to, const struct peer *other, int fd)
{
	Belay__ToComponent m = BELAY__TO_COMPONENT__INIT;
	Belay__Arrow a = BELAY__ARROW__INIT;
	a.role = other->role;
	a.pid = other->pid;
	a.generation = other->generation;
	m.body_case = BELAY__TO_COMPONENT__BODY_ARROW;
	m.arrow = &a;
	return ipc_send(&to->chan, &m.base, &fd, 1);
}

static void arrow_make(struct dispatcher *d, size_t i)
{
	struct peer *from = &d->peer[arrows[i].from], *to = &d->peer[arrows[i].to];
	int pair[2];
	if (!ipc_chan_open(&from->chan) || !ipc_chan_open(&to->chan))
		return;
	if (d->memory->arrow[i].from == from->generation &&
		d->memory->arrow[i].to == to->generation)
		return;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0) {
		log_error("cannot make an arrow: %s", strerror(errno));
		return;
	}
	_cleanup_close_ int a = pair[0], b = pair[1];
	/* An end that cannot be told is dying: its successor comes back here. */
	if (arrow_send(from, to, a) < 0 || arrow_send(to, from, b) < 0)
		return;
	/* What is still queued here would die with us: a successor makes that arrow again. */
	if (from->chan.queued || to->chan.queued)
		return;
	d->memory->arrow[i].from = from->generation;
	d->memory->arrow[i].to = to->generation;
	log_info("arrow %s -> %s", role_name(from->role), role_name(to->role));
}

void arrows_make(struct dispatcher *d, enum role role)
{
	for (size_t i = 0; i < ARRAY_LEN(arrows); i++)
		if (arrows[i].from == role || arrows[i].to == role)
			arrow_make(d, i);
}
