/*
 * belay-signer: holds the CA's, the node's and the audit log's keys and signs what the permit table
 * (signer.h) allows. Reads the guard's messages and its own files, nothing else; sees no network
 * and no program.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "ipc/component.h"
#include "sandbox/sandbox.h"
#include "signer/signer.h"

static struct signer signer;
static struct ipc_chan guard, link_chan;

static ProtobufCBinaryData binary(const struct der *d)
{
	return (ProtobufCBinaryData){d->len, d->data};
}

static void link_tell(void)
{
	Belay__SignerToLink m = BELAY__SIGNER_TO_LINK__INIT;
	if (!signer.node_cert.len || !ipc_chan_open(&link_chan))
		return;
	m.key_der = binary(&signer.node_key);
	m.cert_der = binary(&signer.node_cert);
	m.ca_der = binary(&signer.ca);
	int r = ipc_send(&link_chan, &m.base, NULL, 0);
	if (r < 0)
		log_error("cannot give link its identity: %s", strerror(-r));
}

static int guard_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	(void)fds;
	struct error e = ERROR_INIT;
	struct signer_reply reply = {0};
	Belay__FromSigner m = BELAY__FROM_SIGNER__INIT;
	Belay__ToSigner *q = n_fds ? NULL : ipc_unpack(&belay__to_signer__descriptor, buf, len);
	int r = q ? signer_request(&signer, q, &reply, &e) : -EPROTO;
	if (r == -EPROTO) {
		log_error("a request that is none: the guard's arrow ends");
		ipc_free(q);
		return r;
	}
	m.id = q->id;
	m.error = r;
	m.why = e.text;
	m.data = binary(&reply.data);
	m.ca_der = binary(&reply.ca);
	m.cert_der = binary(&reply.cert);
	m.signature = binary(&reply.signature);
	m.holds_ca = signer.ca_key != NULL;
	m.audit_public = (ProtobufCBinaryData){ED25519_PUBLIC_LEN, signer.audit.public_key};
	m.audit_key_name = signer.audit.name;
	if (reply.identity_changed)
		link_tell();
	r = ipc_send(chan, &m.base, NULL, 0);
	signer_reply_clear(&reply);
	ipc_free(q);
	return r;
}

/* Link only listens: a word from it is a surprise. */
static int link_message(
	struct ipc_chan *chan, const uint8_t *buf, size_t len, int *fds, size_t n_fds)
{
	(void)chan, (void)buf, (void)len, (void)fds, (void)n_fds;
	log_error("link spoke to the signer: its arrow ends");
	return -EPROTO;
}

static void closed(struct ipc_chan *chan, int reason)
{
	(void)chan, (void)reason; /* the dispatcher brings a new arrow */
}

static int on_arrow(struct component *c, enum role peer, int fd)
{
	_cleanup_close_ int own = fd;
	struct ipc_chan *chan = peer == ROLE_GUARD ? &guard : peer == ROLE_LINK ? &link_chan : NULL;
	if (!chan)
		return -EBADMSG;
	ipc_chan_deinit(chan);
	int r = ipc_chan_init(chan, &c->loop, take_fd(&own),
		peer == ROLE_GUARD ? guard_message : link_message, closed, NULL);
	if (!r && peer == ROLE_LINK)
		link_tell();
	return r;
}

static const struct component_ops ops = {.on_arrow = on_arrow};

int main(int argc, char **argv)
{
	static struct component c;
	struct error e = ERROR_INIT;
	if (component_open(&c, argc, argv, &ops, NULL, &e) < 0 ||
		signer_open(&signer, c.heritage.state_dir, &e) < 0) {
		fprintf(stderr, "belay-signer: %s\n", e.text);
		return 1;
	}
	const struct sandbox_path state = {.fd = c.heritage.state_dir, .write = true};
	const struct sandbox_args args = {&state, 1};
	if (sandbox_enter(SANDBOX_SIGNER, &args, &e) < 0) {
		fprintf(stderr, "belay-signer: %s\n", e.text);
		return 1;
	}
	int r = component_run(&c);
	signer_close(&signer);
	return r;
}
