/* Belay's control socket and files, by every path this process may know. */
#include <dirent.h>
#include <limits.h>
#include <sys/un.h>

#include "hostile.h"

static void look(const char *dir)
{
	char path[PATH_MAX];
	struct dirent *e;
	DIR *d = opendir(dir);
	while (d && (e = readdir(d)))
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, ".."))
			got_through("%s shows %s", dir, e->d_name);
	if (d)
		closedir(d);
	snprintf(path, sizeof(path), "%.3000s/new", dir);
	if (open(path, O_CREAT | O_WRONLY, 0600) >= 0)
		got_through("made %s", path);
	struct sockaddr_un a = {.sun_family = AF_UNIX};
	snprintf(a.sun_path, sizeof(a.sun_path), "%.90s/control", dir);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		got_through("connected to %s", a.sun_path);
	close(fd);
}

int main(void)
{
	char path[PATH_MAX];
	const char *dir = getenv("BELAY_DIR");
	if (!dir)
		skip("BELAY_DIR is not set");
	look(dir);
	look("/run/belay");
	look("/var/lib/belay");
	/* Through other processes' views of the file tree. */
	snprintf(path, sizeof(path), "/proc/%d/root%s", getppid(), dir);
	look(path);
	snprintf(path, sizeof(path), "/proc/1/root%.4000s", dir);
	look(path);
	/* Started in it, which shows nothing of it. */
	if (getenv("HOSTILE_CWD"))
		look(".");
	held();
}
