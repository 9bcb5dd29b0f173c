/*
 * The walls of one process, put up once, after it has set up and before it reads the first byte of
 * anybody: limits, capabilities, files (Landlock), system calls (seccomp). They can be made only
 * narrower, never taken down. One profile a role: syscalls.def says which calls and why,
 * profiles.def limits, capabilities and network.
 *
 * Not there: Landlock for attest and enforce, because the kernel lets no process with a Landlock
 * domain read or trace processes outside it; Landlock at all on kernels without it (`belay doctor`
 * tells); seccomp in builds with ASan or TSan, whose run time makes calls of its own.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "base/error.h"
#include "ipc/role.h"

/* Same numbers as the roles: sandbox_enter(SANDBOX_GUARD, ...). */
enum sandbox_profile {
#define ROLE(id, name, number) SANDBOX_##id = number,
#include "ipc/role.def"
#undef ROLE
};

/* A directory or file the process may open later, with all beneath it. Everything else stays
 * closed. */
struct sandbox_path {
	const char *path; /* skipped if it does not exist; NULL: fd */
	int fd;
	bool write; /* also make, write and remove files and directories */
};

struct sandbox_args {
	const struct sandbox_path *paths;
	size_t n_paths;
};

/*
 * args may be NULL: no files. Needs NO_NEW_PRIVS, which component_open() has set; binds all threads
 * of the process. A call the profile does not list kills the process (SIGSYS); with
 * BELAY_SANDBOX_DEBUG=1 in the environment it says first on standard error which call that was.
 */
int sandbox_enter(
	enum sandbox_profile p, const struct sandbox_args *args, struct error *e) _must_check_;

/* The parts, for tests. */
int sandbox_seccomp(enum sandbox_profile p, struct error *e) _must_check_;
int sandbox_landlock(
	enum sandbox_profile p, const struct sandbox_args *args, struct error *e) _must_check_;
/* Numbers of the profile's allowed calls: up to max into ret. Return: how many there are. */
size_t sandbox_allowed(enum sandbox_profile p, int *ret, size_t max);
