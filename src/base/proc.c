/* Lines of /proc (proc.h). One open, read and close a question. */
#include "base/proc.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/fds.h"

#define PROC_STAT_MAX 4096
#define PROC_STATUS_MAX 65536
#define STAT_START_TIME 22

int proc_stat_start_time(const char *stat, uint64_t *ret)
{
	/* Field 2 is the name in parentheses and may hold spaces and parentheses: the last one ends
	 * it. */
	const char *p = strrchr(stat, ')');
	if (!p || p[1] != ' ')
		return -EBADMSG;
	p += 2;
	for (int field = 3; field < STAT_START_TIME; field++) {
		p = strchr(p, ' ');
		if (!p)
			return -EBADMSG;
		p++;
	}
	if (*p < '0' || *p > '9')
		return -EBADMSG;
	char *end;
	errno = 0;
	*ret = strtoull(p, &end, 10);
	return errno || *end != ' ' ? -EBADMSG : 0;
}

int proc_status_uids(const char *status, uint32_t ret[4])
{
	/* The name line comes first; the kernel escapes a newline in it. */
	const char *p = strstr(status, "\nUid:\t");
	if (!p || sscanf(p, "\nUid:\t%u\t%u\t%u\t%u\n", &ret[0], &ret[1], &ret[2], &ret[3]) != 4)
		return -EBADMSG;
	return 0;
}

static int proc_read(pid_t pid, const char *name, size_t max, char **ret)
{
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/%s", pid, name);
	return fds_read_file(AT_FDCWD, path, max, ret, NULL);
}

int proc_start_time(pid_t pid, uint64_t *ret)
{
	_cleanup_free_ char *text = NULL;
	int r = proc_read(pid, "stat", PROC_STAT_MAX, &text);
	return r < 0 ? r : proc_stat_start_time(text, ret);
}

int proc_uids(pid_t pid, uint32_t ret[4])
{
	_cleanup_free_ char *text = NULL;
	int r = proc_read(pid, "status", PROC_STATUS_MAX, &text);
	return r < 0 ? r : proc_status_uids(text, ret);
}
