/* The system call filter of a bound program: filter.def as a BPF program, and how it is loaded. */
#pragma once

#include <linux/filter.h>
#include <stddef.h>

#include "base/cleanup.h"

#define FILTER_LEN_MAX 1024

/* Pure. Return: number of instructions written, or -E2BIG. */
int filter_build(struct sock_filter *out, size_t max) _must_check_;
/*
 * Gives this thread, and all it starts, the filter. Needs no new privileges to be set before.
 * Return: the notify descriptor (close-on-exec), or -errno; -EBUSY: a filter with a notify
 * descriptor is there already.
 */
int filter_load(void) _must_check_;
