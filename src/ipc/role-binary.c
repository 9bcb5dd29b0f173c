/*
 * Where the executables of an instance are: beside the one that asks, in the build tree beside its
 * folder, or where `ninja install` puts them. The same answer for belayd, which starts them, and
 * for the dispatcher, which checks what was started. Trusted as far as whoever installed the asking
 * executable.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "ipc/role.h"

static bool usable(const char *path, int len, size_t size)
{
	return len > 0 && (size_t)len < size && access(path, X_OK) == 0;
}

int role_binary(enum role role, char *ret, size_t size)
{
	char self[4096];
	const char *name = role_process(role);
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	if (n <= 0)
		return n ? -errno : -ENOENT;
	self[n] = '\0';
	char *slash = strrchr(self, '/');
	if (!slash)
		return -ENOENT;
	*slash = '\0';
	if (usable(ret, snprintf(ret, size, "%s/%s", self, name), size))
		return 0;
	slash = strrchr(self, '/');
	if (slash) {
		*slash = '\0';
		if (usable(ret, snprintf(ret, size, "%s/%s/%s", self, role_name(role), name), size))
			return 0;
	}
	if (usable(ret, snprintf(ret, size, "%s/%s", BELAY_LIBEXECDIR, name), size))
		return 0;
	return -ENOENT;
}
