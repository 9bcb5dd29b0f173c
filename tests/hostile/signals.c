/* A signal during a trap must not make a call happen twice, or report what did not happen. */
#include <signal.h>
#include <sys/time.h>

#include "hostile.h"

static volatile long ticks;

static void on_alarm(int s)
{
	(void)s;
	ticks++;
}

int main(int argc, char **argv)
{
	long rounds = argc > 1 ? atol(argv[1]) : 20000, wrong = 0, errors[200] = {0};
	int l = listener();
	struct sigaction a = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
	struct itimerval t = {{0, 400}, {0, 400}};
	sigaction(SIGALRM, &a, NULL);
	setitimer(ITIMER_REAL, &t, NULL);
	for (long i = 0; i < rounds; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		struct linger now = {1, 0}; /* no TIME_WAIT: ports would run out */
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &now, sizeof(now));
		if (fd < 0 || dial(fd, PORT_OPEN) < 0) {
			wrong++;
			errors[errno < 200 ? errno : 0]++;
		} else {
			close(accept(l, NULL, NULL));
		}
		close(fd);
	}
	t.it_interval.tv_usec = t.it_value.tv_usec = 0;
	setitimer(ITIMER_REAL, &t, NULL);
	for (int i = 0; i < 200; i++)
		if (errors[i])
			printf("# %ld times %s\n", errors[i], strerror(i));
	fcntl(l, F_SETFL, O_NONBLOCK);
	if (accept(l, NULL, NULL) >= 0)
		got_through("there is a connection nobody made");
	if (wrong)
		got_through("%ld false results of %ld, %ld signals", wrong, rounds, ticks);
	printf("# %ld connects, %ld signals\n", rounds, ticks);
	held();
}
