/*
 * Making a named pipe: mknod(2) and mknodat(2) with S_IFIFO. Nobody can be asked when a pipe is
 * opened (docs/adr/0007): whoever sees it and has its permissions opens it. So policy says who sees
 * it. With a rule it is made where the caller wants it, for everybody its mode lets in. Without one
 * it is made in the tree's own /dev/shm, and the caller's path becomes a link to it: for the tree a
 * pipe like any other, for everybody else a link that leads nowhere.
 *
 * The directory is found in the caller's place and held; a child in that place makes the pipe in it
 * by the name that was judged (act.c). Input: a hostile program's path. Cost: some twenty system
 * calls, a question and a fork(2), once a pipe.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/discard.h"
#include "enforce/enforce.h"
#include "enforce/path.h"
#include "enforce/target.h"

#define SHM "/dev/shm"

struct wanted {
	int at; /* the directory a relative path begins in: AT_FDCWD or a number of the caller's */
	char dir[PATH_MAX], name[sizeof(((struct request *)0)->to.sun_path)];
};

static int wanted_read(const struct request *r, struct wanted *w)
{
	bool at = r->n.data.nr == __NR_mknodat;
	w->at = at ? (int)r->n.data.args[0] : AT_FDCWD;
	int bad = target_read_text((pid_t)r->n.pid, r->n.data.args[at], w->dir, sizeof(w->dir));
	if (bad < 0)
		return bad;
	char *slash = strrchr(w->dir, '/');
	const char *name = slash ? slash + 1 : w->dir;
	if (!*name)
		return -ENOENT;
	if (!strcmp(name, ".") || !strcmp(name, ".."))
		return -EEXIST;
	if (strlen(name) >= sizeof(w->name))
		return -ENAMETOOLONG;
	snprintf(w->name, sizeof(w->name), "%s", name);
	if (!slash)
		strcpy(w->dir, ".");
	else
		slash[slash == w->dir] = '\0';
	return 0;
}

static int directory_find(struct enforce *e, struct request *r, const struct wanted *w)
{
	pid_t tid = (pid_t)r->n.pid;
	if (w->at == AT_FDCWD || w->dir[0] == '/')
		return path_find(e, tid, w->dir);
	int base = target_fd(tid, w->at);
	if (base < 0)
		return base;
	int fd = path_find_at(e, tid, base, w->dir);
	(void)fds_discard(base);
	return fd;
}

/*
 * The directory for pipes of the tree's own: a tmpfs that this process, outside, has no mount of.
 * Of another one, after a chroot perhaps, others might have a part.
 */
static int own_directory(struct enforce *e, struct request *r)
{
	struct statfs fs;
	int fd = path_find(e, (pid_t)r->n.pid, SHM);
	if (fd < 0)
		return -EACCES;
	if (fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC && !path_shared(fd))
		return fd;
	close(fd);
	return -EACCES;
}

static void make_own(struct enforce *e, struct request *r)
{
	_cleanup_close_ int shm = own_directory(e, r);
	if (shm >= 0) {
		act_fifo(e, r, shm);
		return;
	}
	tree_notice(r->tree, "refused: a named pipe no rule shares, where the run has no " SHM
			     " of its own (try `allow: bind, fifo: PATH`)");
	call_reply(e, r, -EACCES, 0);
}

void fifo_answered(struct enforce *e, struct request *r, int error)
{
	if (!error)
		act_fifo(e, r, -1);
	else if (error == -EXDEV)
		make_own(e, r);
	else
		call_reply(e, r, error, 0);
}

static void judge(struct enforce *e, struct request *r)
{
	static struct path p;
	p.fd = r->unix_fd;
	pid_t pid;
	int bad = path_where(r->tree, (pid_t)r->n.pid, &p);
	if (!bad)
		bad = target_process((pid_t)r->n.pid, &pid, &r->pidfd);
	if (bad) {
		call_reply(e, r, bad, 0);
		return;
	}
	r->pid = (uint32_t)pid;
	size_t n = strlen(p.text);
	if (n + 1 + strlen(r->to.sun_path) >= PATH_JUDGED_MAX) {
		make_own(e, r); /* longer than any rule's */
		return;
	}
	snprintf(p.text + n, sizeof(p.text) - n, "%s%s", n > 1 ? "/" : "", r->to.sun_path);
	Belay__Question q = BELAY__QUESTION__INIT;
	q.call = BELAY__QUESTION__CALL__CALL_FIFO;
	q.transport = BELAY__TRANSPORT__TRANSPORT_UNIX;
	q.family = AF_UNIX;
	q.unix_path = p.text;
	r->answer_to = ANSWER_FIFO;
	question_ask(e, r, &q, &r->pidfd, 1);
}

void fifo_serve(struct enforce *e, struct request *r)
{
	static struct wanted w;
	bool walked = r->walked;
	int bad = wanted_read(r, &w), fd = bad ? bad : directory_find(e, r, &w);
	r->walked = false;
	if (r->unix_fd >= 0)
		close(r->unix_fd);
	r->unix_fd = fd < 0 ? -1 : fd;
	if (!call_valid(r)) {
		call_drop(e, r);
		return;
	}
	if (fd == -EAGAIN && !walked) {
		act_walk(e, r, w.dir);
		return;
	}
	if (fd < 0) {
		call_reply(e, r, fd == -EAGAIN ? -EACCES : fd, 0);
		return;
	}
	snprintf(r->to.sun_path, sizeof(r->to.sun_path), "%s", w.name);
	judge(e, r);
}
