/* The reserve of a lease (reserve.h): a ring. They are used in the order they were made, so the one
 * that is looked for is among the first. */
#include "guard/reserve.h"

#include <string.h>

static uint8_t *slot(struct reserve *r, size_t i)
{
	return r->id[(r->at + i) % RESERVE_MAX];
}

static bool find(struct reserve *r, const uint8_t *id, size_t *ret)
{
	for (size_t i = 0; i < r->n; i++) {
		if (memcmp(slot(r, i), id, CHANNEL_ID_LEN) != 0)
			continue;
		*ret = i;
		return true;
	}
	return false;
}

bool reserve_add(struct reserve *r, const uint8_t id[CHANNEL_ID_LEN])
{
	size_t i;
	if (r->n == RESERVE_MAX || find(r, id, &i))
		return false;
	memcpy(slot(r, r->n++), id, CHANNEL_ID_LEN);
	return true;
}

bool reserve_pop(struct reserve *r, uint8_t ret[CHANNEL_ID_LEN])
{
	if (!r->n)
		return false;
	memcpy(ret, slot(r, 0), CHANNEL_ID_LEN);
	r->at = (r->at + 1) % RESERVE_MAX;
	r->n--;
	return true;
}

bool reserve_take(struct reserve *r, const uint8_t id[CHANNEL_ID_LEN])
{
	uint8_t first[CHANNEL_ID_LEN];
	size_t i;
	if (!find(r, id, &i))
		return false;
	/* The first takes its place. */
	if (!reserve_pop(r, first))
		return false;
	if (i)
		memcpy(slot(r, i - 1), first, CHANNEL_ID_LEN);
	return true;
}
