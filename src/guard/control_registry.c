/*
 * Requests about programs: enrol, list, remove, revoke. A file is enrolled by its content, which
 * attest hashes from the descriptor the command line opened; its path is for people.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "attest.pb-c.h"
#include "base/hex.h"
#include "guard/auditing.h"
#include "guard/channel.h"
#include "guard/control.h"
#include "guard/judge.h"
#include "guard/pb.h"
#include "identity/evidence.h"
#include "registry/registry.h"

struct enrolling {
	struct guard *guard;
	uint64_t client; /* 0: it left */
	size_t n_known;
	Belay__FileFacts file[2]; /* digests copied below */
	struct digest sha256[2];
};

void enrolling_free(struct enrolling *e)
{
	/* An answer of attest is on its way to it: the answer frees it. */
	if (e)
		e->client = 0;
}

static void enroll_finish(struct client *c, struct enrolling *n)
{
	struct guard *g = c->guard;
	const Belay__EnrollRequest *m = c->request->enroll;
	struct error e = ERROR_INIT;
	bool script = c->n_fds > 1;
	struct enrollment add = {.name = m->name,
		.group = m->group[0] ? m->group : NULL,
		.path = m->path,
		.script_path = script ? m->script_path : NULL,
		.argv0 = (const char *const *)m->argv0,
		.n_argv0 = m->n_argv0,
		.sha256 = n->sha256[0],
		.size = n->file[0].size};
	if (script)
		add.script_sha256 = n->sha256[1];
	bool interpreter = m->interpreter ? m->interpreter > 0 : n->file[0].interpreter;
	add.flags = (m->jit ? PROGRAM_JIT : 0u) | (m->library ? PROGRAM_LIBRARY : 0u) |
		    (interpreter ? PROGRAM_INTERPRETER : 0u) |
		    (m->interpreter < 0 ? PROGRAM_NOT_INTERPRETER : 0u);
	if (interpreter && !script && !m->library) {
		control_error(g, c->id, -EINVAL,
			"%.64s runs what it is told to run: alone it identifies nothing (enroll it "
			"with "
			"--script FILE, or say --not-interpreter)",
			m->name);
		return;
	}
	char detail[REASON_MAX], digest[65];
	hex_encode(add.sha256.bytes, 32, digest);
	snprintf(detail, sizeof(detail), "%.64s sha256 %s", m->name, digest);
	int r = auditing_admin(g, c->uid, "enroll", detail, 0);
	if (r < 0)
		error_errno(&e, r, "cannot log the enrolment");
	else
		r = registry_enroll(g->registry, &add, &e);
	if (r < 0) {
		control_error(g, c->id, r, "%s", e.text);
		return;
	}
	uint64_t id = c->id;
	char text[200];
	snprintf(text, sizeof(text), "enrolled %.64s: sha256 %s, %llu bytes", m->name, digest,
		(unsigned long long)add.size);
	judge_all(g, "the registry changed");
	control_text(g, id, text);
}

static void enroll_ask(struct client *c, struct enrolling *n);

static void enroll_hashed(
	struct guard *g, void *ctx, int error, const void *reply, int *fds, size_t n_fds)
{
	(void)fds, (void)n_fds;
	struct enrolling *n = ctx;
	const Belay__FromAttest *m = reply;
	struct client *c = n->client ? control_client(g, n->client) : NULL;
	if (!c) {
		free(n);
		return;
	}
	if (!error)
		error = m->error;
	if (!error && (!m->file || m->file->sha256.len != DIGEST_LEN))
		error = -EPROTO;
	if (error) {
		c->enrolling = NULL;
		control_error(g, n->client, error, "cannot read the file: %s",
			m && m->why[0] ? m->why : strerror(-error));
		free(n);
		return;
	}
	n->file[n->n_known] = *m->file;
	memcpy(n->sha256[n->n_known].bytes, m->file->sha256.data, DIGEST_LEN);
	if (++n->n_known < c->n_fds) {
		enroll_ask(c, n);
		return;
	}
	c->enrolling = NULL;
	enroll_finish(c, n);
	free(n);
}

static void enroll_ask(struct client *c, struct enrolling *n)
{
	Belay__AttestFile body = BELAY__ATTEST_FILE__INIT;
	Belay__ToAttest m = BELAY__TO_ATTEST__INIT;
	m.body_case = BELAY__TO_ATTEST__BODY_FILE;
	m.file = &body;
	int r = arrow_call(c->guard, ROLE_ATTEST, &m.base, &c->fds[n->n_known], 1, CALL_RESEND,
		enroll_hashed, n, NULL);
	if (r == 0)
		return;
	c->enrolling = NULL;
	control_error(c->guard, c->id, r, "attest is not there: %s (try again)", strerror(-r));
	free(n);
}

void control_enroll(struct client *c, const Belay__EnrollRequest *m)
{
	if (m->n_argv0 > REGISTRY_ARGV0_MAX || !m->name[0]) {
		control_error(c->guard, c->id, -EINVAL,
			"a program needs a name and at most %d permitted names of argv[0]",
			REGISTRY_ARGV0_MAX);
		return;
	}
	struct enrolling *n = calloc(1, sizeof(*n));
	if (!n) {
		control_error(c->guard, c->id, -ENOMEM, "out of memory");
		return;
	}
	n->guard = c->guard;
	n->client = c->id;
	c->enrolling = n;
	enroll_ask(c, n);
}

#define PROGRAMS_PER_REPLY 64

static void program_row(const struct program *p, Belay__ProgramRow *row, char **argv0)
{
	*row = (Belay__ProgramRow)BELAY__PROGRAM_ROW__INIT;
	row->name = pb_text(p->name);
	row->sha256 = pb_bytes(p->sha256.bytes, DIGEST_LEN);
	row->size = p->size;
	row->path = pb_text(p->path ? p->path : "");
	for (size_t i = 0; i < p->n_argv0 && i < REGISTRY_ARGV0_MAX; i++)
		argv0[row->n_argv0++] = pb_text(p->argv0[i]);
	row->argv0 = argv0;
	row->group = pb_text(p->group);
	row->revoked = p->revoked;
	row->interpreter = p->flags & PROGRAM_INTERPRETER;
	if (!digest_is_none(&p->script_sha256))
		row->script_sha256 = pb_bytes(p->script_sha256.bytes, DIGEST_LEN);
	row->jit = p->flags & PROGRAM_JIT;
	row->library = p->flags & PROGRAM_LIBRARY;
	row->enrolled_ms = p->enrolled_ms;
	row->script_path = pb_text(p->script_path ? p->script_path : "");
}

void control_programs(struct client *c)
{
	struct guard *g = c->guard;
	uint64_t id = c->id;
	size_t total = registry_programs(g->registry), at = 0;
	do {
		Belay__ProgramRow row[PROGRAMS_PER_REPLY], *rows[PROGRAMS_PER_REPLY];
		char *argv0[PROGRAMS_PER_REPLY][REGISTRY_ARGV0_MAX];
		Belay__ControlReply m = BELAY__CONTROL_REPLY__INIT;
		for (; at < total && m.n_programs < PROGRAMS_PER_REPLY; at++) {
			size_t k = m.n_programs++;
			program_row(registry_program(g->registry, at), &row[k], argv0[k]);
			rows[k] = &row[k];
		}
		m.programs = rows;
		m.more = at < total;
		control_reply(g, id, &m);
	} while (at < total && control_client(g, id));
}

void control_unenroll(struct client *c, const Belay__UnenrollRequest *m)
{
	struct guard *g = c->guard;
	struct error e = ERROR_INIT;
	char text[NAME_MAX_LEN + 32];
	uint64_t id = c->id;
	int r = auditing_admin(g, c->uid, "unenroll", m->name, 0);
	if (r < 0)
		error_errno(&e, r, "cannot log the removal");
	else
		r = registry_unenroll(g->registry, m->name, NULL, &e);
	if (r < 0) {
		control_error(g, id, r, "%s",
			e.text[0] ? e.text : "no program is enrolled under that name");
		return;
	}
	snprintf(text, sizeof(text), "removed %.*s", NAME_MAX_LEN - 1, m->name);
	judge_all(g, "its program was removed");
	control_text(g, id, text);
}

static void revoke_channel(struct client *c, const ProtobufCBinaryData *prefix)
{
	struct guard *g = c->guard;
	struct channel *found = NULL, *ch;
	for (ch = channel_first(g); ch; ch = channel_next(ch)) {
		if (memcmp(ch->id, prefix->data, prefix->len) != 0)
			continue;
		if (found) {
			control_error(g, c->id, -EINVAL, "more than one channel begins like this");
			return;
		}
		found = ch;
	}
	if (!found) {
		control_error(g, c->id, -ENOENT, "there is no such channel (try belay channels)");
		return;
	}
	char hex[2 * CHANNEL_ID_LEN + 1];
	hex_encode(found->id, CHANNEL_ID_LEN, hex);
	int r = auditing_admin(g, c->uid, "revoke", hex, 0);
	channel_end(g, found, "revoked");
	if (r < 0)
		control_error(g, c->id, r, "ended, but not logged: %s", strerror(-r));
	else
		control_text(g, c->id, "the channel has ended");
}

void control_revoke(struct client *c, const Belay__RevokeRequest *m)
{
	struct guard *g = c->guard;
	struct error e = ERROR_INIT;
	uint64_t id = c->id;
	if (m->channel.len) {
		if (m->channel.len > CHANNEL_ID_LEN || m->undo)
			control_error(g, id, -EINVAL, "a channel that has ended stays ended");
		else
			revoke_channel(c, &m->channel);
		return;
	}
	int r = 0;
	if (!registry_knows(g->registry, m->program))
		r = error_set(&e, -ENOENT, "no program is enrolled as '%.64s'", m->program);
	else if ((r = auditing_admin(g, c->uid, "revoke", m->program, 0)) < 0)
		error_errno(&e, r, "cannot log the revocation");
	else if (m->undo)
		r = registry_unrevoke(g->registry, REVOKED_PROGRAM, m->program, &e);
	else
		r = registry_revoke(g->registry, REVOKED_PROGRAM, m->program, "", &e);
	if (r < 0) {
		control_error(g, id, r, "%s", e.text);
		return;
	}
	judge_all(g, "revoked");
	control_text(g, id, m->undo ? "valid again" : "revoked; its channels have ended");
}
