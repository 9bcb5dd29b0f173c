/*
 * belay-fabric: the only process with capabilities in the fabric's namespaces. It executes the
 * guard's orders on sockets there and decides nothing; it holds no key and reads no byte of what
 * programs say, but the DNS queries it relays.
 *
 * Order of life: sockets of the host's network for DNS; then the namespaces, made or (a successor)
 * entered again; then the filter, which drops every grant of a predecessor while open connections
 * flow on; then the sandbox; then orders. Both namespaces are kept by belayd and live as long as
 * the instance.
 */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "fabric/fabric.h"
#include "fabric/ns.h"
#include "ipc/component.h"
#include "sandbox/sandbox.h"

static struct fabric fabric;
static struct ipc_chan guard;

static void guard_send(void *data, const Belay__FromFabric *m, const int *fds, size_t n_fds)
{
	(void)data;
	if (!ipc_chan_open(&guard))
		return; /* between two guards: the next one takes a dump */
	int r = ipc_send(&guard, &m->base, fds, n_fds);
	if (r < 0)
		log_error("cannot answer the guard: %s", strerror(-r));
}

static int guard_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	(void)chan;
	Belay__ToFabric *m = ipc_unpack(&belay__to_fabric__descriptor, buf, len);
	int r = m ? fabric_order(&fabric, m, fds, n_fds) : -EBADMSG;
	if (r < 0)
		log_error("an order that is none: the guard's arrow ends");
	ipc_free(m);
	return r;
}

static void guard_closed(struct ipc_chan *chan, int reason)
{
	(void)chan, (void)reason;
	fabric_reset(&fabric);
}

static int on_arrow(struct component *c, enum role peer, int fd)
{
	_cleanup_close_ int own = fd;
	if (peer != ROLE_GUARD)
		return -EBADMSG;
	ipc_chan_deinit(&guard);
	fabric_reset(&fabric);
	return ipc_chan_init(&guard, &c->loop, take_fd(&own), guard_message, guard_closed, NULL);
}

static const struct component_ops ops = {.on_arrow = on_arrow};

static int enter(struct component *c, struct error *e)
{
	bool v6;
	_cleanup_close_ int user = component_kept(c, "fabric-user");
	_cleanup_close_ int net = component_kept(c, "fabric-net");
	if (user >= 0 && net >= 0) {
		int r = ns_enter(user, net, e);
		return r < 0 ? r : ns_configure(&v6, e);
	}
	_cleanup_close_ int new_user = -1, new_net = -1;
	int r = ns_create(&new_user, &new_net, e);
	if (r >= 0)
		r = ns_configure(&v6, e);
	if (r < 0)
		return r;
	r = component_keep(c, "fabric-user", new_user);
	if (r >= 0)
		r = component_keep(c, "fabric-net", new_net);
	return r < 0 ? error_errno(e, r, "cannot give the fabric's namespaces to belayd") : 0;
}

int main(int argc, char **argv)
{
	static struct component c;
	struct error e = ERROR_INIT;
	dns_prepare(&fabric.dns);
	if (component_open(&c, argc, argv, &ops, NULL, &e) < 0 || enter(&c, &e) < 0 ||
		fabric_init(&fabric, &c.loop, guard_send, NULL, &e) < 0 ||
		sandbox_enter(SANDBOX_FABRIC, NULL, &e) < 0) {
		fprintf(stderr, "belay-fabric: %s\n", e.text);
		return 1;
	}
	return component_run(&c);
}
