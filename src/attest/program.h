/* What kind of program a file is: interpreter, ELF, script; and by which script a fresh image was
 * started. */
#pragma once

#include <limits.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/stat.h>

#include "base/cleanup.h"

/* By its name (interpreters.def) or because it is the system's program loader. */
bool program_is_interpreter(const char *path, const struct stat *st);
struct program_facts {
	bool elf, script;
};
int program_look(int fd, struct program_facts *ret) _must_check_;

/*
 * For a process stopped before its image's first instruction: the script whose "#!" line started
 * it, if nobody governed can write that file, any directory on the way, or the interpreter's name
 * in it can mean another file than exe_st. The interpreter will open the path by name only later:
 * it must not be able to change. -ENOENT: not started by such a script.
 */
struct script {
	int fd; /* O_PATH */
	char path[PATH_MAX];
	/* What runs is `env`, which looks for the interpreter and executes it with the script. */
	bool starting;
};
int script_find(int proc, uint32_t pid, const struct stat *exe_st, struct script *ret) _must_check_;
/*
 * The same for what such an `env` executed: the script at `path`, if what the new image was given
 * is what `env` gives for its "#!" line. arguments: where the kernel put them.
 */
int script_continued(int proc, uint32_t pid, uint64_t arguments, const char *path,
	struct script *ret) _must_check_;
