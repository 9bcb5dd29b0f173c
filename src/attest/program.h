/* What kind of program a file is: interpreter, ELF, script; and by which script a fresh image was
 * started. */
#pragma once

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
 * it must not be able to change. Return: descriptor (O_PATH) and path; -ENOENT: not started by such
 * a script.
 */
int script_find(int proc, uint32_t pid, const struct stat *exe_st, char *ret_path,
	size_t size) _must_check_;
