/*
 * `belay node`: init and what all its verbs share (node_verb.h; docs/protocol.md, 1).
 * Input: the instance's administrator.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "crypto/x509.h"
#include "guard/auditing.h"
#include "guard/control.h"
#include "guard/node_verb.h"
#include "guard/pb.h"
#include "registry/registry.h"
#include "signer.pb-c.h"

#define DOMAIN_DEFAULT "belay.internal"

void node_verb_free(struct node_verb *v)
{
	free(v->seen);
	secret_zero(v, sizeof(*v));
	free(v);
}

struct node_verb *node_verb_new(struct guard *g, uint64_t client)
{
	struct node_verb *v = calloc(1, sizeof(*v));
	const struct client *c = control_client(g, client);
	if (!v)
		return NULL;
	v->guard = g;
	v->client = client;
	v->uid = c ? c->uid : 0;
	return v;
}

void node_verb_fail(struct node_verb *v, int error, const char *what, const char *why)
{
	control_error(v->guard, v->client, error, "cannot %s: %s", what,
		why && *why ? why : strerror(-error));
	node_verb_free(v);
}

/* "ip:port" with both. */
static int port_parse(const char *text, struct addr *ret)
{
	return addr_parse(text, ret) == 0 && ret->port ? 0 : -EINVAL;
}

/* Name and addresses of a node to be; says what is wrong with them. */
int node_names_parse(struct node_verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (!x509_node_valid(m->name)) {
		control_error(g, v->client, -EINVAL,
			"'%.64s' cannot be a node's name (letters, digits, . _ -)", m->name);
		return -EINVAL;
	}
	if (!m->n_addresses || m->n_addresses > X509_ADDRESSES_MAX) {
		control_error(g, v->client, -EINVAL,
			"a node needs 1 to %d addresses of its own (try --address 10.77.0.1)",
			X509_ADDRESSES_MAX);
		return -EINVAL;
	}
	snprintf(v->name, sizeof(v->name), "%s", m->name);
	for (size_t i = 0; i < m->n_addresses; i++) {
		struct addr *a = &v->addresses[i];
		const char *taken = NULL;
		if (addr_parse(m->addresses[i], a) == 0 && !a->port)
			taken = remote_address_taken(g, a, m->name);
		else
			taken = "no address, or one with a port";
		if (taken) {
			control_error(g, v->client, -EADDRINUSE, "%.64s cannot be %s's: %s%s",
				m->addresses[i], m->name,
				taken[0] == 'n' && taken[1] == 'o' ? "it is " : "it belongs to ",
				taken);
			return -EADDRINUSE;
		}
	}
	v->n_addresses = m->n_addresses;
	return 0;
}

int node_ports_parse(struct node_verb *v, const Belay__NodeRequest *m)
{
	if (port_parse(m->listen, &v->listen) < 0 ||
		(*m->data && port_parse(m->data, &v->data) < 0)) {
		control_error(v->guard, v->client, -EINVAL,
			"--listen and --data take ADDRESS:PORT (try --listen 192.0.2.1:7421)");
		return -EINVAL;
	}
	if (!*m->data) {
		v->data = v->listen;
		v->data.port++;
	}
	return 0;
}

int node_need_free(struct guard *g, uint64_t client)
{
	if (!g->node[0])
		return 0;
	control_error(g, client, -EEXIST, "this is node %s of a domain already", g->node);
	return -EEXIST;
}

/* ---- init ---- */

static void inited(struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct node_verb *v = ctx;
	const Belay__FromSigner *m = reply;
	struct error e = ERROR_INIT;
	if (error || m->error) {
		node_verb_fail(v, error ? error : m->error, "make a domain", error ? NULL : m->why);
		return;
	}
	int r = remote_self_set(g, v->name, v->addresses, v->n_addresses, &v->listen, &v->data, &e);
	if (r < 0) {
		node_verb_fail(v, r, "keep the node's name", e.text);
		return;
	}
	if (auditing_admin(g, v->uid, "node-join", v->name, 0) < 0)
		log_error("cannot log that node %s was made", v->name);
	remote_identity_ask(g);
	char text[256], at[ADDR_TEXT_MAX];
	addr_format(&v->listen, true, at);
	snprintf(text, sizeof(text), "node %s, first of its domain, listens on %s", v->name, at);
	control_text(g, v->client, text);
	node_verb_free(v);
}

static void verb_init(struct node_verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	if (node_need_free(g, v->client) < 0 || node_names_parse(v, m) < 0 ||
		node_ports_parse(v, m) < 0) {
		node_verb_free(v);
		return;
	}
	const char *domain = *m->trust_domain ? m->trust_domain : DOMAIN_DEFAULT;
	Belay__SignerInit o = BELAY__SIGNER_INIT__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.trust_domain = pb_text(domain);
	o.node = v->name;
	o.n_addresses = m->n_addresses;
	o.addresses = m->addresses;
	o.life_s = m->life_s;
	out.body_case = BELAY__TO_SIGNER__BODY_INIT;
	out.init = &o;
	int r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, inited, v, NULL);
	if (r < 0)
		node_verb_fail(v, r, "ask the signer", NULL);
}

/* ---- requests ---- */

void remote_control(struct guard *g, uint64_t client, const void *node_request)
{
	const Belay__NodeRequest *m = node_request;
	struct node_verb *v = node_verb_new(g, client);
	if (!v) {
		control_error(g, client, -ENOMEM, "out of memory");
		return;
	}
	switch (m->verb) {
	case BELAY__NODE_REQUEST__VERB__INIT:
		verb_init(v, m);
		return;
	case BELAY__NODE_REQUEST__VERB__INVITE:
		node_verb_invite(v, m);
		return;
	case BELAY__NODE_REQUEST__VERB__JOIN:
		node_verb_join(v, m);
		return;
	case BELAY__NODE_REQUEST__VERB__LIST:
		remote_list(g, client);
		node_verb_free(v);
		return;
	case BELAY__NODE_REQUEST__VERB__REMOVE:
		node_verb_remove(v, m);
		return;
	default:
		node_verb_fail(v, -ENOSYS, "do that", "there is no such request");
	}
}
