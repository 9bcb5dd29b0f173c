/*
 * Joining: a connection to an inviting node whose CA the token names, and the answer to one who
 * comes with a token (link.h). The token is told only after TLS has proved that CA.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/secret.h"
#include "ipc/ipc.h"
#include "link/internal.h"
#include "node.pb-c.h"

void links_join(struct links *l, uint64_t id, const struct link_join *j)
{
	_cleanup_(tls_ctx_freep) struct tls_ctx *ctx = NULL;
	struct error e = ERROR_INIT;
	int r = tls_ctx_new_join(j->ca_sha256, &ctx, &e), fd = -1;
	if (r == 0)
		r = fd = links_dial(&j->address);
	struct session *s = r < 0 ? NULL : links_session_add(l, ctx, SESSION_JOINING, fd, true);
	uint8_t *csr = s && j->csr_len <= X509_DER_MAX ? malloc(j->csr_len) : NULL;
	if (!csr) {
		if (s) {
			s->asked = true;
			links_session_end(s, "out of memory");
		}
		r = r < 0 ? r : -ENOMEM;
		l->ops.joined(l->data, id,
			&(struct link_joined){
				.error = r, .why = e.text[0] ? e.text : strerror(-r)});
		return;
	}
	memcpy(csr, j->csr, j->csr_len);
	s->id = id;
	s->join = *j;
	s->join.csr = csr;
	addr_format(&j->address, true, s->remote);
}

/* TLS is open, so the server's chain ends in the CA that the token pins: now the token may be told.
 */
void links_join_ask(struct session *s)
{
	Belay__Addr listen = BELAY__ADDR__INIT;
	listen.ip = (ProtobufCBinaryData){s->join.listen.ip_len, s->join.listen.ip};
	listen.port = s->join.listen.port;
	Belay__NodeJoin j = BELAY__NODE_JOIN__INIT;
	j.token = (ProtobufCBinaryData){LINK_TOKEN_LEN, s->join.token};
	j.csr_der = (ProtobufCBinaryData){s->join.csr_len, (uint8_t *)(uintptr_t)s->join.csr};
	j.listen = &listen;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	m.body_case = BELAY__NODE_MESSAGE__BODY_JOIN;
	m.join = &j;
	uint8_t buf[X509_DER_MAX + 512];
	size_t len = belay__node_message__get_packed_size(&m);
	if (len > sizeof(buf) || !belay__node_message__pack(&m, buf) ||
		session_send(s, buf, len) < 0)
		links_session_quit(s, "the request could not be sent");
	secret_zero(buf, sizeof(buf));
	s->live = !s->dying; /* its messages are read from now on; no node, so no link */
}

void links_join_answer(struct links *l, uint64_t join, const struct link_joined *in)
{
	struct session *s;
	LIST_FOREACH (s, &l->sessions, link)
		if (s->id == join && s->kind == SESSION_GUEST && s->asked && !s->dying)
			break;
	if (!s || in->n_listed > LINK_LISTED_MAX)
		return;
	Belay__NodeListed *listed = calloc(in->n_listed + 1, sizeof(*listed));
	Belay__NodeListed **list = calloc(in->n_listed + 1, sizeof(*list));
	Belay__Addr *addrs = calloc(in->n_listed + 1, sizeof(*addrs));
	Belay__NodeJoined j = BELAY__NODE_JOINED__INIT;
	j.error = in->error;
	j.why = (char *)(uintptr_t)(in->why ? in->why : "");
	j.cert_der = (ProtobufCBinaryData){in->cert_len, (uint8_t *)(uintptr_t)in->cert};
	j.ca_der = (ProtobufCBinaryData){in->ca_len, (uint8_t *)(uintptr_t)in->ca};
	for (size_t i = 0; listed && list && addrs && i < in->n_listed; i++) {
		belay__node_listed__init(&listed[i]);
		belay__addr__init(&addrs[i]);
		addrs[i].ip = (ProtobufCBinaryData){in->listed[i].address.ip_len,
			(uint8_t *)(uintptr_t)in->listed[i].address.ip};
		addrs[i].port = in->listed[i].address.port;
		listed[i].node = (char *)(uintptr_t)in->listed[i].node;
		listed[i].address = &addrs[i];
		listed[i].owns = (char **)(uintptr_t)in->listed[i].owns;
		listed[i].n_owns = in->listed[i].n_owns;
		list[i] = &listed[i];
		j.n_node = i + 1;
	}
	j.node = list;
	Belay__NodeMessage m = BELAY__NODE_MESSAGE__INIT;
	m.body_case = BELAY__NODE_MESSAGE__BODY_JOINED;
	m.joined = &j;
	size_t len = belay__node_message__get_packed_size(&m);
	_cleanup_free_ uint8_t *buf = malloc(len);
	if (buf && belay__node_message__pack(&m, buf) && session_send(s, buf, len) == 0)
		s->started_ms = links_now(l); /* time to read it and close */
	else
		links_session_quit(s, "the answer could not be sent");
	free(listed);
	free(list);
	free(addrs);
}

int links_join_asked(struct session *s, const uint8_t *buf, size_t len)
{
	if (s->asked || buf[0] != TAG_JOIN)
		return -EBADMSG;
	s->asked = true;
	Belay__NodeMessage *m = ipc_unpack_lenient(&belay__node_message__descriptor, buf, len);
	int r = -EBADMSG;
	if (m && m->body_case == BELAY__NODE_MESSAGE__BODY_JOIN &&
		m->join->token.len == LINK_TOKEN_LEN && m->join->csr_der.len <= X509_DER_MAX) {
		struct link_join j = {
			.csr = m->join->csr_der.data, .csr_len = m->join->csr_der.len};
		memcpy(j.token, m->join->token.data, LINK_TOKEN_LEN);
		const Belay__Addr *a = m->join->listen;
		if (a && (a->ip.len == 4 || a->ip.len == 16) && a->port <= UINT16_MAX) {
			j.listen = (struct addr){
				.ip_len = (uint8_t)a->ip.len, .port = (uint16_t)a->port};
			memcpy(j.listen.ip, a->ip.data, a->ip.len);
		}
		s->links->ops.join_request(s->links->data, s->id, &j);
		secret_zero(j.token, sizeof(j.token));
		r = 0;
	}
	ipc_free(m);
	return r;
}

int links_join_answered(struct session *s, const uint8_t *buf, size_t len)
{
	Belay__NodeMessage *m = ipc_unpack_lenient(&belay__node_message__descriptor, buf, len);
	if (!m || m->body_case != BELAY__NODE_MESSAGE__BODY_JOINED ||
		m->joined->n_node > LINK_LISTED_MAX) {
		ipc_free(m);
		return -EBADMSG;
	}
	Belay__NodeJoined *a = m->joined;
	struct link_listed *listed = calloc(a->n_node ? a->n_node : 1, sizeof(*listed));
	size_t n = 0;
	for (size_t i = 0; listed && i < a->n_node; i++) {
		const Belay__Addr *at = a->node[i]->address;
		if (!x509_node_valid(a->node[i]->node) || !at ||
			(at->ip.len != 4 && at->ip.len != 16) || at->port > UINT16_MAX)
			continue;
		snprintf(listed[n].node, sizeof(listed[n].node), "%s", a->node[i]->node);
		listed[n].address =
			(struct addr){.ip_len = (uint8_t)at->ip.len, .port = (uint16_t)at->port};
		memcpy(listed[n].address.ip, at->ip.data, at->ip.len);
		listed[n].owns = a->node[i]->owns;
		listed[n].n_owns = a->node[i]->n_owns;
		n++;
	}
	struct link_joined j = {.error = a->error < 0 ? a->error : 0,
		.why = a->why,
		.cert = a->cert_der.data,
		.cert_len = a->cert_der.len,
		.ca = a->ca_der.data,
		.ca_len = a->ca_der.len,
		.listed = listed,
		.n_listed = n};
	s->asked = true;
	s->links->ops.joined(s->links->data, s->id, &j);
	free(listed);
	ipc_free(m);
	links_session_quit(s, "joined");
	return 0;
}
