/* Names and arrows of the roles (role.h): three tables made of role.def, nothing else. */
#include "ipc/role.h"

#include <string.h>

#include "base/cleanup.h"

static const struct {
	const char *name, *process;
} roles[_ROLE_N] = {
	[ROLE_NONE] = {"none", "belay"},
#define ROLE(id, name, number) [ROLE_##id] = {name, "belay-" name},
#include "ipc/role.def"
#undef ROLE
};

static const struct {
	enum role from, to;
} arrows[] = {
#define ARROW(from, to) {ROLE_##from, ROLE_##to},
#include "ipc/role.def"
#undef ARROW
};

const char *role_name(enum role role)
{
	return role_from_number((unsigned)role) ? roles[role].name : roles[ROLE_NONE].name;
}

const char *role_process(enum role role)
{
	return role_from_number((unsigned)role) ? roles[role].process : roles[ROLE_NONE].process;
}

enum role role_parse(const char *name)
{
	for (int r = ROLE_NONE + 1; r < _ROLE_N; r++)
		if (roles[r].name && !strcmp(roles[r].name, name))
			return (enum role)r;
	return ROLE_NONE;
}

enum role role_from_number(unsigned n)
{
	return n > ROLE_NONE && n < _ROLE_N && roles[n].name ? (enum role)n : ROLE_NONE;
}

bool role_arrow(enum role a, enum role b)
{
	for (size_t i = 0; i < ARRAY_LEN(arrows); i++)
		if ((arrows[i].from == a && arrows[i].to == b) ||
			(arrows[i].from == b && arrows[i].to == a))
			return true;
	return false;
}
