/*
 * What attest remembers of each image's start: the name and script it was executed with. Later the
 * process can rewrite its argv (servers show their state there) and its stack says nothing any
 * more.
 *
 * The table lives in a memfd that belayd keeps, so that a restarted attest still knows the images
 * its predecessor saw. An entry belongs to a process (pid, start time) and an image (executable's
 * inode, the addresses the kernel chose for it). A fork without exec shares the image: it inherits,
 * also after its parent is gone. If two starts with different facts could be meant, nothing is
 * known.
 */
#pragma once

#include <stdbool.h>
#include <stdint.h>

#include "attest/parse.h"
#include "identity/evidence.h"

#define MEMORY_SLOTS 16384
#define MEMORY_PROBES 32
/* Different ones. A start takes 124 bytes, a script 544: 2.5 MiB at most. */
#define MEMORY_SCRIPTS 1024
#define MEMORY_PATHLESS 256 /* of them */

struct memory_key {
	uint32_t pid;
	uint32_t used; /* 0: free */
	uint64_t start_time;
	uint64_t exe_dev, exe_ino;
	struct image_key image;
};

struct memory_facts {
	char name[64];
	char script_path[512];
	struct digest script_sha256;
	uint8_t interpreter; /* as found when it started */
	uint8_t starting;    /* `env` between a script and its interpreter */
};

struct memory;
/* Maps fd (a memfd of an earlier attest) or, if it is negative, makes one; *ret_fd is the memory's.
 */
int memory_open(int fd, struct memory **ret, int *ret_fd) _must_check_;
void memory_close(struct memory *m);
/* Says whether the process of that pid and start time still runs. */
typedef bool (*memory_alive_fn)(uint32_t pid, uint64_t start_time);
/* Enters or replaces. -ENOSPC: the neighbourhood is full of living processes. */
int memory_put(struct memory *m, const struct memory_key *key, const struct memory_facts *facts,
	memory_alive_fn alive) _must_check_;
/* What the process started last, whatever image that was. */
bool memory_last(struct memory *m, uint32_t pid, uint64_t start_time, struct memory_facts *ret);
/* The process's own entry for this image, or that of the start it was forked from; else false. */
bool memory_get(struct memory *m, const struct memory_key *key, struct memory_facts *ret);
