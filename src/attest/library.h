/*
 * Installed libraries that have been looked at: files that were found in a library directory, by
 * the device and inode they are mapped as. Each is held, so that the numbers stay its own, and so
 * that a program goes on when its libraries are replaced by newer ones. What a file may have become
 * since (writable, another's) is asked each time.
 */
#pragma once

#include <stdbool.h>

#include "attest/parse.h"

#define LIBRARIES_MAX 512

struct libraries;
int libraries_new(struct libraries **ret) _must_check_;
/* It was noted, and still nobody governed can write it. */
bool library_known(struct libraries *l, const struct mapping *m);
/* fd (O_PATH): the file as it stands in its library directory. Takes it. */
void library_note(struct libraries *l, const struct mapping *m, int fd);
