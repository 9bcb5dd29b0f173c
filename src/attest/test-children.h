/* What tests of attest share: an attest on a loop, questions to it, children in every state. */
#pragma once

#include <sys/types.h>
#include <uv.h>

#include "attest/request.h"
#include "identity/evidence.h"

/* A directory, a copy of a program, another with a changed byte, a foreign library. */
extern char dir[64], copy[128], other[128], library[128];
extern uv_loop_t loop;
extern struct attest *attest;
extern int memory_fd;

struct asked {
	bool done;
	int error;
	char why[256];
	struct evidence e;
	struct digest file;
	bool file_script, file_interpreter, file_elf;
};

void on_answer(void *ctx, const Belay__FromAttest *m);
struct asked *ask_pidfd(pid_t pid, int pidfd, bool at_exec);
int pidfd_of(pid_t pid);
struct asked *ask(pid_t pid, bool at_exec);
struct asked *ask_file(const char *path);
void digest_of(const char *path, struct digest *ret);
void assert_is_file(const struct digest *d, const char *path);
pid_t child(void);
pid_t start_stopped(const char *path, char *const argv[], const char *preload);
void go(pid_t pid);
void end(pid_t pid);
pid_t start(const char *path, const char *argv0, const char *preload);
void shell(const char *fmt, ...);
void write_file(const char *path, const char *text, mode_t mode);
int setup(void **state);
int teardown(void **state);
