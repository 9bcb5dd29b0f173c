/*
 * Run trees: one notify descriptor each, served in turn, TREE_TURN notifications at a time, and no
 * tree may hold more than its share of the journal: a tree that floods waits for itself. Input: the
 * kernel's notifications, whose numbers are the program's. Cost per notification here: one poll(2)
 * and one NOTIF_RECV into the journal.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "base/clock.h"
#include "base/log.h"
#include "enforce/enforce.h"
#include "enforce/listener.h"
#include "enforce/target.h"

#ifndef SECCOMP_IOCTL_NOTIF_SET_FLAGS
#define SECCOMP_IOCTL_NOTIF_SET_FLAGS SECCOMP_IOW(4, uint64_t)
#define SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP 1ul
#endif

struct tree *tree_find(struct enforce *e, uint64_t id)
{
	struct tree *t;
	LIST_FOREACH (t, &e->trees, link)
		if (t->id == id)
			return t;
	return NULL;
}

int tree_keep(struct tree *t, const char *suffix, int fd)
{
	char name[HERITAGE_NAME_MAX];
	snprintf(name, sizeof(name), "tree-%llu%s", (unsigned long long)t->id, suffix);
	return component_keep(t->e->c, name, fd);
}

/* ---- receiving ---- */

static uint32_t tree_share(const struct enforce *e)
{
	uint32_t share = e->journal.n_free / 4 + 1;
	return share < TREE_REQUESTS_MAX ? share : TREE_REQUESTS_MAX;
}

/* 1: received and served; 0: nothing there; negative: the descriptor is of no use any more. */
static int tree_receive(struct tree *t)
{
	struct enforce *e = t->e;
	struct pollfd p = {.fd = t->notify, .events = POLLIN};
	if (poll(&p, 1, 0) < 0 || !(p.revents & POLLIN))
		return p.revents & (POLLHUP | POLLERR | POLLNVAL) ? -EPIPE : 0;
	int i = journal_take(&e->journal, t->id);
	if (i < 0)
		return 0;
	struct journal_slot *slot = &e->journal.slot[i];
	if (ioctl(t->notify, SECCOMP_IOCTL_NOTIF_RECV, &slot->notif) < 0) {
		int r = -errno;
		journal_release(&e->journal, (uint32_t)i);
		return r == -ENOENT || r == -EINTR ? 1 : r; /* ENOENT: the caller died just now */
	}
	struct request *r = &e->request[i];
	*r = (struct request){.tree = t, .n = slot->notif, .sock = -1, .unix_fd = -1, .pidfd = -1};
	r->since_ms = clock_mono_ms();
	t->requests++;
	call_serve(e, r);
	return 1;
}

static void tree_ready(uv_poll_t *p, int status, int events)
{
	(void)events;
	struct tree *t = p->data;
	struct enforce *e = t->e;
	/* One: a second look costs a call, and most programs trap one thread at a time. */
	if (status >= 0) {
		if (t->requests >= tree_share(e)) {
			uv_poll_stop(p);
			t->paused = true;
			return;
		}
		if (tree_receive(t) >= 0)
			return; /* perhaps without the tree: serving can end it */
	}
	log_info("tree %llu ended", (unsigned long long)t->id);
	question_tree_gone(e, t->id);
	tree_remove(t);
}

void tree_unpause(struct tree *t)
{
	if (t->paused && t->requests <= tree_share(t->e) / 2) {
		t->paused = false;
		uv_poll_start(t->poll, UV_READABLE, tree_ready);
	}
}

/* ---- coming and going ---- */

static void poll_free(uv_handle_t *h)
{
	free(h);
}

static int tree_start(struct tree *t)
{
	t->poll = calloc(1, sizeof(*t->poll));
	if (!t->poll)
		return -ENOMEM;
	int r = uv_poll_init(&t->e->c->loop, t->poll, t->notify);
	if (r < 0) {
		free(t->poll);
		t->poll = NULL;
		return r;
	}
	t->poll->data = t;
	/* Runs the caller on our core when we answer: a wake-up that crosses cores costs tenfold.
	 */
	ioctl(t->notify, SECCOMP_IOCTL_NOTIF_SET_FLAGS, SECCOMP_USER_NOTIF_FD_SYNC_WAKE_UP);
	return uv_poll_start(t->poll, UV_READABLE, tree_ready);
}

/*
 * Whoever reads a program's output to its end waits until every copy of the descriptor is closed,
 * so ours goes with the process it came from and not with the tree's last one. Kernels before 6.11
 * tell a tree's end only when its last zombie is waited for, which the reader may do after reading.
 */
static void first_forget(struct tree *t)
{
	const char *const suffix[] = {"-err", "-first"};
	int *const fd[] = {&t->err, &t->first};
	if (t->first_poll) {
		uv_poll_stop(t->first_poll);
		uv_close((uv_handle_t *)t->first_poll, poll_free);
		t->first_poll = NULL;
	}
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		if (*fd[i] < 0)
			continue;
		if (tree_keep(t, suffix[i], -1) < 0)
			log_warn("tree %llu: a descriptor stays with belayd",
				(unsigned long long)t->id);
		close(take_fd(fd[i]));
	}
}

static void first_ended(uv_poll_t *p, int status, int events)
{
	(void)status, (void)events;
	first_forget(p->data);
}

void tree_watch_first(struct tree *t, int pidfd)
{
	uv_poll_t *p = pidfd < 0 || t->err < 0 ? NULL : calloc(1, sizeof(*p));
	if (!p || uv_poll_init(&t->e->c->loop, p, pidfd) < 0) {
		free(p);
		if (pidfd >= 0)
			close(pidfd);
		return;
	}
	p->data = t;
	t->first = pidfd;
	t->first_poll = p;
	uv_poll_start(p, UV_READABLE, first_ended);
}

int tree_add(struct enforce *e, uint64_t id, int notify, int err)
{
	if (!id || tree_find(e, id)) {
		/* A new guard tells about trees it knows: ours are the same descriptors. */
		close(notify);
		if (err >= 0)
			close(err);
		return id ? 0 : -EBADMSG;
	}
	struct tree *t = e->n_trees < TREES_MAX ? calloc(1, sizeof(*t)) : NULL;
	if (!t) {
		close(notify);
		if (err >= 0)
			close(err);
		return -ENOBUFS;
	}
	*t = (struct tree){.e = e, .id = id, .notify = notify, .err = err, .first = -1, .diag = -1};
	LIST_INSERT_HEAD(&e->trees, t, link);
	e->n_trees++;
	int r = tree_start(t);
	if (r < 0)
		tree_remove(t);
	return r;
}

void tree_remove(struct tree *t)
{
	struct enforce *e = t->e;
	for (uint32_t i = 0; i < JOURNAL_SLOTS; i++)
		if (e->request[i].tree == t)
			call_drop(e, &e->request[i]);
	exec_tree_gone(t);
	first_forget(t);
	listener_tree_gone(e, t->id);
	leased_tree_gone(e, t->id);
	/* The tree's own last: should we be killed half-way, it brings a successor back here. */
	const char *const suffix[] = {"-diag", ""};
	int *const fd[] = {&t->diag, &t->notify};
	if (t->poll) {
		uv_poll_stop(t->poll);
		uv_close((uv_handle_t *)t->poll, poll_free);
	}
	for (size_t i = 0; i < ARRAY_LEN(fd); i++) {
		if (*fd[i] < 0)
			continue;
		if (tree_keep(t, suffix[i], -1) < 0)
			log_warn("tree %llu stays with belayd", (unsigned long long)t->id);
		close(*fd[i]);
	}
	LIST_REMOVE(t, link);
	e->n_trees--;
	free(t);
}

/* ---- a predecessor's ---- */

static int restore_trees(struct enforce *e)
{
	struct heritage *h = &e->c->heritage;
	for (size_t i = 0; i < h->n_kept; i++) {
		unsigned long long id;
		int end = 0;
		if (h->kept[i].fd < 0 || sscanf(h->kept[i].name, "tree-%llu%n", &id, &end) != 1 ||
			h->kept[i].name[end])
			continue;
		char name[HERITAGE_NAME_MAX];
		snprintf(name, sizeof(name), "tree-%llu-err", id);
		int err = component_kept(e->c, name);
		snprintf(name, sizeof(name), "tree-%llu-diag", id);
		int diag = component_kept(e->c, name);
		snprintf(name, sizeof(name), "tree-%llu-first", id);
		int first = component_kept(e->c, name);
		int r = tree_add(e, id, take_fd(&h->kept[i].fd), err);
		struct tree *t = r < 0 ? NULL : tree_find(e, id);
		if (!t) {
			if (diag >= 0)
				close(diag);
			if (first >= 0)
				close(first);
			log_warn("tree %llu is lost: %s", id, strerror(-r));
			continue;
		}
		t->diag = diag;
		t->sought_diag = diag >= 0;
		tree_watch_first(t, first);
	}
	/* Left of trees that ended while a predecessor gave them up. */
	for (size_t i = 0; i < h->n_kept; i++) {
		if (h->kept[i].fd < 0 || strncmp(h->kept[i].name, "tree-", 5))
			continue;
		close(take_fd(&h->kept[i].fd));
		if (component_keep(e->c, h->kept[i].name, -1) < 0)
			log_warn("%s stays with belayd", h->kept[i].name);
	}
	return 0;
}

int tree_restore(struct enforce *e)
{
	int r = restore_trees(e);
	for (uint32_t i = 0; r >= 0 && i < JOURNAL_SLOTS; i++) {
		struct journal_slot *s = &e->journal.slot[i];
		if (!s->tree)
			continue;
		struct request *q = &e->request[i];
		*q = (struct request){.tree = tree_find(e, s->tree),
			.n = s->notif,
			.sock = -1,
			.unix_fd = -1,
			.pidfd = -1,
			.again = true};
		q->since_ms = clock_mono_ms();
		if (!q->tree || !q->n.id || !call_valid(q)) {
			*q = (struct request){0};
			journal_release(&e->journal, i);
			continue;
		}
		q->tree->requests++;
		call_serve(e, q);
	}
	return r;
}

/* ---- notices ---- */

static void notice_write(struct tree *t, const char *text)
{
	char line[NOTICE_MAX + 16];
	int n = snprintf(line, sizeof(line), "belay: %.*s\n", NOTICE_MAX, text);
	for (char *p = line; p < line + n - 1; p++) /* names in it are the programs' own words */
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = '?';
	struct pollfd p = {.fd = t->err, .events = POLLOUT};
	if (poll(&p, 1, 0) != 1 || !(p.revents & POLLOUT))
		return;
	watchdog_start();
	ssize_t w = write(t->err, line, (size_t)n);
	watchdog_stop();
	(void)w;
}

void tree_notice(struct tree *t, const char *text)
{
	if (!text || !*text || t->err < 0)
		return;
	if (!strncmp(text, "belay: ", 7))
		text += 7;
	uint64_t second = clock_mono_ms() / 1000;
	if (second != t->notice_second) {
		uint32_t dropped = t->notices_dropped;
		t->notice_second = second;
		t->notices = t->notices_dropped = 0;
		if (dropped) {
			char more[64];
			snprintf(more, sizeof(more), "%u more refusals were not shown", dropped);
			notice_write(t, more);
		}
	}
	if (++t->notices > NOTICES_PER_SECOND)
		t->notices_dropped++;
	else
		notice_write(t, text);
}
