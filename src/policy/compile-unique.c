/*
 * Finds what rules have in common: a million rules are about some thousand parties. Sequences of
 * words are compared in full; the hash only finds them.
 */
#include "policy/compile-source.h"

#include <errno.h>
#include <string.h>

static uint32_t hash_words(const uint32_t *words, uint32_t n)
{
	uint64_t h = 0xcbf29ce484222325ull + n;
	for (uint32_t i = 0; i < n; i++) {
		h = (h ^ words[i]) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
	}
	return (uint32_t)(h ^ h >> 29);
}

static bool slots_resize(struct unique *s, uint32_t size)
{
	uint32_t *slots = calloc(size, sizeof(*slots));
	if (!slots)
		return false;
	for (uint32_t i = 0; i < s->items.n; i++) {
		const struct image_list *l = &s->items.v[i];
		uint32_t at = hash_words(s->words.v + l->first, l->count) & (size - 1);
		while (slots[at])
			at = (at + 1) & (size - 1);
		slots[at] = i + 1;
	}
	free(s->slots);
	s->slots = slots;
	s->mask = size - 1;
	return true;
}

int unique_init(struct unique *s)
{
	*s = (struct unique){0};
	return slots_resize(s, 64) ? 0 : -ENOMEM;
}

void unique_deinit(struct unique *s)
{
	free(s->words.v);
	free(s->items.v);
	free(s->slots);
}

static bool add_item(struct unique *s, const uint32_t *words, uint32_t n)
{
	struct image_list l = {s->words.n, n};
	while (s->words.room - s->words.n < n)
		if (!pool_grow((void **)&s->words.v, &s->words.room, s->words.room,
			    sizeof(*s->words.v)))
			return false;
	if (!pool_grow((void **)&s->items.v, &s->items.room, s->items.n, sizeof(*s->items.v)))
		return false;
	if (n)
		memcpy(s->words.v + s->words.n, words, n * sizeof(*words));
	s->words.n += n;
	s->items.v[s->items.n++] = l;
	return true;
}

uint32_t unique_add(struct unique *s, const uint32_t *words, uint32_t n)
{
	uint32_t at = hash_words(words, n) & s->mask;
	for (; s->slots[at]; at = (at + 1) & s->mask) {
		const struct image_list *l = &s->items.v[s->slots[at] - 1];
		if (l->count == n &&
			(!n || !memcmp(s->words.v + l->first, words, n * sizeof(*words))))
			return s->slots[at] - 1;
	}
	if (!add_item(s, words, n))
		return UINT32_MAX;
	s->slots[at] = s->items.n;
	if (s->items.n > s->mask / 2 && !slots_resize(s, (s->mask + 1) * 2))
		return UINT32_MAX;
	return s->items.n - 1;
}
