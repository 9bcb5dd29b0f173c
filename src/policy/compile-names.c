/* The compiler's names and growing arrays. Names are a person's text, already checked by who adds
 * them. */
#include "policy/compile-source.h"

#include <errno.h>
#include <string.h>

bool pool_grow(void **v, uint32_t *room, uint32_t n, size_t size)
{
	if (n < *room)
		return true;
	if (n > UINT32_MAX / 4)
		return false;
	uint32_t more = *room ? *room * 2 : 64;
	void *p = reallocarray(*v, more, size);
	if (!p)
		return false;
	*v = p;
	*room = more;
	return true;
}

static uint32_t hash_text(const char *s)
{
	uint64_t h = 0xcbf29ce484222325ull;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
	return (uint32_t)(h ^ h >> 32);
}

static bool slots_resize(struct names *n, uint32_t size)
{
	uint32_t *slots = calloc(size, sizeof(*slots));
	if (!slots)
		return false;
	for (uint32_t i = 1; i < n->n; i++) {
		uint32_t s = hash_text(n->list[i].text) & (size - 1);
		while (slots[s])
			s = (s + 1) & (size - 1);
		slots[s] = i;
	}
	free(n->slots);
	n->slots = slots;
	n->mask = size - 1;
	return true;
}

int names_init(struct names *n)
{
	*n = (struct names){0};
	if (!pool_grow((void **)&n->list, &n->room, 0, sizeof(*n->list)) || !slots_resize(n, 64))
		return -ENOMEM;
	n->list[0] = (struct source_name){.text = strdup("")};
	n->n = 1;
	return n->list[0].text ? 0 : -ENOMEM;
}

void names_deinit(struct names *n)
{
	for (uint32_t i = 0; i < n->n; i++)
		free(n->list[i].text);
	free(n->list);
	free(n->slots);
}

uint32_t names_add(struct names *n, const char *text)
{
	uint32_t s = hash_text(text) & n->mask;
	for (; n->slots[s]; s = (s + 1) & n->mask)
		if (!strcmp(n->list[n->slots[s]].text, text))
			return n->slots[s];
	if (!pool_grow((void **)&n->list, &n->room, n->n, sizeof(*n->list)))
		return 0;
	char *copy = strdup(text);
	if (!copy)
		return 0;
	n->list[n->n] = (struct source_name){.text = copy};
	n->slots[s] = n->n++;
	if (n->n > n->mask / 2 && !slots_resize(n, (n->mask + 1) * 2))
		return 0;
	return n->n - 1;
}
