/*
 * Looking again at programs that hold channels. A program is judged when it asks for something;
 * what it maps afterwards (a library it loads, one it was preloaded with behind an exec) would
 * count only when it asks next. So while there are channels, each program of this node that is an
 * end of one is looked at again once a round, and what it holds is judged by what it is by then. A
 * round takes a second, longer with more than RELOOK_AT_ONCE programs: nobody makes attest busy by
 * having many.
 *
 * A program that cannot be identified any more, by attest's own word, loses its channels; while
 * attest itself is away nothing happens. Another image than before is not judged here: that was
 * done at its exec, with the sockets it had. Without channels nothing runs. Cost of a round: a walk
 * over all channels and one message to attest a program.
 */
#include "guard/relook.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/clock.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/judge.h"
#include "guard/process.h"

#define RELOOK_MS 1000
#define RELOOK_AT_ONCE 50

struct look {
	uint32_t pid;
	uint64_t start_time;
	struct subject *now; /* NULL: it cannot be identified */
	char reason[REASON_MAX];
};

static bool is_of(const struct look *l, const struct subject *s)
{
	return s && !s->node[0] && s->evidence->pid == l->pid &&
	       s->evidence->start_time == l->start_time;
}

/* It is of that process and of the image that still runs, and means something else by now. */
static bool changed(const struct look *l, const struct subject *old)
{
	if (!is_of(l, old))
		return false;
	const ProtobufCBinaryData *a = &old->evidence->exe_sha256;
	const ProtobufCBinaryData *b = l->now ? &l->now->evidence->exe_sha256 : NULL;
	if (b && (a->len != b->len || memcmp(a->data, b->data, a->len) != 0))
		return false;
	return !b || old->principal != l->now->principal;
}

static void judge_bind(struct guard *g, struct bind *b, const void *x)
{
	const struct look *l = x;
	if (!changed(l, b->subject))
		return;
	if (l->now)
		judge_binder(g, b, l->now, b->pid, b->tree, l->reason);
	else
		bind_end(g, b, l->reason);
}

static void judge_end(struct guard *g, struct channel *c, bool accepting, const struct look *l)
{
	if (l->now)
		judge_holder(g, c, accepting, l->now, accepting ? 0 : c->tree, l->reason);
	else
		channel_end(g, c, l->reason);
}

static void judge(struct guard *g, const struct look *l)
{
	/* A channel before its listener: it then ends for its own reason. An end may free it. */
	struct channel *c = channel_first(g), *next;
	for (; c; c = next) {
		next = channel_next(c);
		bool from = changed(l, c->from);
		if (!c->why_ending && (from || changed(l, c->to)))
			judge_end(g, c, !from, l);
	}
	bind_each(g, judge_bind, l);
}

/* Of attest itself, or of a process that has gone on: it says nothing about the program. */
static bool says_nothing(int error)
{
	static const int passing[] = {ESRCH, EAGAIN, EBUSY, ETIMEDOUT, EPIPE, ENOBUFS, ENOMEM,
		EMFILE, ENFILE, EDQUOT, ECANCELED};
	for (size_t i = 0; i < ARRAY_LEN(passing); i++)
		if (error == -passing[i])
			return true;
	return false;
}

static void looked(struct guard *g, void *ctx, int error, struct subject *s)
{
	struct look *l = ctx;
	if (s && s->evidence->start_time == l->start_time) {
		l->now = s;
		snprintf(l->reason, sizeof(l->reason), "%s",
			s->why_not[0] ? s->why_not : "its program is another by now");
		judge(g, l);
	} else if (error && !says_nothing(error)) {
		snprintf(l->reason, sizeof(l->reason), "it cannot be identified any more: %s",
			strerror(-error));
		judge(g, l);
	}
	free(l);
}

/* True when attest was asked. */
static bool look_at(struct guard *g, const struct subject *s, uint64_t tree)
{
	const Belay__Evidence *e = s ? s->evidence : NULL;
	if (!e || s->node[0] || process_fresh(g, e->pid, e->start_time))
		return false;
	/* The number may be another's by now; what is found out says when that one started. */
	_cleanup_close_ int pidfd = (int)syscall(__NR_pidfd_open, e->pid, 0);
	struct look *l = pidfd < 0 ? NULL : calloc(1, sizeof(*l));
	if (!l)
		return false;
	l->pid = e->pid;
	l->start_time = e->start_time;
	process_ask(g, e->pid, pidfd, tree, false, looked, l, NULL);
	return true;
}

static size_t look_both(struct guard *g, const struct channel *c)
{
	struct subject *from = c->from ? subject_ref(c->from) : NULL;
	struct subject *to = c->to ? subject_ref(c->to) : NULL;
	size_t n = look_at(g, from, c->tree);
	n += look_at(g, to, 0);
	subject_unref(from);
	subject_unref(to);
	return n;
}

static void on_timer(uv_timer_t *t)
{
	struct guard *g = t->data;
	struct channel *c, *next;
	size_t asked = 0;
	bool through = true;
	if (!channel_first(g)) {
		uv_timer_stop(t);
		return;
	}
	for (c = channel_first(g); c; c = next) {
		next = channel_next(c);
		if (c->looked == g->relook_round || c->why_ending)
			continue;
		through = asked < RELOOK_AT_ONCE;
		if (!through)
			break;
		c->looked = g->relook_round;
		size_t n = look_both(g, c);
		/* An answer that comes at once may have ended it, and others: from the start. */
		if (n)
			next = channel_first(g);
		asked += n;
	}
	g->relook_round += through;
}

int relook_init(struct guard *g)
{
	g->relook_round = 1;
	g->relook_timer.data = g;
	return uv_timer_init(&g->component.loop, &g->relook_timer);
}

void relook_deinit(struct guard *g)
{
	uv_close((uv_handle_t *)&g->relook_timer, NULL);
}

void relook_watch(struct guard *g)
{
	if (!uv_is_active((uv_handle_t *)&g->relook_timer))
		uv_timer_start(&g->relook_timer, on_timer, RELOOK_MS, RELOOK_MS);
}
