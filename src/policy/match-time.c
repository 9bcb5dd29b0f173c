/*
 * Times of rules: windows of the local week, in the policy's time zone, whose changes of the clock
 * are in the image. Pure: the clock is the question's.
 */
#include "policy/image.h"

#define DAY_S 86400
#define WEEK_MINUTES (7u * IMAGE_MINUTES_DAY)
#define MONDAY_S (4 * DAY_S) /* 1970 began on a Thursday */

/* The last change at or before now_s; the first entry counts for all time before. */
static uint32_t zone_at(const struct policy *p, int64_t now_s)
{
	uint32_t i = 0;
	while (i + 1 < p->n_zones && p->zones[i + 1].from <= now_s)
		i++;
	return i;
}

uint32_t match_week_minute(const struct policy *p, int64_t now_s)
{
	if (!p->n_windows)
		return 0;
	int64_t local = now_s + (p->n_zones ? p->zones[zone_at(p, now_s)].offset : 0) - MONDAY_S;
	int64_t minute = (local % (7 * DAY_S) + 7 * DAY_S) % (7 * DAY_S) / 60;
	return (uint32_t)minute;
}

int64_t policy_from_local(const struct policy *p, int64_t local_s)
{
	if (!p || !p->n_zones)
		return local_s;
	/* Twice: the first answer may lie on the other side of a change of the clock. */
	int64_t at = local_s - p->zones[zone_at(p, local_s)].offset;
	return local_s - p->zones[zone_at(p, at)].offset;
}

bool match_windows(const struct policy *p, struct image_list windows, uint32_t week_minute)
{
	uint32_t day = week_minute / IMAGE_MINUTES_DAY, minute = week_minute % IMAGE_MINUTES_DAY;
	for (uint32_t i = 0; i < windows.count; i++) {
		const struct image_window *w = &p->windows[windows.first + i];
		if (w->days >> day & 1 && w->first <= minute && minute <= w->last)
			return true;
	}
	return !windows.count;
}

/* Minutes from `from` until the week next comes to `to`; 1 to a week. */
static uint32_t minutes_until(uint32_t from, uint32_t to)
{
	uint32_t n = (to + WEEK_MINUTES - from) % WEEK_MINUTES;
	return n ? n : WEEK_MINUTES;
}

int64_t policy_next_change(const struct policy *p, int64_t now_s)
{
	if (!p || !p->n_windows)
		return 0;
	uint32_t now = match_week_minute(p, now_s), next = WEEK_MINUTES;
	for (uint32_t i = 0; i < p->n_windows; i++)
		for (uint32_t day = 0; day < 7; day++) {
			const struct image_window *w = &p->windows[i];
			if (!(w->days >> day & 1))
				continue;
			uint32_t begin = day * IMAGE_MINUTES_DAY + w->first;
			uint32_t end = (day * IMAGE_MINUTES_DAY + w->last + 1) % WEEK_MINUTES;
			uint32_t a = minutes_until(now, begin), b = minutes_until(now, end);
			next = a < next ? a : next;
			next = b < next ? b : next;
		}
	int64_t minute = now_s - ((now_s % 60) + 60) % 60;
	int64_t at = minute + (int64_t)next * 60;
	uint32_t z = zone_at(p, now_s);
	/* When the clock changes first, what the windows mean changes with it. */
	if (z + 1 < p->n_zones && p->zones[z + 1].from > now_s && p->zones[z + 1].from < at)
		at = p->zones[z + 1].from;
	return at;
}
