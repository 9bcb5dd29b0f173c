/* What the command line prints: tables, addresses, times, sizes. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "cli/cli.h"

void cli_format_addr(const Belay__Addr *a, char text[CLI_TEXT_MAX])
{
	struct addr v = {0};
	if (a && (a->ip.len == 4 || a->ip.len == 16)) {
		v.ip_len = (uint8_t)a->ip.len;
		memcpy(v.ip, a->ip.data, a->ip.len);
		v.port = (uint16_t)a->port;
	}
	char t[ADDR_TEXT_MAX] = "-";
	if (v.ip_len)
		addr_format(&v, true, t);
	snprintf(text, CLI_TEXT_MAX, "%s", t);
}

void cli_format_ms(uint64_t ms, char text[CLI_TEXT_MAX])
{
	uint64_t s = ms / 1000;
	if (s < 60)
		snprintf(text, CLI_TEXT_MAX, "%" PRIu64 ".%" PRIu64 "s", s, ms % 1000 / 100);
	else if (s < 3600)
		snprintf(text, CLI_TEXT_MAX, "%" PRIu64 "m%02" PRIu64 "s", s / 60, s % 60);
	else if (s < 86400)
		snprintf(text, CLI_TEXT_MAX, "%" PRIu64 "h%02" PRIu64 "m", s / 3600, s / 60 % 60);
	else
		snprintf(
			text, CLI_TEXT_MAX, "%" PRIu64 "d%02" PRIu64 "h", s / 86400, s / 3600 % 24);
}

void cli_format_bytes(uint64_t n, char text[CLI_TEXT_MAX])
{
	static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
	size_t u = 0;
	double v = (double)n;
	while (v >= 1024 && u + 1 < ARRAY_LEN(units)) {
		v /= 1024;
		u++;
	}
	snprintf(text, CLI_TEXT_MAX, u ? "%.1f %s" : "%.0f %s", v, units[u]);
}

struct cli_table {
	size_t columns, n;
	char **cells;
};

struct cli_table *cli_table_new(size_t columns, const char *const *titles)
{
	struct cli_table *t = calloc(1, sizeof(*t));
	if (!t)
		abort();
	t->columns = columns;
	for (size_t i = 0; i < columns; i++)
		cli_table_cell(t, "%s", titles[i]);
	return t;
}

void cli_table_cell(struct cli_table *t, const char *fmt, ...)
{
	char **bigger = reallocarray(t->cells, t->n + 1, sizeof(*t->cells));
	va_list ap;
	va_start(ap, fmt);
	if (!bigger || vasprintf(&bigger[t->n], fmt, ap) < 0)
		abort(); /* a command-line tool without memory has nothing better to do */
	va_end(ap);
	t->cells = bigger;
	t->n++;
}

void cli_table_print(struct cli_table *t)
{
	size_t *width = calloc(t->columns, sizeof(*width));
	if (!width)
		abort();
	for (size_t i = 0; i < t->n; i++) {
		size_t w = strlen(t->cells[i]);
		if (w > width[i % t->columns])
			width[i % t->columns] = w;
	}
	for (size_t i = 0; i < t->n; i++) {
		bool last = i % t->columns == t->columns - 1;
		printf("%-*s%s", last ? 0 : (int)width[i % t->columns], t->cells[i],
			last ? "\n" : "  ");
		free(t->cells[i]);
	}
	free(width);
	free(t->cells);
	free(t);
}
