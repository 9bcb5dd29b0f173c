/*
 * Which rules can apply to a question, without looking at the others. Built by whoever opens an
 * image, never carried in it: an index from outside could hide a rule that denies.
 *
 * A rule is entered under keys (operation, from, to, port, where): from and to a program, a group
 * or anything; port and where (host address or socket path) one value or anything. A question is
 * looked up under each combination of what it has and "anything", but only for the shapes (which of
 * the four are "anything") that some rule of that operation uses. A run is a superset: match_rule()
 * has the last word, so a collision of 64-bit keys, or a rule entered more widely than it is, costs
 * time only.
 *
 * Cost of a search: (1 + from's names) * (1 + to's names) probes for each shape in use, mostly one
 * or two shapes; then the rules under those keys. Rules that share programs and differ in ranges
 * are walked.
 */
#include "policy/image.h"

#include <errno.h>
#include <string.h>

#define DIM_VALUES_MAX 16 /* ports, hosts of one rule entered one by one */
#define KEYS_MAX \
	256 /* keys of one rule and operation, or as many as `from` names, if those are more */

enum shape { SHAPE_FROM = 1, SHAPE_TO = 2, SHAPE_PORT = 4, SHAPE_WHERE = 8, SHAPES = 16 };
#define OP_CALLER 0u /* connect when the other end is unknown; others are enum policy_op */
#define OPS 5u

struct index_slot {
	uint64_t key;
	uint32_t first; /* in entries */
	uint32_t count; /* 0: empty slot */
};

struct policy_index {
	struct index_slot *slots;
	uint32_t mask;
	uint32_t *entries;
	uint16_t shapes[OPS];
};

/* Each part of a key is mixed by itself, and the parts are xor'ed: a question mixes each part once.
 */
static uint64_t mix(uint64_t v, uint64_t salt)
{
	v = (v + salt) * 0x9e3779b97f4a7c15ull;
	v = (v ^ v >> 32) * 0xd6e8feb86659fd93ull;
	return v ^ v >> 29;
}

static uint64_t part_op(uint32_t op)
{
	return mix(op, 0x1111);
}

static uint64_t part_party(uint32_t id, bool group, bool to)
{
	return mix((uint64_t)id << 2 | (uint64_t)group << 1 | to, 0x2222);
}

static uint64_t part_port(uint16_t port)
{
	return mix(port, 0x3333);
}

static uint64_t part_ip4(uint32_t ip)
{
	return mix(ip, 0x4444);
}

static uint64_t part_ip6(uint64_t hi, uint64_t lo)
{
	return mix(hi, 0x5555) ^ mix(lo, 0x6666);
}

static uint64_t part_path(uint32_t name)
{
	return mix(name, 0x7777);
}

/* The values of one dimension of a rule; n == 0: anything. */
struct dim {
	uint32_t n;
	uint64_t part[DIM_VALUES_MAX];
};

static void dim_ports(const struct policy *p, const struct image_rule *r, struct dim *d)
{
	d->n = 0;
	if (r->ports.count > DIM_VALUES_MAX)
		return;
	for (uint32_t i = 0; i < r->ports.count; i++) {
		const struct image_ports *x = &p->ports[r->ports.first + i];
		if (x->first != x->last) {
			d->n = 0;
			return;
		}
		d->part[d->n++] = part_port(x->first);
	}
}

static void dim_where(const struct policy *p, const struct image_rule *r, struct dim *d)
{
	d->n = 0;
	if (r->path && !(r->flags & IMAGE_RULE_PREFIX))
		d->part[d->n++] = part_path(r->path);
	if (r->ranges4.count + r->ranges6.count > DIM_VALUES_MAX)
		return;
	for (uint32_t i = 0; i < r->ranges4.count; i++) {
		const struct image_range4 *x = &p->ranges4[r->ranges4.first + i];
		if (x->first != x->last) {
			d->n = 0;
			return;
		}
		d->part[d->n++] = part_ip4(x->first);
	}
	for (uint32_t i = 0; i < r->ranges6.count; i++) {
		const struct image_range6 *x = &p->ranges6[r->ranges6.first + i];
		if (x->first.hi != x->last.hi || x->first.lo != x->last.lo) {
			d->n = 0;
			return;
		}
		d->part[d->n++] = part_ip6(x->first.hi, x->first.lo);
	}
}

static struct image_list party_list(const struct image_party *a, bool *ret_group)
{
	*ret_group = !a->programs.count;
	return a->programs.count ? a->programs : a->groups;
}

struct builder {
	const struct policy *p;
	struct policy_index *x;
	bool fill; /* first pass counts, second fills */
};

static void enter(struct builder *b, uint64_t key, uint32_t rule)
{
	struct policy_index *x = b->x;
	uint32_t s = (uint32_t)(key & x->mask);
	while (x->slots[s].count && x->slots[s].key != key)
		s = (s + 1) & x->mask;
	if (b->fill) {
		x->entries[x->slots[s].first++] = rule;
		return;
	}
	x->slots[s].key = key;
	x->slots[s].count++;
}

/* fn is called once for each key; NULL only counts. */
static uint64_t rule_keys(struct builder *b, uint32_t rule, uint32_t op)
{
	const struct policy *p = b->p;
	const struct image_rule *r = &p->rules[rule];
	bool from_group, to_group, deny = r->flags & IMAGE_RULE_DENY;
	struct image_list from = party_list(&r->from, &from_group),
			  to = party_list(&r->to, &to_group);
	struct dim ports = {0}, where = {0};
	if (op != POLICY_OP_CONNECT)
		to.count = 0;
	/* A denied bind also catches wildcards and port 0, which no single value would find. */
	if (op != POLICY_OP_RUN && !(deny && op != POLICY_OP_CONNECT && op != OP_CALLER)) {
		dim_ports(p, r, &ports);
		dim_where(p, r, &where);
	}
	uint32_t nf = from.count ? from.count : 1, nt = to.count ? to.count : 1;
	/* Whatever makes too many keys is entered as "anything": the last word is match_rule()'s.
	 */
	if ((uint64_t)nf * nt * (ports.n + 1) * (where.n + 1) > KEYS_MAX)
		where.n = 0;
	if ((uint64_t)nf * nt * (ports.n + 1) > KEYS_MAX)
		ports.n = 0;
	if ((uint64_t)nf * nt > KEYS_MAX)
		to.count = 0, nt = 1;
	uint32_t np = ports.n ? ports.n : 1, nw = where.n ? where.n : 1;
	b->x->shapes[op] |=
		(uint16_t)(1u << ((from.count ? SHAPE_FROM : 0) | (to.count ? SHAPE_TO : 0) |
				   (ports.n ? SHAPE_PORT : 0) | (where.n ? SHAPE_WHERE : 0)));
	if (!b->x->slots)
		return (uint64_t)nf * nt * np * nw;
	for (uint32_t f = 0; f < nf; f++) {
		uint64_t kf = part_op(op);
		if (from.count)
			kf ^= part_party(p->ids[from.first + f], from_group, false);
		for (uint32_t t = 0; t < nt; t++) {
			uint64_t kt =
				to.count ? part_party(p->ids[to.first + t], to_group, true) : 0;
			for (uint32_t i = 0; i < np; i++)
				for (uint32_t k = 0; k < nw; k++)
					enter(b,
						kf ^ kt ^ (ports.n ? ports.part[i] : 0) ^
							(where.n ? where.part[k] : 0),
						rule);
		}
	}
	return 0;
}

static uint64_t all_keys(struct builder *b)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < b->p->n_rules; i++) {
		for (uint32_t op = POLICY_OP_RUN; op <= POLICY_OP_PUBLISH; op++)
			if (b->p->rules[i].ops & IMAGE_OP(op))
				n += rule_keys(b, i, op);
		if (b->p->rules[i].ops & IMAGE_OP(POLICY_OP_CONNECT))
			n += rule_keys(b, i, OP_CALLER);
	}
	return n;
}

void policy_index_free(struct policy_index *x)
{
	if (!x)
		return;
	free(x->slots);
	free(x->entries);
	free(x);
}

static int index_fill(struct builder *b, uint64_t n)
{
	struct policy_index *x = b->x;
	uint64_t size = 4;
	while (size < 2 * n)
		size *= 2;
	if (size > UINT32_MAX)
		return -E2BIG;
	x->mask = (uint32_t)size - 1;
	x->slots = calloc(size, sizeof(*x->slots));
	x->entries = calloc(n + 1, sizeof(*x->entries));
	if (!x->slots || !x->entries)
		return -ENOMEM;
	all_keys(b);
	uint32_t at = 0;
	for (uint64_t s = 0; s < size; s++) {
		x->slots[s].first = at;
		at += x->slots[s].count;
	}
	b->fill = true;
	all_keys(b);
	for (uint64_t s = 0; s < size; s++)
		x->slots[s].first -= x->slots[s].count;
	return 0;
}

int policy_index_new(const struct policy *p, struct policy_index **ret)
{
	struct policy_index *x = calloc(1, sizeof(*x));
	if (!x)
		return -ENOMEM;
	struct builder b = {.p = p, .x = x};
	int r = index_fill(&b, all_keys(&b));
	if (r < 0) {
		policy_index_free(x);
		return r;
	}
	*ret = x;
	return 0;
}

/* What a question has in one dimension; part[0] is "anything". */
struct wanted {
	uint32_t n;
	uint64_t part[1 + POLICY_PARTY_NAMES_MAX + MATCH_GROUPS_MAX];
};

static void wanted_party(const struct match_party *m, bool to, struct wanted *w)
{
	w->n = 0;
	w->part[w->n++] = 0;
	for (uint32_t i = 0; i < m->n_programs; i++)
		w->part[w->n++] = part_party(m->programs[i], false, to);
	for (uint32_t i = 0; i < m->n_groups; i++)
		w->part[w->n++] = part_party(m->groups[i], true, to);
}

static uint64_t be(const uint8_t *b, int n)
{
	uint64_t v = 0;
	for (int i = 0; i < n; i++)
		v = v << 8 | b[i];
	return v;
}

static uint64_t wanted_where(const struct policy *p, const struct policy_question *q)
{
	if (q->op == POLICY_OP_RUN)
		return 0;
	if (q->transport == POLICY_UNIX) {
		uint32_t name = policy_intern(p, q->unix_path);
		return name ? part_path(name) : 0;
	}
	const uint8_t *ip = q->address.ip;
	return q->address.ip_len == 4 ? part_ip4((uint32_t)be(ip, 4))
				      : part_ip6(be(ip, 8), be(ip + 8, 8));
}

static void probe(
	const struct policy *p, const struct match *m, uint64_t key, policy_index_fn fn, void *data)
{
	const struct policy_index *x = p->index;
	uint32_t s = (uint32_t)(key & x->mask);
	for (; x->slots[s].count; s = (s + 1) & x->mask)
		if (x->slots[s].key == key) {
			fn(p, m, x->entries + x->slots[s].first, x->slots[s].count, data);
			return;
		}
}

void policy_index_search(
	const struct policy *p, const struct match *m, policy_index_fn fn, void *data)
{
	const struct policy_question *q = m->q;
	struct wanted from _scratch_, to _scratch_;
	uint32_t op = q->half == POLICY_CALLER ? OP_CALLER : q->op;
	wanted_party(&m->from, false, &from);
	wanted_party(&m->to, true, &to);
	uint64_t port = part_port(q->address.port), where = wanted_where(p, q), base = part_op(op);
	for (uint32_t shapes = p->index->shapes[op]; shapes; shapes &= shapes - 1) {
		unsigned shape = (unsigned)__builtin_ctz(shapes);
		uint64_t k =
			base ^ (shape & SHAPE_PORT ? port : 0) ^ (shape & SHAPE_WHERE ? where : 0);
		uint32_t f0 = shape & SHAPE_FROM ? 1 : 0, f1 = shape & SHAPE_FROM ? from.n : 1;
		uint32_t t0 = shape & SHAPE_TO ? 1 : 0, t1 = shape & SHAPE_TO ? to.n : 1;
		for (uint32_t f = f0; f < f1; f++)
			for (uint32_t t = t0; t < t1; t++)
				probe(p, m, k ^ from.part[f] ^ to.part[t], fn, data);
	}
}
