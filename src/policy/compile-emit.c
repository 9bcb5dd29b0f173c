/*
 * Writes the image: rules sorted by rank, their lists copied in that order, so that runs follow
 * each other. Cost: one sort of the rules, one pass to count, one to write.
 */
#include "policy/compile-source.h"

#include <errno.h>
#include <string.h>

struct ranked {
	const struct compiler *c;
	const struct source_rule *s;
};

/* All that deny first; then the more specific; then by name. Names are unique, so the order is
 * total. */
static int by_rank(const void *va, const void *vb)
{
	const struct ranked *a = va, *b = vb;
	unsigned da = a->s->r.flags & IMAGE_RULE_DENY, db = b->s->r.flags & IMAGE_RULE_DENY;
	if (da != db)
		return da ? -1 : 1;
	if (a->s->score != b->s->score)
		return a->s->score > b->s->score ? -1 : 1;
	return strcmp(a->c->names.list[a->s->r.name].text, b->c->names.list[b->s->r.name].text);
}

/* Where each section begins and how much of it is written. */
struct output {
	char *image;
	struct image_header *h;
	uint32_t used[_IMAGE_SECTION_N];
};

static void *out_section(struct output *o, enum image_section_id id)
{
	return o->image + o->h->section[id].offset;
}

/* Copies a list of `size` byte elements out of a pool and makes l run in the section. */
static void out_list(struct output *o, enum image_section_id id, const void *pool, size_t size,
	struct image_list *l)
{
	uint32_t at = o->used[id];
	if (l->count)
		memcpy((char *)out_section(o, id) + at * size, (const char *)pool + l->first * size,
			l->count * size);
	l->first = at;
	o->used[id] += l->count;
}

static void out_party(struct output *o, const struct compiler *c, struct image_party *a)
{
	out_list(o, IMAGE_IDS, c->ids.v, sizeof(uint32_t), &a->programs);
	out_list(o, IMAGE_IDS, c->ids.v, sizeof(uint32_t), &a->groups);
	out_list(o, IMAGE_IDS, c->ids.v, sizeof(uint32_t), &a->nodes);
	out_list(o, IMAGE_USERS, c->users.v, sizeof(struct image_user), &a->users);
}

static void out_rules(struct output *o, const struct compiler *c, const struct ranked *order)
{
	struct image_rule *rules = out_section(o, IMAGE_RULES);
	for (uint32_t i = 0; i < c->rules.n; i++) {
		struct image_rule r = order[i].s->r;
		out_party(o, c, &r.from);
		out_party(o, c, &r.to);
		out_list(o, IMAGE_PORTS, c->ports.v, sizeof(struct image_ports), &r.ports);
		out_list(o, IMAGE_RANGES4, c->ranges4.v, sizeof(struct image_range4), &r.ranges4);
		out_list(o, IMAGE_RANGES6, c->ranges6.v, sizeof(struct image_range6), &r.ranges6);
		rules[i] = r;
	}
}

static int by_program(const void *va, const void *vb)
{
	const struct membership *a = va, *b = vb;
	if (a->program != b->program)
		return a->program < b->program ? -1 : 1;
	return (a->group > b->group) - (a->group < b->group);
}

static void out_names(struct output *o, const struct compiler *c)
{
	struct image_name *names = out_section(o, IMAGE_NAMES);
	uint32_t *ids = out_section(o, IMAGE_IDS), m = 0;
	char *text = out_section(o, IMAGE_TEXT);
	for (uint32_t i = 0; i < c->names.n; i++) {
		const struct source_name *s = &c->names.list[i];
		size_t len = strlen(s->text) + 1;
		names[i].text = o->used[IMAGE_TEXT];
		names[i].flags = s->flags & (IMAGE_NAME_ENROLLED | IMAGE_NAME_LIST);
		memcpy(text + o->used[IMAGE_TEXT], s->text, len);
		o->used[IMAGE_TEXT] += (uint32_t)len;
		names[i].groups.first = o->used[IMAGE_IDS];
		for (; m < c->memberships.n && c->memberships.v[m].program == i; m++)
			ids[o->used[IMAGE_IDS]++] = c->memberships.v[m].group;
		names[i].groups.count = o->used[IMAGE_IDS] - names[i].groups.first;
	}
}

/* How much of each section the rules use; pools may hold more (what merged ranges left behind). */
static void count(const struct compiler *c, uint64_t n[_IMAGE_SECTION_N])
{
	n[IMAGE_NAMES] = c->names.n;
	n[IMAGE_RULES] = c->rules.n;
	n[IMAGE_IDS] = c->memberships.n;
	for (uint32_t i = 0; i < c->names.n; i++)
		n[IMAGE_TEXT] += strlen(c->names.list[i].text) + 1;
	for (uint32_t i = 0; i < c->rules.n; i++) {
		const struct image_rule *r = &c->rules.v[i].r;
		const struct image_party *party[] = {&r->from, &r->to};
		for (int k = 0; k < 2; k++) {
			n[IMAGE_IDS] += party[k]->programs.count + party[k]->groups.count +
					party[k]->nodes.count;
			n[IMAGE_USERS] += party[k]->users.count;
		}
		n[IMAGE_PORTS] += r->ports.count;
		n[IMAGE_RANGES4] += r->ranges4.count;
		n[IMAGE_RANGES6] += r->ranges6.count;
	}
}

static uint64_t lay_out(const uint64_t n[_IMAGE_SECTION_N], struct image_header *h)
{
	static const size_t size[] = {
#define SECTION(id, type, field, max) [IMAGE_##id] = sizeof(type),
#include "policy/image.def"
#undef SECTION
	};
	static const uint64_t limit[] = {
#define SECTION(id, type, field, max) [IMAGE_##id] = max,
#include "policy/image.def"
#undef SECTION
	};
	uint64_t at = sizeof(*h);
	for (int i = 0; i < _IMAGE_SECTION_N; i++) {
		if (n[i] > limit[i] || at > POLICY_IMAGE_MAX)
			return UINT64_MAX;
		h->section[i] = (struct image_section){(uint32_t)at, (uint32_t)n[i]};
		at += (n[i] * size[i] + 7) & ~7ull;
	}
	return at;
}

int policy_emit(struct compiler *c, void **ret, size_t *ret_len)
{
	_cleanup_free_ struct ranked *order = calloc(c->rules.n + 1, sizeof(*order));
	struct image_header h = {.magic = IMAGE_MAGIC, .version = IMAGE_VERSION, .flags = c->flags};
	uint64_t n[_IMAGE_SECTION_N] = {0};
	h.source = names_add(&c->names, c->options.source);
	if (!order || (!h.source && c->options.source[0]))
		return -ENOMEM;
	for (uint32_t i = 0; i < c->rules.n; i++)
		order[i] = (struct ranked){c, &c->rules.v[i]};
	qsort(order, c->rules.n, sizeof(*order), by_rank);
	if (c->memberships.n)
		qsort(c->memberships.v, c->memberships.n, sizeof(*c->memberships.v), by_program);
	count(c, n);
	uint64_t size = lay_out(n, &h);
	if (size > POLICY_IMAGE_MAX)
		return -E2BIG;
	h.size = (uint32_t)size;
	struct output o = {.image = calloc(1, size)};
	if (!o.image)
		return -ENOMEM;
	o.h = (struct image_header *)o.image;
	*o.h = h;
	out_names(&o, c);
	out_rules(&o, c, order);
	o.h->checksum = image_checksum(o.image, size);
	*ret = o.image;
	*ret_len = size;
	return 0;
}
