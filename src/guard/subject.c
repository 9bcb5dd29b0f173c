/*
 * Subjects: evidence together with what the registry says it is. Immutable and shared by reference,
 * so that a channel, a bind and a process that are one program's cost one copy.
 *
 * The principal is a keyed hash of what makes two processes the same to the policy: node, uid,
 * service unit and matched programs; without a match the digests of what runs. Keyed, so that
 * nobody can search for two programs of one principal.
 */
#include <errno.h>
#include <pwd.h>
#include <sodium.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "guard/guard.h"
#include "identity/evidence.h"
#include "registry/registry.h"

#define PASSWD_LINE_MAX 1024

struct subject *subject_ref(struct subject *s)
{
	if (s)
		s->refs++;
	return s;
}

void subject_unref(struct subject *s)
{
	if (!s || --s->refs)
		return;
	subject_unref(s->successor);
	ipc_free(s->evidence);
	free(s);
}

const char *subject_name(const struct subject *s)
{
	if (s->n_programs)
		return s->programs[0];
	if (s->evidence->script_sha256.len && s->evidence->script_path[0]) {
		const char *slash = strrchr(s->evidence->script_path, '/');
		return slash ? slash + 1 : s->evidence->script_path;
	}
	const char *slash = strrchr(s->evidence->exe_path, '/');
	return slash ? slash + 1 : s->evidence->exe_path;
}

/* The user's name from the local file only: a name service could block, and names only show. */
static void user_name(uint32_t uid, char name[USER_MAX_LEN])
{
	snprintf(name, USER_MAX_LEN, "%u", uid);
	FILE *f = fopen("/etc/passwd", "re");
	struct passwd pw, *found;
	char line[PASSWD_LINE_MAX];
	while (f && fgetpwent_r(f, &pw, line, sizeof(line), &found) == 0) {
		if (found->pw_uid != uid || strlen(found->pw_name) >= USER_MAX_LEN)
			continue;
		snprintf(name, USER_MAX_LEN, "%s", found->pw_name);
		break;
	}
	if (f)
		fclose(f);
}

static void hash_text(crypto_generichash_state *h, const char *s)
{
	crypto_generichash_update(h, (const uint8_t *)s, strlen(s) + 1);
}

static uint64_t principal(const struct guard *g, const struct subject *s)
{
	crypto_generichash_state h;
	uint8_t out[crypto_generichash_BYTES_MIN];
	uint64_t r;
	crypto_generichash_init(&h, g->hash_key, sizeof(g->hash_key), sizeof(out));
	hash_text(&h, s->node);
	crypto_generichash_update(&h, (const uint8_t *)&s->evidence->uid, sizeof(uint32_t));
	hash_text(&h, s->evidence->unit);
	crypto_generichash_update(&h, &s->n_programs, 1);
	for (size_t i = 0; i < s->n_programs; i++)
		hash_text(&h, s->programs[i]);
	if (!s->n_programs) {
		const ProtobufCBinaryData *d = &s->evidence->exe_sha256;
		crypto_generichash_update(&h, d->data, d->len);
		d = &s->evidence->script_sha256;
		crypto_generichash_update(&h, d->data, d->len);
	}
	crypto_generichash_final(&h, out, sizeof(out));
	memcpy(&r, out, sizeof(r));
	return r ? r : 1;
}

static struct subject *subject_new(Belay__Evidence *e)
{
	struct subject *s = calloc(1, sizeof(*s));
	if (!s) {
		ipc_free(e);
		return NULL;
	}
	s->refs = 1;
	s->evidence = e;
	return s;
}

static void match_copy(struct subject *s, const struct match *m)
{
	for (size_t i = 0; i < m->n && i < SUBJECT_PROGRAMS_MAX; i++) {
		snprintf(s->programs[s->n_programs++], NAME_MAX_LEN, "%s", m->program[i]->name);
		if (m->program[i]->group[0])
			snprintf(
				s->groups[s->n_groups++], NAME_MAX_LEN, "%s", m->program[i]->group);
	}
	s->revoked = m->revoked;
	snprintf(s->why_not, sizeof(s->why_not), "%.*s", REASON_MAX - 1, m->why);
}

struct subject *subject_local(struct guard *g, Belay__Evidence *e)
{
	struct subject *s = subject_new(e);
	if (!s)
		return NULL;
	struct evidence facts;
	struct match m;
	if (evidence_from_msg(e, &facts) < 0) {
		snprintf(s->why_not, sizeof(s->why_not), "its evidence is malformed");
	} else {
		registry_match(g->registry, &facts, &m);
		match_copy(s, &m);
	}
	user_name(e->uid, s->user);
	s->facts = g->facts;
	s->principal = principal(g, s);
	return s;
}

/* Copies names that are names; one that is not makes the whole list worthless. */
static int names_copy(char ret[][NAME_MAX_LEN], uint8_t *ret_n, char *const *names, size_t n)
{
	if (n > SUBJECT_PROGRAMS_MAX)
		return -E2BIG;
	for (size_t i = 0; i < n; i++) {
		size_t len = strlen(names[i]);
		if (len == 0 || len >= NAME_MAX_LEN ||
			!text_scrub(names[i], len, ret[i], NAME_MAX_LEN))
			return -EBADMSG;
	}
	*ret_n = (uint8_t)n;
	return 0;
}

static struct subject *subject_told(struct guard *g, Belay__Evidence *e, const char *node,
	char *const *programs, size_t n_programs, char *const *groups, size_t n_groups,
	const char *user)
{
	(void)g;
	struct subject *s = subject_new(e);
	if (!s)
		return NULL;
	if (strlen(node) >= NAME_MAX_LEN || strlen(user) >= USER_MAX_LEN ||
		names_copy(s->programs, &s->n_programs, programs, n_programs) < 0 ||
		names_copy(s->groups, &s->n_groups, groups, n_groups) < 0) {
		subject_unref(s);
		return NULL;
	}
	text_scrub(node, strlen(node), s->node, sizeof(s->node));
	text_scrub(user, strlen(user), s->user, sizeof(s->user));
	return s;
}

/* Shorter or as long as it was. */
static void scrub(char *text)
{
	_cleanup_free_ char *copy = strdup(text);
	if (copy)
		text_scrub(copy, strlen(copy), text, strlen(copy) + 1);
	else
		text[0] = '\0';
}

/* What another node says of a program is shown, logged and counted like our own attest's word. */
static bool evidence_told(Belay__Evidence *e)
{
	struct evidence facts;
	if (evidence_from_msg(e, &facts) < 0)
		return false;
	char *texts[] = {e->exe_path, e->name, e->script_path};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (texts[i][0])
			scrub(texts[i]);
	return true;
}

struct subject *subject_remote(struct guard *g, Belay__Evidence *e, const char *node,
	char *const *programs, size_t n_programs, char *const *groups, size_t n_groups,
	const char *user)
{
	if (!evidence_told(e)) {
		ipc_free(e);
		return NULL;
	}
	struct subject *s =
		node[0] ? subject_told(g, e, node, programs, n_programs, groups, n_groups, user)
			: NULL;
	if (s)
		s->principal = principal(g, s);
	return s;
}

struct subject *subject_restored(struct guard *g, Belay__Evidence *e, const char *node,
	char *const *programs, size_t n_programs, char *const *groups, size_t n_groups,
	const char *user, uint64_t p)
{
	struct subject *s = subject_told(g, e, node, programs, n_programs, groups, n_groups, user);
	if (s)
		s->principal = p;
	return s;
}
