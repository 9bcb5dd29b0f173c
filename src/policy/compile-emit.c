/*
 * Writes the image: rules sorted by rank; the parties, places and terms they have in common once
 * each, in the order in which rules first mention them, so that runs follow each other. Cost: one
 * sort of the rules, one pass over them; the image is put together from one buffer a section.
 */
#include "policy/compile-source.h"

#include <errno.h>
#include <string.h>

static const size_t section_size[] = {
#define SECTION(id, type, field, max) [IMAGE_##id] = sizeof(type),
#include "policy/image.def"
#undef SECTION
};
static const uint64_t section_max[] = {
#define SECTION(id, type, field, max) [IMAGE_##id] = max,
#include "policy/image.def"
#undef SECTION
};

struct emitter {
	struct compiler *c;
	struct {
		char *v;
		uint64_t n, room;
	} section[_IMAGE_SECTION_N];
	struct unique parties, wheres, hows;
	POOL(uint32_t) words; /* scratch */
	bool too_large;
};

/* Index of the first of n elements added. */
static uint32_t put(struct emitter *e, enum image_section_id id, const void *data, uint64_t n)
{
	uint64_t at = e->section[id].n, need = at + n;
	if (need > section_max[id]) {
		e->too_large = true;
		return 0;
	}
	if (need > e->section[id].room) {
		uint64_t room = need * 2 + 64;
		void *v = reallocarray(e->section[id].v, room, section_size[id]);
		if (!v) {
			e->c->no_memory = true;
			return 0;
		}
		e->section[id].v = v;
		e->section[id].room = room;
	}
	if (n)
		memcpy(e->section[id].v + at * section_size[id], data, n * section_size[id]);
	e->section[id].n = need;
	return (uint32_t)at;
}

static uint32_t put_text(struct emitter *e, const char *text)
{
	return put(e, IMAGE_TEXT, text, strlen(text) + 1);
}

static struct image_list put_ids(struct emitter *e, struct image_list l)
{
	const uint32_t *ids = e->c->ids.v + l.first;
	if (l.count == 1)
		return (struct image_list){ids[0], 1};
	return (struct image_list){put(e, IMAGE_IDS, ids, l.count), l.count};
}

static struct image_list put_run(
	struct emitter *e, enum image_section_id id, const void *pool, struct image_list l)
{
	const char *from = pool;
	return (struct image_list){
		put(e, id, l.count ? from + l.first * section_size[id] : NULL, l.count), l.count};
}

static struct image_port_list put_ports(struct emitter *e, struct image_list l)
{
	struct image_port_list r = {.count = l.count};
	if (l.count == 1)
		r.one = e->c->ports.v[l.first];
	else
		r.first = put(e, IMAGE_PORTS, e->c->ports.v + l.first, l.count);
	return r;
}

/* Appends n elements of a pool to the scratch, as words, with their number before them. */
static void say(struct emitter *e, const void *data, uint32_t n, size_t size)
{
	const uint32_t *w = data;
	pool_add(e->c, &e->words, n);
	for (size_t i = 0; i < n * size / sizeof(*w); i++)
		pool_add(e->c, &e->words, w[i]);
}

static void say_list(struct emitter *e, const void *pool, struct image_list l, size_t size)
{
	say(e, l.count ? (const char *)pool + l.first * size : NULL, l.count, size);
}

/* The number of what the scratch says; *fresh: nobody said it before. */
static uint32_t said(struct emitter *e, struct unique *s, bool *fresh)
{
	uint32_t before = s->items.n, i = unique_add(s, e->words.v, e->words.n);
	if (i == UINT32_MAX) {
		e->c->no_memory = true;
		i = 0;
	}
	*fresh = s->items.n > before;
	e->words.n = 0;
	return i;
}

static uint32_t put_party(struct emitter *e, const struct source_party *a)
{
	const struct compiler *c = e->c;
	const struct image_list ids[] = {a->programs, a->groups, a->roles, a->units, a->nodes};
	bool fresh;
	for (size_t i = 0; i < ARRAY_LEN(ids); i++)
		say_list(e, c->ids.v, ids[i], sizeof(uint32_t));
	say_list(e, c->users.v, a->users, sizeof(struct image_user));
	pool_add(e->c, &e->words, a->flags);
	uint32_t i = said(e, &e->parties, &fresh);
	if (!fresh)
		return i;
	struct image_party p = {.flags = a->flags};
	p.programs = put_ids(e, a->programs);
	p.groups = put_ids(e, a->groups);
	p.roles = put_ids(e, a->roles);
	p.units = put_ids(e, a->units);
	p.nodes = put_ids(e, a->nodes);
	p.users = put_run(e, IMAGE_USERS, c->users.v, a->users);
	put(e, IMAGE_PARTIES, &p, 1);
	return i;
}

static uint32_t put_where(struct emitter *e, const struct source_body *r)
{
	const struct compiler *c = e->c;
	bool fresh;
	say_list(e, c->ranges4.v, r->ranges4, sizeof(struct image_range4));
	say_list(e, c->ranges6.v, r->ranges6, sizeof(struct image_range6));
	pool_add(e->c, &e->words, r->path);
	pool_add(e->c, &e->words, r->prefix);
	uint32_t i = said(e, &e->wheres, &fresh);
	if (!fresh)
		return i;
	struct image_where w = {.path = r->path, .prefix = r->prefix};
	w.ranges4 = put_run(e, IMAGE_RANGES4, c->ranges4.v, r->ranges4);
	w.ranges6 = put_run(e, IMAGE_RANGES6, c->ranges6.v, r->ranges6);
	put(e, IMAGE_WHERES, &w, 1);
	return i;
}

static uint32_t put_how(struct emitter *e, const struct source_body *r)
{
	const struct compiler *c = e->c;
	struct image_how h = {.idle_ms = r->idle_ms,
		.connections = r->connections,
		.rate = r->rate,
		.rate_s = r->rate_s,
		.encrypt = r->encrypt};
	bool fresh;
	say(e, &h, 1, sizeof(h));
	for (uint32_t i = 0; i < r->windows.count; i++) {
		const struct image_window *w = &c->windows.v[r->windows.first + i];
		pool_add(e->c, &e->words, (uint32_t)w->days << 24 | 1u << 23 | w->first);
		pool_add(e->c, &e->words, w->last);
	}
	say_list(e, c->ids.v, r->labels, sizeof(uint32_t));
	uint32_t i = said(e, &e->hows, &fresh);
	if (!fresh)
		return i;
	h.windows = put_run(e, IMAGE_WINDOWS, c->windows.v, r->windows);
	h.labels = put_run(e, IMAGE_TAGS, c->ids.v, r->labels);
	put(e, IMAGE_HOWS, &h, 1);
	return i;
}

static struct image_rule body_of(struct emitter *e, const struct source_body *r)
{
	struct image_rule i = {
		.line = r->line, .ops = r->ops, .transports = r->transports, .flags = r->flags};
	i.from = put_party(e, &r->from);
	i.to = put_party(e, &r->to);
	i.where = put_where(e, r);
	i.how = put_how(e, r);
	return i;
}

/* All that deny first; then the more specific; then by name. Names are unique, so the order is
 * total. */
struct ranked {
	const struct compiler *c;
	const struct source_rule *s;
};

static int by_rank(const void *va, const void *vb)
{
	const struct ranked *a = va, *b = vb;
	unsigned da = a->s->r.flags & IMAGE_RULE_DENY, db = b->s->r.flags & IMAGE_RULE_DENY;
	if (da != db)
		return da ? -1 : 1;
	if (a->s->score != b->s->score)
		return a->s->score > b->s->score ? -1 : 1;
	const struct source_name *names = a->c->rule_names.list;
	return strcmp(names[a->s->r.name].text, names[b->s->r.name].text);
}

static int put_rules(struct emitter *e)
{
	const struct compiler *c = e->c;
	_cleanup_free_ struct ranked *order = calloc(c->rules.n + 1, sizeof(*order));
	if (!order)
		return -ENOMEM;
	for (uint32_t i = 0; i < c->rules.n; i++)
		order[i] = (struct ranked){c, &c->rules.v[i]};
	qsort(order, c->rules.n, sizeof(*order), by_rank);
	for (uint32_t i = 0; i < c->rules.n; i++) {
		const struct source_body *s = &order[i].s->r;
		struct image_rule r = body_of(e, s);
		r.ports = put_ports(e, s->ports);
		r.name = put_text(e, c->rule_names.list[s->name].text);
		put(e, IMAGE_RULES, &r, 1);
	}
	return 0;
}

static int by_label(const void *va, const void *vb)
{
	const struct source_body *a = va, *b = vb;
	if (a->name != b->name)
		return a->name < b->name ? -1 : 1;
	return (a->line > b->line) - (a->line < b->line);
}

static void put_labels(struct emitter *e)
{
	struct compiler *c = e->c;
	if (c->labels.n)
		qsort(c->labels.v, c->labels.n, sizeof(*c->labels.v), by_label);
	for (uint32_t i = 0; i < c->labels.n; i++) {
		struct image_rule r = body_of(e, &c->labels.v[i]);
		r.ports = put_ports(e, c->labels.v[i].ports);
		r.name = c->labels.v[i].name;
		put(e, IMAGE_LABELS, &r, 1);
	}
}

static void put_roles(struct emitter *e)
{
	const struct compiler *c = e->c;
	for (uint32_t i = 0; i < c->roles.n; i++) {
		struct image_role r = {.name = c->roles.v[i].name};
		memcpy(r.gives, c->roles.v[i].gives, sizeof(r.gives));
		memcpy(r.excludes, c->roles.v[i].excluded, sizeof(r.excludes));
		put(e, IMAGE_ROLES, &r, 1);
	}
	for (uint32_t i = 0; i < c->bindings.n; i++) {
		struct image_binding b = {c->bindings.v[i].role, 0};
		b.party = put_party(e, &c->bindings.v[i].party);
		put(e, IMAGE_BINDINGS, &b, 1);
	}
}

static int by_program(const void *va, const void *vb)
{
	const struct membership *a = va, *b = vb;
	if (a->program != b->program)
		return a->program < b->program ? -1 : 1;
	return (a->group > b->group) - (a->group < b->group);
}

static void put_names(struct emitter *e)
{
	struct compiler *c = e->c;
	uint32_t m = 0;
	if (c->memberships.n)
		qsort(c->memberships.v, c->memberships.n, sizeof(*c->memberships.v), by_program);
	for (uint32_t i = 0; i < c->names.n; i++) {
		struct image_list groups = {c->ids.n, 0};
		for (; m < c->memberships.n && c->memberships.v[m].program == i; m++)
			pool_add(c, &c->ids, c->memberships.v[m].group);
		groups.count = c->ids.n - groups.first;
		struct image_name n = {.text = put_text(e, c->names.list[i].text),
			.flags = c->names.list[i].flags & IMAGE_NAME_FLAGS,
			.groups = put_ids(e, groups)};
		put(e, IMAGE_NAMES, &n, 1);
		c->ids.n = groups.first;
	}
}

static int assemble(struct emitter *e, struct image_header *h, void **ret, size_t *ret_len)
{
	uint64_t at = sizeof(*h);
	for (int i = 0; i < _IMAGE_SECTION_N; i++) {
		h->section[i] = (struct image_section){(uint32_t)at, (uint32_t)e->section[i].n};
		at += (e->section[i].n * section_size[i] + 7) & ~7ull;
		if (at > POLICY_IMAGE_MAX)
			return -E2BIG;
	}
	h->size = (uint32_t)at;
	char *image = calloc(1, at);
	if (!image)
		return -ENOMEM;
	memcpy(image, h, sizeof(*h));
	for (int i = 0; i < _IMAGE_SECTION_N; i++)
		if (e->section[i].n)
			memcpy(image + h->section[i].offset, e->section[i].v,
				e->section[i].n * section_size[i]);
	((struct image_header *)(void *)image)->checksum = image_checksum(image, at);
	*ret = image;
	*ret_len = at;
	return 0;
}

static int emit(struct emitter *e, void **ret, size_t *ret_len)
{
	static const struct source_body nothing;
	struct compiler *c = e->c;
	struct image_header h = {
		.magic = IMAGE_MAGIC, .version = IMAGE_VERSION, .flags = c->flags, .zone = c->zone};
	h.source = names_add(&c->names, c->options.source);
	if (!h.source && c->options.source[0])
		return -ENOMEM;
	put_names(e);
	(void)body_of(e, &nothing); /* number 0 of everything shared */
	put_roles(e);
	put_labels(e);
	put_run(e, IMAGE_ZONES, c->zones.v, (struct image_list){0, c->zones.n});
	int r = put_rules(e);
	if (r == 0 && e->too_large)
		r = -E2BIG;
	if (r < 0 || c->no_memory)
		return r < 0 ? r : -ENOMEM;
	return assemble(e, &h, ret, ret_len);
}

int policy_emit(struct compiler *c, void **ret, size_t *ret_len)
{
	struct emitter e = {.c = c};
	int r = unique_init(&e.parties);
	if (r == 0)
		r = unique_init(&e.wheres);
	if (r == 0)
		r = unique_init(&e.hows);
	if (r == 0)
		r = emit(&e, ret, ret_len);
	for (int i = 0; i < _IMAGE_SECTION_N; i++)
		free(e.section[i].v);
	unique_deinit(&e.parties);
	unique_deinit(&e.wheres);
	unique_deinit(&e.hows);
	free(e.words.v);
	return r;
}
