/*
 * What the guard writes into the audit log. An entry is on its way to the disc before what it tells
 * of takes effect; when the log cannot be written, decisions that would allow fail closed, while
 * open channels flow on.
 */
#pragma once

#include "guard/guard.h"

int auditing_init(struct guard *g, struct error *e) _must_check_;
void auditing_deinit(struct guard *g);
/* The signer answers: entries since the last checkpoint are signed for now and then by a timer. */
void auditing_signer_up(struct guard *g);

/* Seals what is logged so far, then control_sealed(client); at once when that cannot be done now.
 */
void auditing_seal(struct guard *g, uint64_t client);

struct audit_record;
/* One entry, now. Negative: it could not be written, and what it tells of must not happen. */
int auditing_write(struct guard *g, const struct audit_record *r) _must_check_;
/* Refusals that are alike are counted (repeats.h); `alike` says which are. */
int auditing_decision(struct guard *g, const struct endpoint_question *q, const struct verdict *v,
	uint64_t alike) _must_check_;
int auditing_policy(struct guard *g, uint32_t uid, const char *detail, const uint8_t sha256[32],
	uint64_t rules) _must_check_;
int auditing_channel_start(struct guard *g, const struct channel *c) _must_check_;
void auditing_channel_end(struct guard *g, const struct channel *c, const char *reason);
/* what: "start", "end", "surprise"; how: text for people. */
void auditing_component(
	struct guard *g, enum role role, uint32_t pid, const char *what, const char *how);
/* An administrative act: "policy-load", "enroll", "unenroll", "revoke", "node", "run", … by uid. */
int auditing_admin(struct guard *g, uint32_t uid, const char *what, const char *detail,
	int error) _must_check_;
/* For status: bytes (entries) so far and the log's directory. */
int auditing_tree(struct guard *g, bool start, uint64_t tree, uint32_t pid, uint32_t uid,
	const char *as) _must_check_;
uint64_t auditing_size(struct guard *g);
const char *auditing_key(struct guard *g);
bool auditing_broken(struct guard *g); /* the last entry could not be written */
