/*
 * Judging again. Facts are counted (g->facts): a subject matched under older facts is matched anew,
 * once for all that share it. Binds go first, so that what reached a listener that lost its right
 * ends with it.
 */
#include "guard/judge.h"

#include <stdlib.h>

#include "base/log.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/grant.h"
#include "guard/lease.h"

static Belay__Evidence *evidence_copy(const Belay__Evidence *e)
{
	size_t len = protobuf_c_message_get_packed_size(&e->base);
	_cleanup_free_ uint8_t *buf = malloc(len ? len : 1);
	if (!buf)
		return NULL;
	protobuf_c_message_pack(&e->base, buf);
	return ipc_unpack(&belay__evidence__descriptor, buf, len);
}

void judge_subject(struct guard *g, struct subject **s)
{
	struct subject *old = *s;
	if (!old || old->node[0] || old->facts == g->facts)
		return;
	if (!old->successor || old->successor->facts != g->facts) {
		Belay__Evidence *e = evidence_copy(old->evidence);
		struct subject *fresh = e ? subject_local(g, e) : NULL;
		if (!fresh) {
			/* Without memory to judge with, it counts as nothing at all. */
			log_error("out of memory judging a subject again");
			old->n_programs = old->n_groups = 0;
			old->revoked = true;
			return;
		}
		subject_unref(old->successor);
		old->successor = fresh;
	}
	*s = subject_ref(old->successor);
	subject_unref(old);
}

void judge_all(struct guard *g, const char *reason)
{
	g->facts++;
	lease_cut_all(g);
	lease_read(g);
	bind_judge(g, reason);
	grant_judge(g);
	channel_judge(g, reason);
	remote_judge(g);
}

void judge_binder(struct guard *g, struct bind *b, struct subject *now, uint32_t pid, uint64_t tree,
	const char *reason)
{
	struct verdict v;
	struct addr asked = bind_asked(b);
	struct endpoint_question q = {.operation = BELAY__OPERATION__OP_BIND,
		.transport = b->transport,
		.from = now,
		.address = &asked};
	decide_ask(g, &q, &v);
	int r = decide_record(g, &q, &v, tree);
	if (!v.allow || r < 0) {
		bind_end(g, b, reason);
		return;
	}
	remote_stock_listener_gone(g, b->transport, &b->addr);
	subject_unref(b->subject);
	b->subject = subject_ref(now);
	b->pid = pid;
	if (bind_record(g, b) < 0)
		bind_end(g, b, "it cannot be recorded");
}

void judge_holder(struct guard *g, struct channel *c, bool accepting, struct subject *now,
	uint64_t tree, const char *reason)
{
	struct verdict v;
	struct endpoint_question q;
	channel_question(c, accepting ? c->from : now, accepting ? now : c->to, &q);
	decide_ask(g, &q, &v);
	int r = decide_record(g, &q, &v, tree);
	if (!v.allow || r < 0 || channel_adopt(g, c, accepting, now) < 0)
		channel_end(g, c, reason);
	else
		channel_judge_one(g, c, reason); /* its rule's protection and limits */
}
