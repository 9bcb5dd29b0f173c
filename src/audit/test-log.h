/* What tests of the log share: a directory, a key, logs with known entries in it. */
#pragma once

#include "audit/audit.h"
#include "audit/verify.h"
#include "base/secret.h"

extern char top[64]; /* the test's directory */
extern struct secret seed;
extern struct audit_key key;

int dir_new(char path[96], const char *name);
int group_setup(void **state);
int group_teardown(void **state);
struct audit_log *log_open(int dir);
int log_add(struct audit_log *log, unsigned n);
int note_sign(uint64_t size, const uint8_t root[32], char note[AUDIT_NOTE_MAX]);
int log_seal(struct audit_log *log);
void log_make(int dir, unsigned from, unsigned to, bool seal);
int check(int dir, struct audit_report *rep, struct error *e);
void good(int dir, uint64_t entries, uint64_t sealed);
