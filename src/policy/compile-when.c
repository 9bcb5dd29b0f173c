/*
 * Times of rules: windows of the week, and the time zone they are in. Only here, on the command
 * line, is the host's zone database read: the image carries what it says of the coming decades.
 */
#include "policy/compile-source.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define DAY_S 86400
#define ZONE_YEARS 30
#define ZONE_DIR "/usr/share/zoneinfo/"

static const char *const days[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};

static bool one_day(const char **s, unsigned *ret)
{
	for (unsigned i = 0; i < ARRAY_LEN(days); i++)
		if (!strncmp(*s, days[i], 3)) {
			*s += 3;
			*ret = i;
			return true;
		}
	return false;
}

/* "mon-fri,sun"; a range may pass the week's end. */
static bool read_days(const char **s, uint8_t *ret)
{
	unsigned a, b;
	*ret = 0;
	do {
		if (!one_day(s, &a))
			return false;
		b = a;
		if (**s == '-' && (++*s, !one_day(s, &b)))
			return false;
		for (unsigned i = a;; i = (i + 1) % 7) {
			*ret |= (uint8_t)(1u << i);
			if (i == b)
				break;
		}
	} while (**s == ',' && ++*s);
	return true;
}

/* "HH:MM" to minutes. */
static bool read_clock(const char **s, uint32_t *ret)
{
	uint64_t h = 0, m = 0;
	const char *start = *s;
	if (!value_digits(s, 24, &h) || *s - start != 2 || **s != ':')
		return false;
	start = ++*s;
	if (!value_digits(s, 59, &m) || *s - start != 2 || (h == 24 && m))
		return false;
	*ret = (uint32_t)(h * 60 + m);
	return true;
}

static void add_window(struct compiler *c, uint8_t on, uint32_t first, uint32_t end)
{
	struct image_window w = {.days = on, .first = (uint16_t)first, .last = (uint16_t)(end - 1)};
	pool_add(c, &c->windows, w);
}

static bool one_window(struct compiler *c, const struct yaml_node *v, void *data _unused_)
{
	const char *s = v->text;
	uint8_t on = 127;
	uint32_t from = 0, to = IMAGE_MINUTES_DAY;
	bool ok = true;
	if (*s < '0' || *s > '9') {
		ok = read_days(&s, &on);
		if (ok && *s)
			ok = *s++ == ' ';
	}
	if (ok && *s)
		ok = read_clock(&s, &from) && *s++ == '-' && read_clock(&s, &to) && !*s &&
		     from != to && from < IMAGE_MINUTES_DAY;
	if (!ok) {
		complain(c, &v->place,
			"such as \"mon-fri 08:00-18:00\", \"sat,sun\" or "
			"\"22:00-06:00\"",
			"`%s` is no time of the week", v->text);
		return false;
	}
	if (from < to) {
		add_window(c, on, from, to);
		return true;
	}
	/* Over midnight: what is left of it belongs to the day after. */
	add_window(c, on, from, IMAGE_MINUTES_DAY);
	if (to)
		add_window(c, (uint8_t)((on << 1 | on >> 6) & 127), 0, to);
	return true;
}

bool value_windows(struct compiler *c, const struct yaml_node *v, struct image_list *ret)
{
	ret->first = c->windows.n;
	bool ok = value_each(c, v, "a time", one_window, NULL);
	ret->count = c->windows.n - ret->first;
	return ok;
}

static int32_t offset_at(time_t t)
{
	struct tm tm;
	return localtime_r(&t, &tm) ? (int32_t)tm.tm_gmtoff : 0;
}

/* Every change between two days that differ, to the second. */
static void find_changes(struct compiler *c, time_t from, time_t to)
{
	struct image_zone z = {.from = INT64_MIN, .offset = offset_at(from)};
	pool_add(c, &c->zones, z);
	for (time_t day = from; day < to && c->zones.n < IMAGE_ZONES_MAX; day += DAY_S) {
		time_t lo = day, hi = day + DAY_S;
		if (offset_at(hi) == offset_at(lo))
			continue;
		while (hi - lo > 1) {
			time_t mid = lo + (hi - lo) / 2;
			if (offset_at(mid) == offset_at(day))
				lo = mid;
			else
				hi = mid;
		}
		z = (struct image_zone){.from = hi, .offset = offset_at(hi)};
		pool_add(c, &c->zones, z);
	}
}

static bool zone_exists(const char *name)
{
	char path[sizeof(ZONE_DIR) + YAML_SCALAR_MAX];
	static const char more[] = "/_+-";
	for (const char *s = name; *s; s++) {
		bool alnum = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
			     (*s >= '0' && *s <= '9');
		if (!alnum && !strchr(more, *s))
			return false;
	}
	snprintf(path, sizeof(path), ZONE_DIR "%s", name);
	return access(path, R_OK) == 0;
}

void zone_read(struct compiler *c, const struct yaml_node *v)
{
	char name[YAML_SCALAR_MAX + 2];
	const char *was = getenv("TZ");
	if (!value_scalar(c, v, "a time zone") || !strcmp(v->text, "UTC"))
		return;
	if (!zone_exists(v->text)) {
		complain(c, &v->place, "UTC, or a name such as Europe/Berlin (package tzdata)",
			"this host knows no time zone `%s`", v->text);
		return;
	}
	c->zone = names_add(&c->names, v->text);
	c->no_memory |= !c->zone;
	_cleanup_free_ char *before = was ? strdup(was) : NULL;
	snprintf(name, sizeof(name), ":%s", v->text);
	setenv("TZ", name, 1);
	tzset();
	time_t now = time(NULL);
	find_changes(c, now - now % DAY_S - 366 * DAY_S, now + ZONE_YEARS * 366l * DAY_S);
	if (before)
		setenv("TZ", before, 1);
	else
		unsetenv("TZ");
	tzset();
}
