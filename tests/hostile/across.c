/*
 * across hold FILE: leaves one of everything another tree might find, writes its pid and the shared
 * memory's number to FILE and sleeps. across FILE: from another tree, looks for them.
 */
#include <mqueue.h>
#include <signal.h>
#include <stddef.h>
#include <sys/ipc.h>
#include <sys/mman.h>
#include <sys/shm.h>
#include <sys/un.h>

#include "hostile.h"

#define KEY 0x62656c61
static struct sockaddr_un name = {AF_UNIX, "\0belay-hostile"};
#define NAME_LEN ((socklen_t)(offsetof(struct sockaddr_un, sun_path) + 14))

static int hold(const char *file)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (bind(fd, (struct sockaddr *)&name, NAME_LEN) < 0 || listen(fd, 5) < 0)
		return 2;
	int id = shmget(KEY, 4096, IPC_CREAT | 0666);
	shm_open("/belay-hostile", O_CREAT | O_RDWR, 0666);
	struct mq_attr attr = {.mq_maxmsg = 4, .mq_msgsize = 64};
	mq_open("/belay-hostile", O_CREAT | O_RDWR, 0666, &attr);
	char new[256];
	snprintf(new, sizeof(new), "%.200s.new", file);
	FILE *f = fopen(new, "w");
	if (!f)
		return 2;
	fprintf(f, "%d %d\n", getpid(), id);
	fclose(f);
	rename(new, file);
	sleep(60);
	return 0;
}

int main(int argc, char **argv)
{
	int pid = 0, id = 0;
	if (argc == 3 && !strcmp(argv[1], "hold"))
		return hold(argv[2]);
	FILE *f = argc == 2 ? fopen(argv[1], "r") : NULL;
	if (!f || fscanf(f, "%d %d", &pid, &id) != 2)
		skip("nobody holds");
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	if (connect(fd, (struct sockaddr *)&name, NAME_LEN) == 0)
		got_through("reached another tree's abstract socket");
	if (shmget(KEY, 0, 0) >= 0 || shmat(id, NULL, 0) != (void *)-1)
		got_through("found another tree's System V memory");
	if (shm_open("/belay-hostile", O_RDWR, 0) >= 0)
		got_through("found another tree's POSIX memory");
	if (mq_open("/belay-hostile", O_RDWR) != (mqd_t)-1)
		got_through("found another tree's message queue");
	if (kill(pid, 0) == 0)
		got_through("may signal another tree");
	char path[64];
	snprintf(path, sizeof(path), "/proc/%d/mem", pid);
	if (open(path, O_RDONLY) >= 0)
		got_through("reads another tree's memory");
	snprintf(path, sizeof(path), "/proc/%d/root/etc", pid);
	if (open(path, O_RDONLY) >= 0)
		got_through("sees another tree's files through /proc");
	held();
}
