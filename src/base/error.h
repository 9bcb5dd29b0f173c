/*
 * Errors meant for people: a code for the program and one line for the person. Functions that can
 * fail for reasons a person must understand take a `struct error *` last and fill it exactly once,
 * where the failure is first seen; callers pass it on unchanged. Everything else returns -errno.
 */
#pragma once

#include "base/cleanup.h"

#define ERROR_TEXT_MAX 512

struct error {
	int code; /* negative errno, or 0 */
	char text[ERROR_TEXT_MAX];
};

#define ERROR_INIT \
	{          \
		0  \
	}

/* Sets `e` (may be NULL) and returns `code`, which must be negative. */
int error_set(struct error *e, int code, const char *fmt, ...) _printf_(3, 4);
/* Same, appending ": strerror(-code)". */
int error_errno(struct error *e, int code, const char *fmt, ...) _printf_(3, 4);
