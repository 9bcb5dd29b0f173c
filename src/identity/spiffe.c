/* SPIFFE IDs (spiffe.h). Input of spiffe_parse(): text from a certificate. Pure, no allocation. */
#include "identity/spiffe.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SCHEME "spiffe://"
#define LOWER "abcdefghijklmnopqrstuvwxyz"
#define UPPER "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define OTHER "0123456789._-"

bool name_check(const char *name)
{
	size_t n = strnlen(name, NAME_SIZE);
	if (!n || n >= NAME_SIZE || name[0] == '-')
		return false;
	if (strcmp(name, ".") == 0 || strcmp(name, "..") == 0)
		return false;
	return strspn(name, LOWER UPPER OTHER) == n;
}

bool spiffe_domain_check(const char *domain)
{
	size_t n = strnlen(domain, SPIFFE_DOMAIN_SIZE);
	return n && n < SPIFFE_DOMAIN_SIZE && strspn(domain, LOWER OTHER) == n;
}

int spiffe_format(
	const char *domain, const char *node, const char *program, char ret[SPIFFE_ID_SIZE])
{
	bool named = program && program[0];
	if (!spiffe_domain_check(domain) || !name_check(node) || (named && !name_check(program)))
		return -EINVAL;
	snprintf(ret, SPIFFE_ID_SIZE, SCHEME "%s/node/%s%s%s", domain, node,
		named ? "/program/" : "", named ? program : "");
	return 0;
}

/* Takes the text up to the next '/' or the end. */
static int take_segment(const char **p, char *ret, size_t size)
{
	size_t n = strcspn(*p, "/");
	if (!n || n >= size)
		return -EINVAL;
	memcpy(ret, *p, n);
	ret[n] = '\0';
	*p += n;
	return 0;
}

static bool take_literal(const char **p, const char *text)
{
	size_t n = strlen(text);
	if (strncmp(*p, text, n) != 0)
		return false;
	*p += n;
	return true;
}

int spiffe_parse(const char *text, struct spiffe_id *ret)
{
	const char *p = text;
	memset(ret, 0, sizeof(*ret));
	if (!take_literal(&p, SCHEME) || take_segment(&p, ret->domain, sizeof(ret->domain)) < 0 ||
		!take_literal(&p, "/node/") || take_segment(&p, ret->node, sizeof(ret->node)) < 0)
		return -EINVAL;
	if (*p && (!take_literal(&p, "/program/") ||
			  take_segment(&p, ret->program, sizeof(ret->program)) < 0 || *p))
		return -EINVAL;
	if (!spiffe_domain_check(ret->domain) || !name_check(ret->node) ||
		(ret->program[0] && !name_check(ret->program)))
		return -EINVAL;
	return 0;
}
