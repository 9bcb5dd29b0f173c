/*
 * Which rules can apply to a question, without looking at the others. Built by whoever opens an
 * image, never carried in it: an index from outside could hide a rule that denies.
 *
 * A rule is entered under keys (operation, from, to, port, where): from and to a program, a group,
 * a role or anything; port one value or anything; where a network, a socket's path or anything. A
 * question is looked up under each combination of what it has and "anything", but only for the
 * shapes (which of the four are "anything") that some rule of that operation uses. A run is a
 * superset: match_rule() has the last word, so a collision of 64-bit keys, or a rule entered more
 * widely than it is, costs time only.
 *
 * Cost of a search: (1 + from's names) * (1 + to's names) probes for each shape in use, mostly one
 * or two shapes, times the lengths of networks in use where addresses count; then the rules under
 * those keys. Rules that share programs and differ in ranges of ports or in times are walked.
 */
#include "policy/image.h"

#include <errno.h>
#include <string.h>

#define DIM_VALUES_MAX 16 /* ports, hosts of one rule entered one by one */
#define KEYS_MAX \
	256 /* keys of one rule and operation, or as many as `from` names, if those are more */

enum shape { SHAPE_FROM = 1, SHAPE_TO = 2, SHAPE_PORT = 4, SHAPE_WHERE = 8 };
#define OP_CALLER 0u /* connect when the other end is unknown; others are enum policy_op */
#define OPS (POLICY_OP_ACCEPT + 1u)

struct index_slot {
	uint64_t key;
	uint32_t first; /* in entries; of a single rule, the rule itself */
	uint32_t count; /* 0: empty slot */
};

struct lengths {
	uint64_t v4, v6[3]; /* bit n: networks of n bits occur */
};

struct policy_index {
	struct index_slot *slots;
	uint32_t mask;
	uint32_t *entries;
	uint16_t shapes[OPS];
	struct lengths lengths[OPS];
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

enum kind { KIND_PROGRAM, KIND_GROUP, KIND_ROLE };
static uint64_t part_party(uint32_t id, enum kind kind, bool to)
{
	return mix((uint64_t)id << 3 | (uint64_t)kind << 1 | to, 0x2222);
}

static uint64_t part_port(uint16_t port)
{
	return mix(port, 0x3333);
}

/* A network is its first address and its length. */
static uint64_t part_net4(uint32_t ip, unsigned bits)
{
	return mix((uint64_t)bits << 32 | ip, 0x4444);
}

static uint64_t part_net6(uint64_t hi, uint64_t lo, unsigned bits)
{
	return mix(hi, 0x5555) ^ mix(lo + bits, 0x6666);
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
	const struct image_ports *ports = list_ports(p, &r->ports);
	d->n = 0;
	if (r->ports.count > DIM_VALUES_MAX)
		return;
	for (uint32_t i = 0; i < r->ports.count; i++) {
		const struct image_ports *x = &ports[i];
		if (x->first != x->last) {
			d->n = 0;
			return;
		}
		d->part[d->n++] = part_port(x->first);
	}
}

static uint64_t high_bits(unsigned n)
{
	return n ? ~0ull << (64 - n) : 0;
}

/* The length of the network that is exactly this range, or -1. */
static int net_bits(uint64_t first_hi, uint64_t first_lo, uint64_t last_hi, uint64_t last_lo)
{
	uint64_t hi = first_hi ^ last_hi, lo = first_lo ^ last_lo;
	unsigned bits =
		hi ? (unsigned)__builtin_clzll(hi) : 64 + (lo ? (unsigned)__builtin_clzll(lo) : 64);
	uint64_t host_hi = ~high_bits(bits < 64 ? bits : 64),
		 host_lo = ~high_bits(bits > 64 ? bits - 64 : 0);
	return first_hi & host_hi || first_lo & host_lo || hi != host_hi || lo != host_lo
		       ? -1
		       : (int)bits;
}

/* Networks, noting their lengths; false when some range is none, or they are too many. */
static bool dim_nets(
	const struct policy *p, const struct image_where *w, struct dim *d, struct lengths *used)
{
	if (d->n + w->ranges4.count + w->ranges6.count > DIM_VALUES_MAX)
		return false;
	for (uint32_t i = 0; i < w->ranges4.count; i++) {
		const struct image_range4 *x = &p->ranges4[w->ranges4.first + i];
		int bits = net_bits(
			(uint64_t)x->first << 32, 0, (uint64_t)x->last << 32 | UINT32_MAX, ~0ull);
		if (bits < 0 || bits > 32)
			return false;
		used->v4 |= 1ull << bits;
		d->part[d->n++] = part_net4(x->first, (unsigned)bits);
	}
	for (uint32_t i = 0; i < w->ranges6.count; i++) {
		const struct image_range6 *x = &p->ranges6[w->ranges6.first + i];
		int bits = net_bits(x->first.hi, x->first.lo, x->last.hi, x->last.lo);
		if (bits < 0)
			return false;
		used->v6[bits / 64] |= 1ull << (bits % 64);
		d->part[d->n++] = part_net6(x->first.hi, x->first.lo, (unsigned)bits);
	}
	return true;
}

static void dim_where(
	const struct policy *p, const struct image_rule *r, struct dim *d, struct lengths *used)
{
	const struct image_where *w = &p->wheres[r->where];
	d->n = 0;
	if (w->path && !w->prefix)
		d->part[d->n++] = part_path(w->path);
	if (!dim_nets(p, w, d, used))
		d->n = 0;
}

/* A rule is entered under what narrows it most. */
static struct image_list party_list(const struct image_party *a, enum kind *ret)
{
	*ret = a->programs.count ? KIND_PROGRAM : a->groups.count ? KIND_GROUP : KIND_ROLE;
	return a->programs.count ? a->programs : a->groups.count ? a->groups : a->roles;
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
	if (b->fill && x->slots[s].count == 1)
		x->slots[s].first = rule;
	else if (b->fill)
		x->entries[x->slots[s].first++] = rule;
	if (b->fill)
		return;
	x->slots[s].key = key;
	x->slots[s].count++;
}

/* fn is called once for each key; NULL only counts. */
static uint64_t rule_keys(struct builder *b, uint32_t rule, uint32_t op)
{
	const struct policy *p = b->p;
	const struct image_rule *r = &p->rules[rule];
	enum kind from_kind, to_kind;
	bool connect = op == POLICY_OP_CONNECT || op == OP_CALLER,
	     deny = r->flags & IMAGE_RULE_DENY;
	struct image_list from = party_list(&p->parties[r->from], &from_kind),
			  to = party_list(&p->parties[r->to], &to_kind);
	struct dim ports = {0}, where = {0};
	if (op != POLICY_OP_CONNECT && op != POLICY_OP_ACCEPT)
		to.count = 0;
	/* A denied bind also catches wildcards and port 0, which no single value would find. */
	if (op != POLICY_OP_RUN && !(deny && !connect)) {
		dim_ports(p, r, &ports);
		dim_where(p, r, &where, &b->x->lengths[op]);
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
	const uint32_t *from_ids = list_ids(p, &from), *to_ids = list_ids(p, &to);
	for (uint32_t f = 0; f < nf; f++) {
		uint64_t kf = part_op(op);
		kf ^= from.count ? part_party(from_ids[f], from_kind, false) : 0;
		for (uint32_t t = 0; t < nt; t++) {
			uint64_t k = kf ^ (to.count ? part_party(to_ids[t], to_kind, true) : 0);
			for (uint32_t i = 0; i < np; i++)
				for (uint32_t j = 0; j < nw; j++)
					enter(b,
						k ^ (ports.n ? ports.part[i] : 0) ^
							(where.n ? where.part[j] : 0),
						rule);
		}
	}
	return 0;
}

static uint64_t all_keys(struct builder *b)
{
	uint64_t n = 0;
	for (uint32_t i = 0; i < b->p->n_rules; i++) {
		for (uint32_t op = POLICY_OP_RUN; op < OPS; op++)
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
	if (!x->slots)
		return -ENOMEM;
	all_keys(b);
	uint32_t at = 0;
	for (uint64_t s = 0; s < size; s++) {
		x->slots[s].first = at;
		at += x->slots[s].count > 1 ? x->slots[s].count : 0;
	}
	x->entries = calloc(at + 1u, sizeof(*x->entries));
	if (!x->entries)
		return -ENOMEM;
	b->fill = true;
	all_keys(b);
	for (uint64_t s = 0; s < size; s++)
		x->slots[s].first -= x->slots[s].count > 1 ? x->slots[s].count : 0;
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
	uint64_t part[1 + POLICY_PARTY_NAMES_MAX + MATCH_GROUPS_MAX + POLICY_ROLES_MAX];
};

static void wanted_party(const struct match_party *m, bool to, struct wanted *w)
{
	w->n = 0;
	w->part[w->n++] = 0;
	for (uint32_t i = 0; i < m->n_programs; i++)
		w->part[w->n++] = part_party(m->programs[i], KIND_PROGRAM, to);
	for (uint32_t i = 0; i < m->n_groups; i++)
		w->part[w->n++] = part_party(m->groups[i], KIND_GROUP, to);
	/* Whatever holds to allow holds to deny, so these are all. */
	for (uint32_t i = 0; i < m->n_roles[MATCH_DENY]; i++)
		w->part[w->n++] = part_party(m->roles[MATCH_DENY][i], KIND_ROLE, to);
}

static uint64_t be(const uint8_t *b, int n)
{
	uint64_t v = 0;
	for (int i = 0; i < n; i++)
		v = v << 8 | b[i];
	return v;
}

/* Every network of a length that occurs, that the address lies in; or the path. */
static void wanted_where(
	const struct policy *p, const struct policy_question *q, uint32_t op, struct wanted *w)
{
	const struct lengths *used = &p->index->lengths[op];
	w->n = 0;
	if (q->op == POLICY_OP_RUN)
		return;
	if (q->transport == POLICY_UNIX) {
		uint32_t name = policy_intern(p, q->unix_path);
		if (name)
			w->part[w->n++] = part_path(name);
		return;
	}
	const uint8_t *ip = q->address.ip;
	if (q->address.ip_len == 4) {
		uint64_t a = be(ip, 4) << 32;
		for (uint64_t left = used->v4; left; left &= left - 1) {
			unsigned bits = (unsigned)__builtin_ctzll(left);
			w->part[w->n++] = part_net4((uint32_t)((a & high_bits(bits)) >> 32), bits);
		}
		return;
	}
	uint64_t hi = be(ip, 8), lo = be(ip + 8, 8);
	for (unsigned word = 0; word < 3; word++)
		for (uint64_t left = used->v6[word]; left; left &= left - 1) {
			unsigned bits = word * 64 + (unsigned)__builtin_ctzll(left);
			w->part[w->n++] = part_net6(hi & high_bits(bits < 64 ? bits : 64),
				lo & high_bits(bits > 64 ? bits - 64 : 0), bits);
		}
}

static void probe(
	const struct policy *p, const struct match *m, uint64_t key, policy_index_fn fn, void *data)
{
	const struct policy_index *x = p->index;
	uint32_t s = (uint32_t)(key & x->mask);
	for (; x->slots[s].count; s = (s + 1) & x->mask)
		if (x->slots[s].key == key) {
			fn(p, m,
				x->slots[s].count == 1 ? &x->slots[s].first
						       : x->entries + x->slots[s].first,
				x->slots[s].count, data);
			return;
		}
}

void policy_index_search(
	const struct policy *p, const struct match *m, policy_index_fn fn, void *data)
{
	const struct policy_question *q = m->q;
	struct wanted from _scratch_, to _scratch_, where _scratch_;
	uint32_t op = q->half == POLICY_CALLER ? OP_CALLER : q->op;
	wanted_party(&m->from, false, &from);
	wanted_party(&m->to, true, &to);
	wanted_where(p, q, op, &where);
	uint64_t port = part_port(q->address.port), base = part_op(op);
	for (uint32_t shapes = p->index->shapes[op]; shapes; shapes &= shapes - 1) {
		unsigned shape = (unsigned)__builtin_ctz(shapes);
		uint64_t k = base ^ (shape & SHAPE_PORT ? port : 0);
		uint32_t f0 = shape & SHAPE_FROM ? 1 : 0, f1 = shape & SHAPE_FROM ? from.n : 1;
		uint32_t t0 = shape & SHAPE_TO ? 1 : 0, t1 = shape & SHAPE_TO ? to.n : 1;
		uint32_t w1 = shape & SHAPE_WHERE ? where.n : 1;
		for (uint32_t f = f0; f < f1; f++)
			for (uint32_t t = t0; t < t1; t++)
				for (uint32_t w = 0; w < w1; w++)
					probe(p, m,
						k ^ from.part[f] ^ to.part[t] ^
							(shape & SHAPE_WHERE ? where.part[w] : 0),
						fn, data);
	}
}
