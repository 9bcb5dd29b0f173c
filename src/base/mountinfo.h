/* The lines of /proc/PID/mountinfo. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

#define MOUNTINFO_MAX (4u << 20)

struct mount_line {
	int id;
	unsigned major, minor; /* of its device; 0:0 when it cannot be read */
	char *point;           /* the kernel's escapes undone */
	const char *type;
};

/*
 * Takes the line at *text apart, in place, and moves *text behind it. 1: *ret is filled and points
 * into the text; 0: the end; -EINVAL: not such a line.
 */
int mountinfo_next(char **text, struct mount_line *ret) _must_check_;
