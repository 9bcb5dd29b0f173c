/*
 * The complete list of what a component inherits from belayd besides 0, 1 and 2, as text on its
 * command line:
 *
 *   role=NAME host=0|1 gen=N owner=UID dispatcher=FD belayd=FD [state=FD] [memory=FD] dir=PATH
 * [kept:NAME=FD]...
 *
 * the guard's with resolver=ADDRESS:PORT, up to four, before dir: name servers said on the command
 * line.
 *
 * One space between fields, in exactly this order. Numbers are decimal without leading zeros.
 * Descriptor numbers are at least 3 and strictly increase from left to right, so none is named
 * twice. PATH is absolute; bytes outside [A-Za-z0-9/._+-] are written %XX. `state` is there exactly
 * for the roles that have files, `memory` exactly for those that have a memfd. Nothing in it is
 * secret.
 */
#pragma once

#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/error.h"
#include "ipc/role.h"

#define HERITAGE_KEPT_MAX 8192 /* descriptors a component may have belayd keep */
#define HERITAGE_NAME_MAX 48
#define HERITAGE_DIR_MAX 256
#define HERITAGE_TEXT_MAX (512u * 1024)
#define HERITAGE_ARG_MAX (32u * 1024) /* longer texts go by memfd: `--heritage @FD` */
#define HERITAGE_FD_MAX (1 << 20)
#define HERITAGE_RESOLVERS_MAX 4

struct heritage_kept {
	char name[HERITAGE_NAME_MAX]; /* [a-z0-9-]+ */
	int fd;
};

struct heritage {
	enum role role;
	bool host;           /* host instance, else private */
	uint32_t generation; /* counts starts of this role in this instance */
	int dispatcher;      /* SEQPACKET: ToComponent in, FromComponent out */
	int belayd;          /* SEQPACKET: ToBelayd out (component_keep) */
	int state_dir; /* guard, signer: directory of this role's files (O_PATH not set), else -1 */
	int memory;    /* guard: state table; enforce: journal. A memfd belayd keeps. Else -1 */
	struct addr resolvers[HERITAGE_RESOLVERS_MAX]; /* guard: instead of those of resolv.conf */
	size_t n_resolvers;
	uint32_t owner_uid;         /* who may administer: the private instance's user, or 0 */
	struct heritage_kept *kept; /* given with component_keep() by predecessors of this role */
	size_t n_kept;
	char dir[HERITAGE_DIR_MAX]; /* the instance's directory, for messages only */
};

/* Pure: touches no descriptor. On failure nothing is allocated. Free with heritage_clear(). */
int heritage_parse(const char *text, struct heritage *ret, struct error *e) _must_check_;
/* The text above; the caller frees it. -EINVAL if the heritage breaks the grammar's rules. */
int heritage_format(const struct heritage *h, char **ret) _must_check_;
/* Frees the list; closes nothing. */
void heritage_clear(struct heritage *h);
bool heritage_name_valid(const char *name);
bool heritage_has_state(enum role role);
bool heritage_has_memory(enum role role);
