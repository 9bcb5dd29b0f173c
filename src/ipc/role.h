/* The processes of an instance and who may talk to whom, as role.def lists them. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

enum role {
	ROLE_NONE,
#define ROLE(id, name, number) ROLE_##id = number,
#include "ipc/role.def"
#undef ROLE
	_ROLE_N
};

/* "guard"; "none" for what is no role. */
const char *role_name(enum role role);
/* "belay-guard": the executable and its name in the log. */
const char *role_process(enum role role);
/* ROLE_NONE if there is no such role. */
enum role role_parse(const char *name);
/* ROLE_NONE unless n, a number from a message, is a role. */
enum role role_from_number(unsigned n);
/* True when role.def has an arrow between the two, in either direction. */
bool role_arrow(enum role a, enum role b);
/* The path of that role's executable; -ENOENT if there is none. */
int role_binary(enum role role, char *ret, size_t size);
