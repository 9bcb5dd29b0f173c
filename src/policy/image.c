/*
 * Opening a policy image and what it says of itself. Input: the bytes of an image, trusted for
 * nothing; one wrong reference refuses the whole. After policy_image_open() every list lies in its
 * section, every id in lists is a name, every name is terminated text, every list of ranges is
 * sorted and disjoint.
 *
 * Cost: one pass over the image and one over its rules to build the index; two allocations a table.
 */
#include "policy/image.h"

#include <errno.h>
#include <string.h>

uint64_t image_checksum(const void *image, size_t len)
{
	const unsigned char *b = image;
	uint64_t h = 0xcbf29ce484222325ull;
	for (size_t i = 0; i + 8 <= len; i += 8) {
		uint64_t w;
		memcpy(&w, b + i, 8);
		if (i == offsetof(struct image_header, checksum))
			w = 0;
		h = (h ^ w) * 0x100000001b3ull;
		h ^= h >> 29;
	}
	return h;
}

static int refuse(struct error *e, const char *what)
{
	return error_set(e, -EINVAL, "cannot use the policy image: %s (compile it again)", what);
}

static int check_header(const void *image, size_t len, struct error *e)
{
	const struct image_header *h = image;
	if ((uintptr_t)image % 8 || len < sizeof(*h) || len % 8)
		return refuse(e, "it is no policy image");
	if (h->magic != IMAGE_MAGIC)
		return refuse(e, "it is no policy image of this kind of machine");
	if (h->version != IMAGE_VERSION)
		return error_set(e, -EPROTONOSUPPORT,
			"cannot use the policy image: it has version %u, this Belay reads %u "
			"(compile it with this Belay's `belay policy load`)",
			h->version, IMAGE_VERSION);
	if (len > POLICY_IMAGE_MAX || h->size != len)
		return refuse(e, "its size is wrong");
	if (h->checksum != image_checksum(image, len))
		return refuse(e, "it is damaged");
	if (h->flags & ~(IMAGE_DNS | IMAGE_RUN_ENROLLED))
		return refuse(e, "it has unknown flags");
	return 0;
}

static bool section_ok(
	const struct image_header *h, enum image_section_id id, size_t size, size_t max)
{
	const struct image_section *s = &h->section[id];
	return s->offset % 8 == 0 && s->offset >= sizeof(*h) && s->offset <= h->size &&
	       s->count <= max && s->count <= (h->size - s->offset) / size;
}

static int map_sections(struct policy *p, const void *image, struct error *e)
{
	const struct image_header *h = image;
	p->header = h;
#define SECTION(id, type, field, max)                                                   \
	if (!section_ok(h, IMAGE_##id, sizeof(type), max))                              \
		return refuse(e, "section " #id " lies outside");                       \
	p->field = (const void *)((const char *)image + h->section[IMAGE_##id].offset); \
	p->n_##field = h->section[IMAGE_##id].count;
#include "policy/image.def"
#undef SECTION
	return 0;
}

/* A list must begin where the last one of its section ended. */
static bool list_ok(struct image_list l, uint32_t *cursor, uint32_t n, uint32_t max)
{
	if (l.first != *cursor || l.count > max || l.count > n - *cursor)
		return false;
	*cursor += l.count;
	return true;
}

struct cursors {
	uint32_t ids, users, ports, ranges4, ranges6;
};

static bool names_ok(const struct policy *p, struct cursors *c)
{
	if (!p->n_text || p->text[p->n_text - 1] || !p->n_names || p->header->source >= p->n_names)
		return false;
	for (uint32_t i = 0; i < p->n_names; i++) {
		const struct image_name *n = &p->names[i];
		if (n->text >= p->n_text || n->flags & ~(IMAGE_NAME_ENROLLED | IMAGE_NAME_LIST) ||
			strnlen(p->text + n->text, IMAGE_PATH_MAX) == IMAGE_PATH_MAX ||
			!list_ok(n->groups, &c->ids, p->n_ids, IMAGE_GROUPS_PER_NAME))
			return false;
	}
	/* People read these texts on terminals. */
	for (uint32_t i = 0; i < p->n_text; i++)
		if (p->text[i] && ((unsigned char)p->text[i] < 0x20 || p->text[i] == 0x7f))
			return false;
	for (uint32_t i = 0; i < p->n_ids; i++)
		if (!p->ids[i] || p->ids[i] >= p->n_names)
			return false;
	for (uint32_t i = 0; i < p->n_users; i++)
		if (p->users[i].name >= p->n_names)
			return false;
	return p->text[p->names[0].text] == '\0';
}

static bool party_ok(const struct policy *p, const struct image_party *a, struct cursors *c)
{
	return list_ok(a->programs, &c->ids, p->n_ids, IMAGE_LIST_MAX) &&
	       list_ok(a->groups, &c->ids, p->n_ids, IMAGE_LIST_MAX) &&
	       list_ok(a->nodes, &c->ids, p->n_ids, IMAGE_LIST_MAX) &&
	       list_ok(a->users, &c->users, p->n_users, IMAGE_LIST_MAX) &&
	       !(a->flags & ~(IMAGE_PARTY_STAR | IMAGE_PARTY_NODE_ANY | IMAGE_PARTY_NODE_SELF));
}

static bool u128_less(const struct image_u128 *a, const struct image_u128 *b)
{
	return a->hi != b->hi ? a->hi < b->hi : a->lo < b->lo;
}

static bool ranges_ok(const struct policy *p, const struct image_rule *r)
{
	const struct image_ports *ports = p->ports + r->ports.first;
	for (uint32_t i = 0; i < r->ports.count; i++)
		if (ports[i].first > ports[i].last || (i && ports[i].first <= ports[i - 1].last))
			return false;
	const struct image_range4 *r4 = p->ranges4 + r->ranges4.first;
	for (uint32_t i = 0; i < r->ranges4.count; i++)
		if (r4[i].first > r4[i].last || (i && r4[i].first <= r4[i - 1].last))
			return false;
	const struct image_range6 *r6 = p->ranges6 + r->ranges6.first;
	for (uint32_t i = 0; i < r->ranges6.count; i++)
		if (u128_less(&r6[i].last, &r6[i].first) ||
			(i && !u128_less(&r6[i - 1].last, &r6[i].first)))
			return false;
	return true;
}

static bool rule_ok(const struct policy *p, const struct image_rule *r, struct cursors *c)
{
	bool allow = !(r->flags & IMAGE_RULE_DENY);
	unsigned plain = r->flags & (IMAGE_RULE_PLAIN | IMAGE_RULE_NOT_PLAIN);
	if (!r->name || r->name >= p->n_names || r->path >= p->n_names || !r->ops ||
		r->ops & ~IMAGE_OPS || !r->transports || r->transports & ~IMAGE_TRANSPORTS ||
		r->flags & ~IMAGE_RULE_FLAGS || r->encrypt > 1 || r->zero)
		return false;
	if (plain == (IMAGE_RULE_PLAIN | IMAGE_RULE_NOT_PLAIN) || (allow && !plain))
		return false;
	bool where = r->ports.count || r->ranges4.count || r->ranges6.count;
	if (r->transports & IMAGE_TRANSPORT(POLICY_UNIX) && where)
		return false;
	if (r->path && (r->ops != IMAGE_OP(POLICY_OP_CONNECT) ||
			       r->transports != IMAGE_TRANSPORT(POLICY_UNIX)))
		return false;
	return party_ok(p, &r->from, c) && party_ok(p, &r->to, c) &&
	       list_ok(r->ports, &c->ports, p->n_ports, IMAGE_LIST_MAX) &&
	       list_ok(r->ranges4, &c->ranges4, p->n_ranges4, IMAGE_LIST_MAX) &&
	       list_ok(r->ranges6, &c->ranges6, p->n_ranges6, IMAGE_LIST_MAX) && ranges_ok(p, r);
}

static int check_rules(const struct policy *p, struct cursors *c, struct error *e)
{
	for (uint32_t i = 0; i < p->n_rules; i++) {
		const struct image_rule *r = &p->rules[i];
		if (!rule_ok(p, r, c))
			return refuse(e, "a rule is malformed");
		if (i && r->flags & IMAGE_RULE_DENY && !(r[-1].flags & IMAGE_RULE_DENY))
			return refuse(e, "its rules are out of order");
	}
	if (c->ids != p->n_ids || c->users != p->n_users || c->ports != p->n_ports ||
		c->ranges4 != p->n_ranges4 || c->ranges6 != p->n_ranges6)
		return refuse(e, "it holds more than its rules use");
	return 0;
}

static uint32_t hash_text(const char *s)
{
	uint64_t h = 0xcbf29ce484222325ull;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
	return (uint32_t)(h ^ h >> 32);
}

static uint32_t hash_id(uint32_t id)
{
	uint64_t h = (uint64_t)id * 0x9e3779b97f4a7c15ull;
	return (uint32_t)(h >> 32);
}

/* Room for n at half load; the tables are open-addressed, so one slot always stays empty. */
static uint32_t *slots_new(uint32_t n, uint32_t *ret_mask)
{
	uint32_t size = 4;
	while (size < 2 * n)
		size *= 2;
	*ret_mask = size - 1;
	return calloc(size, sizeof(uint32_t));
}

static int build_tables(struct policy *p, struct error *e)
{
	p->name_slots = slots_new(p->n_names, &p->name_mask);
	p->rule_slots = slots_new(p->n_rules, &p->rule_mask);
	if (!p->name_slots || !p->rule_slots)
		return error_set(e, -ENOMEM, "cannot use the policy image: out of memory");
	for (uint32_t i = 1; i < p->n_names; i++) {
		uint32_t s = hash_text(policy_text(p, i)) & p->name_mask;
		for (; p->name_slots[s]; s = (s + 1) & p->name_mask)
			if (!strcmp(policy_text(p, p->name_slots[s]), policy_text(p, i)))
				return refuse(e, "a name occurs twice");
		p->name_slots[s] = i;
	}
	for (uint32_t i = 0; i < p->n_rules; i++) {
		uint32_t s = hash_id(p->rules[i].name) & p->rule_mask;
		for (; p->rule_slots[s]; s = (s + 1) & p->rule_mask)
			if (p->rules[p->rule_slots[s] - 1].name == p->rules[i].name)
				return refuse(e, "a rule occurs twice");
		p->rule_slots[s] = i + 1;
	}
	if (policy_index_new(p, &p->index) < 0)
		return error_set(e, -ENOMEM, "cannot use the policy image: out of memory");
	return 0;
}

int policy_image_open(const void *image, size_t len, struct policy **ret, struct error *e)
{
	int r = check_header(image, len, e);
	if (r < 0)
		return r;
	_cleanup_policy_ struct policy *p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(e, -ENOMEM, "cannot use the policy image: out of memory");
	r = map_sections(p, image, e);
	if (r < 0)
		return r;
	struct cursors c = {0};
	if (!names_ok(p, &c))
		return refuse(e, "its names are malformed");
	r = check_rules(p, &c, e);
	if (r < 0)
		return r;
	r = build_tables(p, e);
	if (r < 0)
		return r;
	*ret = take_ptr(p);
	return 0;
}

void policy_close(struct policy *p)
{
	if (!p)
		return;
	free(p->name_slots);
	free(p->rule_slots);
	policy_index_free(p->index);
	free(p);
}

uint32_t policy_intern(const struct policy *p, const char *name)
{
	if (!p)
		return 0;
	uint32_t s = hash_text(name) & p->name_mask;
	for (; p->name_slots[s]; s = (s + 1) & p->name_mask)
		if (!strcmp(policy_text(p, p->name_slots[s]), name))
			return p->name_slots[s];
	return 0;
}

int policy_party_program(const struct policy *p, struct policy_party *party, const char *name)
{
	if (party->n_programs == POLICY_PARTY_NAMES_MAX)
		return -E2BIG;
	party->programs[party->n_programs++] = policy_intern(p, name);
	return 0;
}

int policy_party_group(const struct policy *p, struct policy_party *party, const char *name)
{
	if (party->n_groups == POLICY_PARTY_NAMES_MAX)
		return -E2BIG;
	party->groups[party->n_groups++] = policy_intern(p, name);
	return 0;
}

uint32_t policy_rules(const struct policy *p)
{
	return p ? p->n_rules : 0;
}

bool policy_dns(const struct policy *p)
{
	return p && p->header->flags & IMAGE_DNS;
}

const char *policy_source(const struct policy *p)
{
	return p ? policy_text(p, p->header->source) : "";
}

const char *policy_rule_name(const struct policy *p, uint32_t rule)
{
	return p && rule < p->n_rules ? policy_text(p, p->rules[rule].name) : "";
}

uint32_t policy_rule_line(const struct policy *p, uint32_t rule)
{
	return p && rule < p->n_rules ? p->rules[rule].line : 0;
}

uint32_t policy_rule_find(const struct policy *p, const char *name)
{
	uint32_t id = policy_intern(p, name);
	if (!id)
		return POLICY_RULE_NONE;
	uint32_t s = hash_id(id) & p->rule_mask;
	for (; p->rule_slots[s]; s = (s + 1) & p->rule_mask)
		if (p->rules[p->rule_slots[s] - 1].name == id)
			return p->rule_slots[s] - 1;
	return POLICY_RULE_NONE;
}
