/*
 * Nodes that were removed from the domain: the list the CA signed, kept in the registry and passed
 * on over every link (docs/protocol.md, 7; src/wire/removals.h).
 *
 * Input: any node may bring the list, its word counts for nothing: only the CA's signature and a
 * version above ours do. So the list cannot be forged, and never goes back.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "guard/auditing.h"
#include "guard/control.h"
#include "guard/node_verb.h"
#include "guard/pb.h"
#include "guard/remote.h"
#include "registry/registry.h"
#include "signer.pb-c.h"

#define META_REMOVALS "node.removals" /* a packed NodeRemovals */

static void removed_log(struct guard *g, uint32_t uid, const char *node, int error)
{
	if (auditing_admin(g, uid, "node-remove", node, error) < 0)
		log_error("cannot log that node %s was removed", node);
}

bool remote_removed(const struct guard *g, const char *node, uint64_t issued)
{
	return removals_has(&g->remote->domain.removals, node, issued);
}

void remote_removed_self(struct guard *g)
{
	struct domain *d = &g->remote->domain;
	if (!g->node[0] || !d->issued || d->out || !remote_removed(g, g->node, d->issued))
		return;
	d->out = true;
	log_error("this node was removed from its domain: the others do not talk to it any more");
	removed_log(g, 0, g->node, 0);
	remote_tell_peers(g);
}

/* ---- telling others ---- */

static void list_send(struct guard *g, const struct remote_node *n)
{
	const struct domain *d = &g->remote->domain;
	Belay__NodeRemovals l = BELAY__NODE_REMOVALS__INIT;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	l.list = pb_bytes(d->list.data, d->list.len);
	l.signature = pb_bytes(d->signature.data, d->signature.len);
	m.body_case = BELAY__NODE_MESSAGE__BODY_REMOVALS;
	m.removals = &l;
	if (remote_send(g, n, &m) < 0)
		log_error("cannot tell node %s which nodes were removed", n->name);
}

void remote_removals_tell(struct guard *g, const struct remote_node *n)
{
	if (g->remote->domain.removals.version)
		list_send(g, n);
}

/* ---- taking a list ---- */

/* 0: it is the CA's, of our domain, and in *ret. */
static int list_verify(struct guard *g, const ProtobufCBinaryData *list,
	const ProtobufCBinaryData *signature, struct removals *ret)
{
	const struct domain *d = &g->remote->domain;
	char domain[X509_DOMAIN_MAX];
	struct error e = ERROR_INIT;
	int r = x509_ca_check(d->ca.data, d->ca.len, domain, &e);
	if (r == 0)
		r = x509_statement_verify(d->ca.data, d->ca.len, list->data, list->len,
			signature->data, signature->len);
	if (r == 0)
		r = removals_decode(list->data, list->len, ret);
	return r == 0 && strcmp(ret->domain, domain) != 0 ? -EKEYREJECTED : r;
}

static int list_keep(
	struct guard *g, const ProtobufCBinaryData *list, const ProtobufCBinaryData *signature)
{
	Belay__NodeRemovals l = BELAY__NODE_REMOVALS__INIT;
	struct error e = ERROR_INIT;
	l.list = *list;
	l.signature = *signature;
	size_t len = belay__node_removals__get_packed_size(&l);
	_cleanup_free_ uint8_t *buf = malloc(len);
	if (!buf)
		return -ENOMEM;
	belay__node_removals__pack(&l, buf);
	int r = registry_meta_set(g->registry, META_REMOVALS, buf, len, &e);
	if (r < 0)
		log_error("%s", e.text);
	return r;
}

static void node_ends(struct guard *g, const struct removal *v)
{
	struct remote_node *n = remote_node_find(g, v->node);
	struct error e = ERROR_INIT;
	removed_log(g, 0, v->node, 0);
	/* One that has joined again since has a later certificate. */
	if (!n || n->issued > v->before)
		return;
	if (registry_node_remove(g->registry, v->node, &e) < 0 && n->linked)
		log_error("%s", e.text);
	remote_node_forget(g, n, "this node was removed");
}

/* Ours from here on, as it was signed. A message's bytes are not: they go with it. */
static int list_own(
	struct domain *d, const ProtobufCBinaryData *raw, const ProtobufCBinaryData *signature)
{
	_cleanup_free_ uint8_t *a = malloc(raw->len + 1), *b = malloc(signature->len + 1);
	if (!a || !b)
		return -ENOMEM;
	memcpy(a, raw->data, raw->len);
	memcpy(b, signature->data, signature->len);
	der_clear(&d->list);
	der_clear(&d->signature);
	d->list = (struct der){take_ptr(a), raw->len};
	d->signature = (struct der){take_ptr(b), signature->len};
	return 0;
}

/* Takes the list over and acts on what is new in it. */
static int list_adopt(struct guard *g, const struct removals *list, const ProtobufCBinaryData *raw,
	const ProtobufCBinaryData *signature)
{
	struct domain *d = &g->remote->domain;
	_cleanup_free_ struct removals *old = malloc(sizeof(*old));
	if (!old || list_own(d, raw, signature) < 0)
		return -ENOMEM;
	int r = list_keep(g, raw, signature);
	*old = d->removals;
	d->removals = *list;
	/* Told first, also to whom it is about: then they know why their links end. */
	for (size_t i = 0; i < g->remote->n_nodes; i++)
		if (g->remote->nodes[i]->ready)
			list_send(g, g->remote->nodes[i]);
	for (size_t i = 0; i < list->n; i++)
		if (!removals_has(old, list->list[i].node, list->list[i].before))
			node_ends(g, &list->list[i]);
	remote_removed_self(g);
	return r;
}

void remote_take_removals(struct guard *g, struct remote_node *n, const Belay__NodeRemovals *m)
{
	_cleanup_free_ struct removals *list = malloc(sizeof(*list));
	if (!g->remote->domain.ca.len || !list) {
		log_error("a list of removed nodes cannot be checked yet");
		return;
	}
	if (list_verify(g, &m->list, &m->signature, list) < 0) {
		remote_surprise(g, n, "its list of removed nodes is not signed by our CA");
		return;
	}
	if (list->version <= g->remote->domain.removals.version)
		return; /* it has not heard yet; it has ours from the link's start */
	if (list_adopt(g, list, &m->list, &m->signature) < 0)
		log_error("the list of removed nodes could not be kept: it is asked for again");
}

int remote_removals_load(struct guard *g)
{
	struct domain *d = &g->remote->domain;
	_cleanup_free_ uint8_t *buf = malloc(REGISTRY_META_MAX);
	size_t len;
	int r = buf ? registry_meta_get(g->registry, META_REMOVALS, buf, REGISTRY_META_MAX, &len)
		    : -ENOMEM;
	if (r < 0)
		return r == -ENOENT ? 0 : r;
	Belay__NodeRemovals *m = ipc_unpack(&belay__node_removals__descriptor, buf, len);
	/* Checked when it came; the file is ours. */
	r = m ? removals_decode(m->list.data, m->list.len, &d->removals) : -EBADMSG;
	if (r == 0)
		r = list_own(d, &m->list, &m->signature);
	ipc_free(m);
	return r;
}

/* ---- belay node remove ---- */

static void removed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct node_verb *v = ctx;
	const Belay__FromSigner *m = reply;
	_cleanup_free_ struct removals *list = malloc(sizeof(*list));
	if (!error)
		error = m->error ? m->error : list ? 0 : -ENOMEM;
	if (!error)
		error = list_verify(g, &m->data, &m->signature, list);
	if (!error)
		error = list_adopt(g, list, &m->data, &m->signature);
	removed_log(g, v->uid, v->name, error);
	if (error) {
		node_verb_fail(v, error, "remove", reply ? m->why : NULL);
		return;
	}
	char text[NAME_MAX_LEN + 80];
	snprintf(text, sizeof(text),
		"node %s is removed; nodes that are away hear it on their next link", v->name);
	control_text(g, v->client, text);
	node_verb_free(v);
}

void node_verb_remove(struct node_verb *v, const Belay__NodeRequest *m)
{
	struct guard *g = v->guard;
	const struct remote_node *n = remote_node_find(g, m->name);
	if (!n) {
		node_verb_fail(v, -ENOENT, "remove", "there is no such node (try belay node list)");
		return;
	}
	snprintf(v->name, sizeof(v->name), "%s", n->name);
	Belay__SignerRemove o = BELAY__SIGNER_REMOVE__INIT;
	Belay__ToSigner out = BELAY__TO_SIGNER__INIT;
	o.node = v->name;
	out.body_case = BELAY__TO_SIGNER__BODY_REMOVE;
	out.remove = &o;
	int r = arrow_call(g, ROLE_SIGNER, &out.base, NULL, 0, 0, removed, v, NULL);
	if (r < 0)
		node_verb_fail(v, r, "ask the signer", NULL);
}
