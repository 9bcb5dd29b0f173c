/* The questions that a rule suggests: values for everything a question has (diff.c mixes them). */
#pragma once

#include "policy/image.h"

#define VALUES_MAX 12u /* of one dimension of one rule */

enum dimension {
	DIM_OP,
	DIM_FROM,
	DIM_FROM_NODE,
	DIM_GROUP,
	DIM_USER,
	DIM_UNIT,
	DIM_TO,
	DIM_TO_NODE,
	DIM_TO_USER,
	DIM_TO_GROUP,
	DIM_TO_UNIT,
	DIM_ADDRESS,
	DIM_PORT,
	DIM_PATH,
	DIM_UDP,
	DIM_PLAIN,
	DIM_TIME,
	_DIM_N
};

/* A value is a text or a number, whichever its dimension has. */
struct value {
	const char *text;
	int64_t number;
	struct addr address;
};

struct values {
	uint32_t n;
	struct value v[VALUES_MAX];
};

struct facts {
	struct values dim[_DIM_N];
};

/* Texts put together for one question. */
struct scratch {
	char from[2 * POLICY_NAME_MAX], to[2 * POLICY_NAME_MAX], address[IMAGE_PATH_MAX];
};

void rule_facts(const struct policy *p, const struct image_rule *r, struct facts *f);
struct policy_ask facts_question(const struct value *v[_DIM_N], struct scratch *s);
