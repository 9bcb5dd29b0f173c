/*
 * Names: of programs, groups and nodes, and their SPIFFE IDs in certificates:
 *   spiffe://DOMAIN/node/NODE                    a node
 *   spiffe://DOMAIN/node/NODE/program/PROGRAM    a program as that node knows it
 * A name that name_check() accepts is a valid path segment of a SPIFFE ID, so nothing is ever
 * escaped.
 */
#pragma once

#include <stdbool.h>

#include "base/cleanup.h"

#define NAME_SIZE 64           /* with its NUL */
#define SPIFFE_DOMAIN_SIZE 256 /* 255 bytes and NUL, as the standard limits it */
#define SPIFFE_ID_SIZE 2049    /* 2048 bytes and NUL, likewise */

struct spiffe_id {
	char domain[SPIFFE_DOMAIN_SIZE];
	char node[NAME_SIZE];
	char program[NAME_SIZE]; /* empty: the ID names the node itself */
};

/* 1 to 63 of [a-zA-Z0-9._-], neither "." nor "..", no leading '-'. */
bool name_check(const char *name);
/* 1 to 255 of [a-z0-9._-]. */
bool spiffe_domain_check(const char *domain);
/* program may be NULL or empty. -EINVAL when a part is not a valid name. */
int spiffe_format(const char *domain, const char *node, const char *program,
	char ret[SPIFFE_ID_SIZE]) _must_check_;
/* Exactly what spiffe_format() makes, nothing else: -EINVAL. */
int spiffe_parse(const char *text, struct spiffe_id *ret) _must_check_;
