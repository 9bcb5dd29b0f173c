/* The log of a Belay process (log.h): one write(2) a line, so lines of processes never interleave.
 */
#include "base/log.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"

static const char *log_name = "belay";
static enum log_level log_max = LOG_LEVEL_WARN;

void log_init(const char *name)
{
	static const char *const names[] = {"error", "warn", "info", "debug"};
	const char *want = getenv("BELAY_LOG");
	log_name = name;
	for (size_t i = 0; want && i < ARRAY_LEN(names); i++)
		if (!strcmp(want, names[i]))
			log_max = (enum log_level)i;
}

static void log_write(const char *fmt, va_list ap)
{
	char line[1024];
	int n = snprintf(line, sizeof(line), "%s[%d]: ", log_name, (int)getpid());
	int m = vsnprintf(line + n, sizeof(line) - (size_t)n - 1, fmt, ap);
	size_t len = (size_t)n + (m < 0 ? 0 : (size_t)m);
	if (len > sizeof(line) - 2)
		len = sizeof(line) - 2;
	line[len++] = '\n';
	ssize_t w = write(STDERR_FILENO, line, len);
	(void)w; /* nowhere left to complain */
}

void log_line(enum log_level level, const char *fmt, ...)
{
	if (level > log_max)
		return;
	va_list ap;
	va_start(ap, fmt);
	log_write(fmt, ap);
	va_end(ap);
}

void log_peer(const char *fmt, ...)
{
	static uint64_t window, n, dropped;
	uint64_t now = clock_mono_ms() / 1000;
	if (now != window) {
		if (dropped)
			log_warn("%llu lines about peers dropped", (unsigned long long)dropped);
		window = now;
		n = dropped = 0;
	}
	if (++n > LOG_PEER_PER_SECOND) {
		dropped++;
		return;
	}
	va_list ap;
	va_start(ap, fmt);
	if (log_max >= LOG_LEVEL_WARN)
		log_write(fmt, ap);
	va_end(ap);
}
