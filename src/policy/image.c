/*
 * Opening a policy image and what it says of itself. Input: the bytes of an image, trusted for
 * nothing: image-check.c looks at all of it first.
 *
 * Cost: one pass over the image and one over its rules to build the index; two allocations a table.
 */
#include "policy/image.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

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

/* Keyed: names come from policies, registries and other nodes. */
static uint32_t hash_text(const struct policy *p, const char *s)
{
	uint64_t h = p->salt;
	for (; *s; s++) {
		h = (h ^ (unsigned char)*s) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 32;
	}
	return (uint32_t)(h ^ h >> 29);
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
	if (getrandom(&p->salt, sizeof(p->salt), GRND_NONBLOCK) != sizeof(p->salt))
		return error_set(e, -EAGAIN, "cannot use the policy image: no random numbers yet");
	p->name_slots = slots_new(p->n_names, &p->name_mask);
	p->rule_slots = slots_new(p->n_rules, &p->rule_mask);
	if (!p->name_slots || !p->rule_slots)
		return error_set(e, -ENOMEM, "cannot use the policy image: out of memory");
	for (uint32_t i = 1; i < p->n_names; i++) {
		uint32_t s = hash_text(p, policy_text(p, i)) & p->name_mask;
		for (; p->name_slots[s]; s = (s + 1) & p->name_mask)
			if (!strcmp(policy_text(p, p->name_slots[s]), policy_text(p, i)))
				return image_refuse(e, "a name occurs twice");
		p->name_slots[s] = i;
	}
	for (uint32_t i = 0; i < p->n_rules; i++) {
		const char *name = policy_rule_name(p, i);
		uint32_t s = hash_text(p, name) & p->rule_mask;
		for (; p->rule_slots[s]; s = (s + 1) & p->rule_mask)
			if (!strcmp(policy_rule_name(p, p->rule_slots[s] - 1), name))
				return image_refuse(e, "a rule occurs twice");
		p->rule_slots[s] = i + 1;
	}
	if (policy_index_new(p, &p->index) < 0)
		return error_set(e, -ENOMEM, "cannot use the policy image: out of memory");
	return 0;
}

int policy_image_open(const void *image, size_t len, struct policy **ret, struct error *e)
{
	_cleanup_policy_ struct policy *p = calloc(1, sizeof(*p));
	if (!p)
		return error_set(e, -ENOMEM, "cannot use the policy image: out of memory");
	int r = image_check(image, len, p, e);
	if (r == 0)
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
	uint32_t s = hash_text(p, name) & p->name_mask;
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

void policy_party_unit(const struct policy *p, struct policy_party *party, const char *unit)
{
	char name[IMAGE_PATH_MAX];
	const char *at = strchr(unit, '@'), *dot = strrchr(unit, '.');
	party->unit = unit[0] ? policy_intern(p, unit) : 0;
	party->unit_template = 0;
	if (!at || !dot || dot < at || strlen(unit) >= sizeof(name))
		return;
	size_t n = (size_t)(at - unit) + 1;
	memcpy(name, unit, n);
	memcpy(name + n, dot, strlen(dot) + 1);
	party->unit_template = policy_intern(p, name);
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
	return p && rule < p->n_rules ? p->text + p->rules[rule].name : "";
}

uint32_t policy_rule_line(const struct policy *p, uint32_t rule)
{
	return p && rule < p->n_rules ? p->rules[rule].line : 0;
}

uint32_t policy_rule_find(const struct policy *p, const char *name)
{
	if (!p)
		return POLICY_RULE_NONE;
	uint32_t s = hash_text(p, name) & p->rule_mask;
	for (; p->rule_slots[s]; s = (s + 1) & p->rule_mask)
		if (!strcmp(policy_rule_name(p, p->rule_slots[s] - 1), name))
			return p->rule_slots[s] - 1;
	return POLICY_RULE_NONE;
}

static const char *const op_names[] = {
	[POLICY_OP_RUN] = "run",
	[POLICY_OP_CONNECT] = "connect",
	[POLICY_OP_BIND] = "bind",
	[POLICY_OP_PUBLISH] = "publish",
	[POLICY_OP_ACCEPT] = "accept",
};

const char *policy_op_name(enum policy_op op)
{
	return (size_t)op < ARRAY_LEN(op_names) ? op_names[op] : NULL;
}

enum policy_op policy_op_parse(const char *text)
{
	for (size_t i = 0; i < ARRAY_LEN(op_names); i++)
		if (op_names[i] && !strcmp(op_names[i], text))
			return (enum policy_op)i;
	return POLICY_OP_NONE;
}
