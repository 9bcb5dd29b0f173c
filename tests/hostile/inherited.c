/*
 * inherited OTHER: connects, then execs OTHER, an image that was not granted this connection (a
 * copy of this program is one: names narrow, they never grant), which tries to use it.
 */
#include "hostile.h"

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "use"))
		return write(atoi(argv[2]), "x", 1) == 1 ? 42 : 0;
	if (argc != 2)
		skip("no other program");
	int l = listener(), fd = socket(AF_INET, SOCK_STREAM, 0), status = 0;
	if (dial(fd, PORT_OPEN) < 0)
		got_through("cannot connect at all: %s", strerror(errno));
	int s = accept(l, NULL, NULL);
	char number[16], c;
	snprintf(number, sizeof(number), "%d", fd);
	pid_t child = fork();
	if (child == 0) {
		execl(argv[1], "inherited", "use", number, NULL);
		_exit(0);
	}
	close(fd);
	waitpid(child, &status, 0);
	printf("# the other image %s\n", WIFSIGNALED(status) ? "was ended" : "ran");
	fcntl(s, F_SETFL, O_NONBLOCK);
	if (read(s, &c, 1) == 1)
		got_through("another image used this program's connection");
	held();
}
