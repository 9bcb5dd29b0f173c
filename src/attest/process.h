/*
 * Reading the kernel's facts about a process. The proc directory opened first pins the process;
 * that it still is the one the pidfd means, alive, running the same image, is checked after
 * everything has been read.
 */
#pragma once

#include <sys/stat.h>

#include "attest/ancestor.h"
#include "attest/maps.h"
#include "attest/memory.h"
#include "attest/parse.h"
#include "base/error.h"
#include "identity/evidence.h"

#define REQUEST_FILES_MAX (MAPS_FOREIGN_MAX + 2)

/* A file whose hash the evidence still lacks. */
struct wanted {
	int fd; /* O_PATH */
	bool settled;
	bool required; /* no evidence without it; else the digest stays none */
	struct digest *to;
};

struct reading {
	int proc, pidfd;
	uint32_t ppid;
	struct stat exe_st;
	struct memory_key key;
	bool at_exec, inherited;
	bool continued; /* its script is the one of the exec before, which was `env` */
	struct digest script_before;
	struct evidence evidence;
	struct wanted wanted[REQUEST_FILES_MAX];
	size_t n_wanted;
};

int process_stat(int proc, struct proc_stat *ret) _must_check_;
int process_status(int proc, struct proc_status *ret) _must_check_;

void reading_init(struct reading *r);
void reading_close(struct reading *r);
/*
 * Which process that is and whose: nothing here waits for the process or its files. pidfd stays the
 * caller's until reading_close(). why: for the guard's log.
 */
int reading_open(
	struct reading *r, uint32_t pid, int pidfd, bool at_exec, struct error *why) _must_check_;
/* What is kept from one reading to the next. */
struct known {
	struct libraries *libraries;
	struct ancestors *ancestors;
};
/* Everything but hashes. May wait as long as a file system of the process likes. */
int reading_take(struct reading *r, struct memory *memory, const struct known *known,
	struct error *why) _must_check_;
/* After the hashes are in: is it still that process and that image? Remembers the start when
 * at_exec. */
int reading_finish(struct reading *r, struct memory *memory, struct error *why) _must_check_;
