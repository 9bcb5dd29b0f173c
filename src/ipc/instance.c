/*
 * Where an instance is found (control.h). Input: the environment and command line of the person who
 * asks, and the file system. The choice is only as safe as they are, so the two default places are
 * believed only when whoever listens there is this user or root. One connect(2) a place tried.
 */
#include "ipc/control.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

static int set_dir(struct instance *ret, const char *base, const char *tail, struct error *e)
{
	int n = snprintf(ret->dir, sizeof(ret->dir), "%s%s", base, tail);
	if (n < 0 || (size_t)n >= sizeof(ret->dir))
		return error_set(e, -ENAMETOOLONG,
			"cannot use %s%s: longer than %d bytes (try --dir)", base, tail,
			INSTANCE_DIR_MAX - 1);
	return 0;
}

static int user_dir(struct instance *ret, struct error *e)
{
	const char *state = getenv("XDG_STATE_HOME"), *home = getenv("HOME");
	snprintf(ret->found, sizeof(ret->found), "the user's own instance");
	if (state && state[0] == '/')
		return set_dir(ret, state, "/belay", e);
	if (!home || home[0] != '/') {
		const struct passwd *pw = getpwuid(getuid());
		home = pw ? pw->pw_dir : NULL;
	}
	if (!home || home[0] != '/')
		return error_set(
			e, -ENOENT, "cannot tell your home directory (try --dir or BELAY_DIR)");
	return set_dir(ret, home, "/.local/state/belay", e);
}

static int host_dir(struct instance *ret, struct error *e)
{
	snprintf(ret->found, sizeof(ret->found), "the host's instance");
	return set_dir(ret, BELAY_HOST_RUN, "", e);
}

int instance_default(struct instance *ret, struct error *e)
{
	return getuid() == 0 ? host_dir(ret, e) : user_dir(ret, e);
}

/* Through the directory's descriptor, so that its length does not matter to sun_path. */
static int control_address(int dirfd, struct sockaddr_un *ret)
{
	*ret = (struct sockaddr_un){.sun_family = AF_UNIX};
	int n = snprintf(ret->sun_path, sizeof(ret->sun_path), "/proc/self/fd/%d/control", dirfd);
	return n > 0 && (size_t)n < sizeof(ret->sun_path) ? 0 : -ENAMETOOLONG;
}

int instance_reconnect(int dirfd)
{
	struct sockaddr_un sa;
	int r = control_address(dirfd, &sa);
	if (r < 0)
		return r;
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	/* An instance that is stopped rather than gone must not hold up its users for good. */
	const struct timeval wait = {.tv_sec = CONTROL_WAIT_S};
	if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &wait, sizeof(wait)) < 0 ||
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &wait, sizeof(wait)) < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return -errno;
	return take_fd(&fd);
}

static int dir_connect(const char *dir)
{
	_cleanup_close_ int d = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
	return d < 0 ? -errno : instance_reconnect(d);
}

/* Who called listen(2) there must be us or root, or anybody could stand in for the instance. */
static int listener_check(int fd)
{
	struct ucred who;
	socklen_t len = sizeof(who);
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
		return -errno;
	return who.uid == 0 || who.uid == getuid() ? 0 : -EPERM;
}

static int named_connect(struct instance *ret, const char *dir, const char *how, struct error *e)
{
	snprintf(ret->found, sizeof(ret->found), "%s", how);
	int r = set_dir(ret, dir, "", e);
	if (r < 0)
		return r;
	int fd = dir_connect(ret->dir);
	return fd >= 0 ? fd
		       : error_errno(e, fd,
				 "cannot reach the instance in %s (%s) (try starting it: belayd "
				 "--dir %s)",
				 ret->dir, how, ret->dir);
}

int instance_connect(const char *dir, struct instance *ret, struct error *e)
{
	const char *env = getenv("BELAY_DIR");
	memset(ret, 0, sizeof(*ret));
	if (dir)
		return named_connect(ret, dir, "--dir", e);
	if (env && *env)
		return named_connect(ret, env, "BELAY_DIR", e);
	struct {
		int (*place)(struct instance *, struct error *);
	} places[] = {{user_dir}, {host_dir}};
	for (size_t i = getuid() == 0 ? 1 : 0; i < ARRAY_LEN(places); i++) {
		if (places[i].place(ret, NULL) < 0)
			continue;
		_cleanup_close_ int fd = dir_connect(ret->dir);
		if (fd < 0)
			continue;
		int r = listener_check(fd);
		if (r < 0)
			return error_errno(e, r,
				"cannot trust the instance in %s: another user listens there",
				ret->dir);
		return take_fd(&fd);
	}
	return error_set(e, -ECONNREFUSED, "no instance answers (try `belayd &`, or --dir)");
}
