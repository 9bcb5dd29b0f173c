/*
 * bind and listen on Unix sockets are executed elsewhere; what can be observed is as if the kernel
 * had done them: names, permissions, errors. The program works in a directory of its own below
 * HOSTILE_TMP.
 */
#include <stddef.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "hostile.h"

static int bind_to(int fd, const char *path, size_t extra)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof(a.sun_path), "%s", path);
	return bind(fd, (struct sockaddr *)&a,
		(socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path) + extra));
}

static void expect_name(int fd, const char *path)
{
	struct sockaddr_un a = {0};
	socklen_t len = sizeof(a);
	if (getsockname(fd, (struct sockaddr *)&a, &len) < 0 || strcmp(a.sun_path, path))
		got_through("bound %s, is called %s", path, a.sun_path);
}

static void expect_mode(const char *path, unsigned mode)
{
	struct stat st;
	if (stat(path, &st) < 0 || !S_ISSOCK(st.st_mode) || (st.st_mode & 07777) != mode)
		got_through("%s: mode %o, not %o", path, st.st_mode, mode);
	if (st.st_uid != geteuid() || st.st_gid != getegid())
		got_through("%s belongs to %u:%u", path, st.st_uid, st.st_gid);
}

static int fresh(void)
{
	return socket(AF_UNIX, SOCK_STREAM, 0);
}

static void paths(const char *dir)
{
	char path[100];
	int fd = fresh();
	snprintf(path, sizeof(path), "%s/absolute", dir);
	umask(027);
	if (bind_to(fd, path, 1) < 0)
		got_through("bind %s: %s", path, strerror(errno));
	expect_name(fd, path);
	expect_mode(path, 0750);
	REFUSED(bind_to(fd, "again", 1), EINVAL);
	REFUSED(bind_to(fresh(), path, 1), EADDRINUSE);
	umask(0);
	fd = fresh();
	if (bind_to(fd, "sub/../relative", 0) < 0) /* without the 0 at its end */
		got_through("bind relative: %s", strerror(errno));
	expect_name(fd, "sub/../relative");
	expect_mode("relative", 0777);
	REFUSED(bind_to(fresh(), "none/x", 1), ENOENT);
	REFUSED(bind_to(fresh(), "relative/x", 1), ENOTDIR);
	REFUSED(bind_to(fresh(), "sub", 1), EADDRINUSE);
	if (symlink("/", "root") < 0)
		skip("no links");
	snprintf(path, sizeof(path), "root%s/linked", dir);
	if (bind_to(fresh(), path, 1) < 0)
		got_through("bind %s: %s", path, strerror(errno));
	expect_mode("linked", 0777);
	chmod("sub", 0500);
	if (geteuid() != 0)
		REFUSED(bind_to(fresh(), "sub/x", 1), EACCES);
	else if (bind_to(fresh(), "sub/x", 1) < 0)
		got_through("root may not write in its own directory: %s", strerror(errno));
	REFUSED(bind_to(fresh(), "/proc/x", 1), ENOENT);
}

static void names(void)
{
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	socklen_t len = sizeof(a);
	int fd = fresh();
	if (bind(fd, (struct sockaddr *)&a, sizeof(a.sun_family)) < 0 ||
		getsockname(fd, (struct sockaddr *)&a, &len) < 0 || len != 8 || a.sun_path[0])
		got_through("no name of its own choice: %s, %u", strerror(errno), len);
	fd = fresh();
	memcpy(a.sun_path, "\0hostile", 8);
	if (bind(fd, (struct sockaddr *)&a, 10) < 0)
		got_through("no abstract name: %s", strerror(errno));
	REFUSED(bind(fresh(), (struct sockaddr *)&a, 10), EADDRINUSE);
	REFUSED(bind(fresh(), (struct sockaddr *)&a, 1), EINVAL);
	REFUSED(bind(fresh(), (struct sockaddr *)&a, sizeof(a) + 1), EINVAL);
	REFUSED(bind(fresh(), (struct sockaddr *)8, 10), EFAULT);
	REFUSED(listen(fresh(), 5), EINVAL);
	a.sun_family = AF_INET;
	REFUSED(bind(fresh(), (struct sockaddr *)&a, 16), EINVAL);
}

static void credentials(void)
{
	struct ucred u = {0};
	socklen_t len = sizeof(u);
	struct sockaddr_un a = {AF_UNIX, "served"};
	int fd = fresh(), peer = fresh();
	if (bind_to(fd, "served", 1) < 0 || listen(fd, 5) < 0)
		got_through("cannot serve: %s", strerror(errno));
	if (connect(peer, (struct sockaddr *)&a, sizeof(a)) < 0 || accept(fd, NULL, NULL) < 0 ||
		getsockopt(peer, SOL_SOCKET, SO_PEERCRED, &u, &len) < 0)
		got_through("cannot reach itself: %s", strerror(errno));
	if (u.uid != geteuid() || u.gid != getegid())
		got_through("the listener is %u:%u", u.uid, u.gid);
}

int main(void)
{
	char dir[] = "/tmp/belay-hostile-XXXXXX";
	if (!mkdtemp(dir) || chdir(dir) < 0 || mkdir("sub", 0700) < 0)
		skip("no directory");
	paths(dir);
	names();
	credentials();
	held();
}
