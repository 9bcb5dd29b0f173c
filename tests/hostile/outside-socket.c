/*
 * outside-socket RUNNER...: unbound itself, opens a network socket of the host and starts RUNNER,
 * which is to start a bound program, with it: the program must not run.
 */
#include "hostile.h"

int main(int argc, char **argv)
{
	int status = 0, fd = socket(AF_INET, SOCK_STREAM, 0);
	if (argc < 2 || fd < 0)
		skip("no runner");
	pid_t child = fork();
	if (child == 0) {
		dup2(fd, 9);
		execvp(argv[1], argv + 1);
		_exit(0);
	}
	waitpid(child, &status, 0);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
		got_through("a bound program ran with a socket of the host");
	held();
}
