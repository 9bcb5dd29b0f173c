/*
 * Is this a policy? The bytes of an image are trusted for nothing; one wrong reference refuses the
 * whole. Afterwards every list lies in its section, every number of a name, party, place or role is
 * one, every name is terminated text, every list of ranges is sorted and disjoint. Linear: runs
 * must follow each other, so none is looked at twice.
 */
#include "policy/image.h"

#include <errno.h>
#include <string.h>

int image_refuse(struct error *e, const char *what)
{
	return error_set(e, -EINVAL, "cannot use the policy image: %s (compile it again)", what);
}

static int check_header(const void *image, size_t len, struct error *e)
{
	const struct image_header *h = image;
	if ((uintptr_t)image % 8 || len < sizeof(*h) || len % 8)
		return image_refuse(e, "it is no policy image");
	if (h->magic != IMAGE_MAGIC)
		return image_refuse(e, "it is no policy image of this kind of machine");
	if (h->version != IMAGE_VERSION)
		return error_set(e, -EPROTONOSUPPORT,
			"cannot use the policy image: it has version %u, this Belay reads %u "
			"(compile it with this Belay's `belay policy load`)",
			h->version, IMAGE_VERSION);
	if (len > POLICY_IMAGE_MAX || h->size != len)
		return image_refuse(e, "its size is wrong");
	if (h->checksum != image_checksum(image, len))
		return image_refuse(e, "it is damaged");
	if (h->flags & ~IMAGE_FLAGS)
		return image_refuse(e, "it has unknown flags");
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
		return image_refuse(e, "section " #id " lies outside");                 \
	p->field = (const void *)((const char *)image + h->section[IMAGE_##id].offset); \
	p->n_##field = h->section[IMAGE_##id].count;
#include "policy/image.def"
#undef SECTION
	return 0;
}

/* Each run must begin where the last one of its section ended. */
struct cursors {
	uint32_t ids, users, ports, ranges4, ranges6, windows, tags;
};

static bool list_ok(const struct image_list *l, uint32_t *cursor, uint32_t n, uint32_t max)
{
	if (l->first != *cursor || l->count > max || l->count > n - *cursor)
		return false;
	*cursor += l->count;
	return true;
}

static bool ids_ok(
	const struct policy *p, const struct image_list *l, struct cursors *c, uint32_t max)
{
	if (l->count != 1)
		return list_ok(l, &c->ids, p->n_ids, max);
	return l->first && l->first < p->n_names;
}

static bool ports_list_ok(
	const struct policy *p, const struct image_port_list *l, struct cursors *c)
{
	struct image_list run = {l->first, l->count};
	if (l->count != 1 && !list_ok(&run, &c->ports, p->n_ports, IMAGE_LIST_MAX))
		return false;
	const struct image_ports *ports = list_ports(p, l);
	for (uint32_t i = 0; i < l->count; i++)
		if (ports[i].first > ports[i].last || (i && ports[i].first <= ports[i - 1].last))
			return false;
	return true;
}

static bool names_ok(const struct policy *p, struct cursors *c)
{
	if (!p->n_text || p->text[p->n_text - 1] || !p->n_names ||
		p->header->source >= p->n_names || p->header->zone >= p->n_names || p->header->zero)
		return false;
	for (uint32_t i = 0; i < p->n_names; i++) {
		const struct image_name *n = &p->names[i];
		if (n->text >= p->n_text || n->flags & ~IMAGE_NAME_FLAGS ||
			strnlen(p->text + n->text, IMAGE_PATH_MAX) == IMAGE_PATH_MAX ||
			!ids_ok(p, &n->groups, c, IMAGE_GROUPS_PER_NAME))
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
	const struct image_list *lists[] = {
		&a->programs, &a->groups, &a->roles, &a->units, &a->nodes};
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		if (!ids_ok(p, lists[i], c, IMAGE_LIST_MAX))
			return false;
	return list_ok(&a->users, &c->users, p->n_users, IMAGE_LIST_MAX) && !a->zero &&
	       !(a->flags & ~(IMAGE_PARTY_STAR | IMAGE_PARTY_NODE_ANY | IMAGE_PARTY_NODE_SELF));
}

static bool u128_less(const struct image_u128 *a, const struct image_u128 *b)
{
	return a->hi != b->hi ? a->hi < b->hi : a->lo < b->lo;
}

static bool where_ok(const struct policy *p, const struct image_where *w, struct cursors *c)
{
	if (w->path >= p->n_names || w->prefix > 1 ||
		(w->path && (w->ranges4.count || w->ranges6.count)) ||
		!list_ok(&w->ranges4, &c->ranges4, p->n_ranges4, IMAGE_LIST_MAX) ||
		!list_ok(&w->ranges6, &c->ranges6, p->n_ranges6, IMAGE_LIST_MAX))
		return false;
	const struct image_range4 *r4 = p->ranges4 + w->ranges4.first;
	for (uint32_t i = 0; i < w->ranges4.count; i++)
		if (r4[i].first > r4[i].last || (i && r4[i].first <= r4[i - 1].last))
			return false;
	const struct image_range6 *r6 = p->ranges6 + w->ranges6.first;
	for (uint32_t i = 0; i < w->ranges6.count; i++)
		if (u128_less(&r6[i].last, &r6[i].first) ||
			(i && !u128_less(&r6[i - 1].last, &r6[i].first)))
			return false;
	return true;
}

static bool how_ok(const struct policy *p, const struct image_how *h, struct cursors *c)
{
	if (h->encrypt > 1 || !h->rate != !h->rate_s || h->rate > IMAGE_RATE_MAX ||
		h->rate_s > IMAGE_RATE_S_MAX ||
		!list_ok(&h->windows, &c->windows, p->n_windows, IMAGE_LIST_MAX) ||
		!list_ok(&h->labels, &c->tags, p->n_tags, IMAGE_LIST_MAX))
		return false;
	for (uint32_t i = 0; i < h->labels.count; i++)
		if (p->tags[h->labels.first + i] >= p->n_names)
			return false;
	for (uint32_t i = 0; i < h->windows.count; i++) {
		const struct image_window *w = &p->windows[h->windows.first + i];
		if (!w->days || w->days > 127 || w->first > w->last ||
			w->last >= IMAGE_MINUTES_DAY || w->zero || w->zero2)
			return false;
	}
	return true;
}

/* What rules refer to by number: whoever is first, nowhere and nothing in particular. */
static int check_shared(const struct policy *p, struct cursors *c, struct error *e)
{
	static const struct image_party nobody;
	static const struct image_how nothing;
	if (!p->n_parties || !p->n_wheres || !p->n_hows)
		return image_refuse(e, "a section is empty");
	for (uint32_t i = 0; i < p->n_parties; i++)
		if (!party_ok(p, &p->parties[i], c))
			return image_refuse(e, "a party is malformed");
	for (uint32_t i = 0; i < p->n_wheres; i++)
		if (!where_ok(p, &p->wheres[i], c))
			return image_refuse(e, "a place is malformed");
	for (uint32_t i = 0; i < p->n_hows; i++)
		if (!how_ok(p, &p->hows[i], c))
			return image_refuse(e, "a rule's terms are malformed");
	const struct image_party *a = &p->parties[0];
	const struct image_where *w = &p->wheres[0];
	const struct image_how *h = &p->hows[0];
	bool empty = party_names_nobody(a) && !a->users.count && !a->nodes.count &&
		     a->flags == nobody.flags && !w->path && !w->ranges4.count &&
		     !w->ranges6.count && h->idle_ms == nothing.idle_ms && !h->connections &&
		     !h->rate && !h->encrypt && !h->windows.count && !h->labels.count;
	return empty ? 0 : image_refuse(e, "what means anything means something");
}

static int check_roles(const struct policy *p, struct error *e)
{
	for (uint32_t i = 0; i < p->n_roles; i++) {
		const struct image_role *r = &p->roles[i];
		if (!r->name || r->name >= p->n_names || r->zero ||
			!(r->gives[i / 64] >> (i % 64) & 1))
			return image_refuse(e, "a role is malformed");
	}
	for (uint32_t i = 0; i < p->n_bindings; i++)
		if (p->bindings[i].role >= p->n_roles || p->bindings[i].party >= p->n_parties ||
			p->parties[p->bindings[i].party].roles.count)
			return image_refuse(e, "who holds a role is malformed");
	for (uint32_t i = 0; i < p->n_zones; i++)
		if (p->zones[i].offset < -86400 || p->zones[i].offset > 86400 || p->zones[i].zero ||
			(i && p->zones[i].from <= p->zones[i - 1].from))
			return image_refuse(e, "its time zone is malformed");
	return 0;
}

/* Of a rule or of a label's place. */
static bool place_ok(const struct policy *p, const struct image_rule *r, struct cursors *c)
{
	if (r->from >= p->n_parties || r->to >= p->n_parties || r->where >= p->n_wheres ||
		r->how >= p->n_hows || !r->ops || r->ops & ~IMAGE_OPS || !r->transports ||
		r->transports & ~IMAGE_TRANSPORTS || r->flags & ~IMAGE_RULE_FLAGS || r->zero ||
		!ports_list_ok(p, &r->ports, c))
		return false;
	const struct image_where *w = &p->wheres[r->where];
	bool numbers = r->ports.count || w->ranges4.count || w->ranges6.count;
	if (r->transports & IMAGE_TRANSPORT(POLICY_UNIX) && numbers)
		return false;
	return !w->path || r->transports == IMAGE_TRANSPORT(POLICY_UNIX);
}

static bool rule_ok(const struct policy *p, const struct image_rule *r, struct cursors *c)
{
	bool allow = !(r->flags & IMAGE_RULE_DENY);
	unsigned plain = r->flags & (IMAGE_RULE_PLAIN | IMAGE_RULE_NOT_PLAIN);
	if (r->name >= p->n_text || !p->text[r->name] ||
		strnlen(p->text + r->name, POLICY_NAME_MAX) == POLICY_NAME_MAX ||
		!place_ok(p, r, c))
		return false;
	if (plain == (IMAGE_RULE_PLAIN | IMAGE_RULE_NOT_PLAIN) || (allow && !plain) ||
		(allow && r->flags & IMAGE_RULE_PERMISSIVE))
		return false;
	return !p->wheres[r->where].path || r->ops == IMAGE_OP(POLICY_OP_CONNECT) ||
	       r->ops == IMAGE_OP(POLICY_OP_BIND);
}

static int check_rules(const struct policy *p, struct cursors *c, struct error *e)
{
	for (uint32_t i = 0; i < p->n_labels; i++) {
		const struct image_rule *l = &p->labels[i];
		if (!l->name || l->name >= p->n_names || l->from || l->how || !place_ok(p, l, c) ||
			(i && l->name < l[-1].name))
			return image_refuse(e, "a label is malformed");
	}
	for (uint32_t i = 0; i < p->n_rules; i++) {
		const struct image_rule *r = &p->rules[i];
		if (!rule_ok(p, r, c))
			return image_refuse(e, "a rule is malformed");
		if (i && r->flags & IMAGE_RULE_DENY && !(r[-1].flags & IMAGE_RULE_DENY))
			return image_refuse(e, "its rules are out of order");
	}
	if (c->ids != p->n_ids || c->users != p->n_users || c->ports != p->n_ports ||
		c->ranges4 != p->n_ranges4 || c->ranges6 != p->n_ranges6 ||
		c->windows != p->n_windows || c->tags != p->n_tags)
		return image_refuse(e, "it holds more than its rules use");
	return 0;
}

int image_check(const void *image, size_t len, struct policy *p, struct error *e)
{
	int r = check_header(image, len, e);
	if (r == 0)
		r = map_sections(p, image, e);
	if (r < 0)
		return r;
	struct cursors c = {0};
	if (!names_ok(p, &c))
		return image_refuse(e, "its names are malformed");
	r = check_shared(p, &c, e);
	if (r == 0)
		r = check_roles(p, e);
	return r == 0 ? check_rules(p, &c, e) : r;
}
