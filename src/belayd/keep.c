/*
 * Descriptors kept for a role's successors. Input: names chosen by the component, which may be
 * hostile by now: only the prefixes of privilege.def, a bounded number, each name once. Cost: a
 * linear search a message; messages come when run trees begin and end.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "belayd/belayd.h"

static const struct {
	enum role role;
	const char *prefix;
} allowed[] = {
#define KEEP(role, prefix, what) {ROLE_##role, prefix},
#include "belayd/privilege.def"
#undef KEEP
};

bool keep_allowed(enum role role, const char *name)
{
	if (!heritage_name_valid(name))
		return false;
	for (size_t i = 0; i < ARRAY_LEN(allowed); i++)
		if (allowed[i].role == role &&
			!strncmp(name, allowed[i].prefix, strlen(allowed[i].prefix)))
			return true;
	return false;
}

static struct heritage_kept *keep_find(struct child *c, const char *name)
{
	for (size_t i = 0; i < c->n_kept; i++)
		if (!strcmp(c->kept[i].name, name))
			return &c->kept[i];
	return NULL;
}

int keep_set(struct child *c, const char *name, int *fd)
{
	struct heritage_kept *k = keep_find(c, name);
	if (k) {
		close(k->fd);
		k->fd = take_fd(fd);
		return 0;
	}
	if (c->n_kept == HERITAGE_KEPT_MAX)
		return -ENOBUFS;
	struct heritage_kept *more = reallocarray(c->kept, c->n_kept + 1, sizeof(*more));
	if (!more)
		return -ENOMEM;
	c->kept = more;
	k = &more[c->n_kept++];
	memset(k, 0, sizeof(*k));
	memcpy(k->name, name, strnlen(name, sizeof(k->name) - 1));
	k->fd = take_fd(fd);
	return 0;
}

void keep_drop(struct child *c, const char *name)
{
	struct heritage_kept *k = keep_find(c, name);
	if (!k)
		return;
	close(k->fd);
	*k = c->kept[--c->n_kept];
}
