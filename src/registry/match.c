/*
 * Which enrolled programs a process is (registry.h), and the other questions answered from memory.
 * Input: evidence the kernel gave on this node. Never grants by a name: argv[0] only takes matches
 * away. Pure reads.
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "registry/internal.h"

/*
 * How far the closest candidate came, in the order of the checks: the reason shown is that of the
 * candidate which failed last, since that is the one its user meant.
 */
enum step {
	STEP_DIGEST,
	STEP_SIZE,
	STEP_LIBRARY,
	STEP_INTERPRETER,
	STEP_SCRIPT,
	STEP_NAME,
	STEP_ANONYMOUS,
	STEP_FOREIGN,
	STEP_REVOKED,
	STEP_MANY,
	STEP_DONE,
};

struct closest {
	enum step step;
	struct match *match;
};

static enum step _printf_(3, 4) fail(struct closest *c, enum step step, const char *fmt, ...)
{
	if (c->match->why[0] && step <= c->step)
		return step;
	va_list ap;
	va_start(ap, fmt);
	vsnprintf(c->match->why, sizeof(c->match->why), fmt, ap);
	va_end(ap);
	c->step = step;
	return step;
}

static const struct entry *bucket(const struct registry *r, const struct digest *d)
{
	return r->now->by_digest[snapshot_bucket(r, r->now, d->bytes, DIGEST_LEN)];
}

static bool library_enrolled(const struct registry *r, const struct digest *d)
{
	if (digest_is_none(d))
		return false;
	for (const struct entry *e = bucket(r, d); e; e = e->next)
		if (digest_equal(&e->program.sha256, d) && (e->program.flags & PROGRAM_LIBRARY) &&
			!e->program.revoked)
			return true;
	return false;
}

/* The first mapping that disqualifies, or NULL. */
static const struct foreign *foreign_refused(const struct registry *r, const struct evidence *e)
{
	for (size_t i = 0; i < e->n_foreign; i++)
		if (!library_enrolled(r, &e->foreign[i].sha256))
			return &e->foreign[i];
	return NULL;
}

static bool name_permitted(const struct program *p, const char *name)
{
	for (size_t i = 0; i < p->n_argv0; i++)
		if (strcmp(p->argv0[i], name) == 0)
			return true;
	return p->n_argv0 == 0;
}

static enum step consider_image(
	struct closest *c, const struct program *p, const struct evidence *e)
{
	bool interpreter = (p->flags & PROGRAM_INTERPRETER) ||
			   (e->interpreter && !(p->flags & PROGRAM_NOT_INTERPRETER));
	bool scripted = !digest_is_none(&p->script_sha256);
	if (p->size != e->exe_size)
		return fail(c, STEP_SIZE, "its size is not the enrolled one");
	if (p->flags & PROGRAM_LIBRARY)
		return fail(c, STEP_LIBRARY, "it is enrolled as a library, not as a program");
	if (interpreter && !scripted)
		return fail(c, STEP_INTERPRETER, "an interpreter identifies nothing alone");
	if (scripted && digest_is_none(&e->script_sha256))
		return fail(c, STEP_SCRIPT,
			"'%s' is an interpreter with its script, and this process was not started "
			"by "
			"one (a script counts when started by its '#!' line and writable by nobody "
			"governed)",
			p->name);
	if (scripted && !digest_equal(&p->script_sha256, &e->script_sha256))
		return fail(c, STEP_SCRIPT, "its script is not the one enrolled for '%s'", p->name);
	return STEP_DONE;
}

static enum step consider(struct closest *c, const struct program *p, const struct evidence *e,
	const struct foreign *refused)
{
	enum step s = consider_image(c, p, e);
	if (s != STEP_DONE)
		return s;
	if (!name_permitted(p, e->name))
		return fail(c, STEP_NAME, "its name '%s' is not among those permitted for '%s'",
			e->name, p->name);
	if (e->anonymous_exec && !(p->flags & PROGRAM_JIT))
		return fail(c, STEP_ANONYMOUS,
			"it holds executable memory that no file backs, and '%s' is not enrolled "
			"with "
			"--jit",
			p->name);
	if (refused)
		return fail(c, STEP_FOREIGN,
			"it maps %s, which is neither enrolled nor in a library directory",
			refused->path);
	if (p->revoked) {
		c->match->revoked = true;
		return fail(c, STEP_REVOKED, "'%s' is revoked", p->name);
	}
	return STEP_DONE;
}

void registry_match(const struct registry *r, const struct evidence *e, struct match *ret)
{
	struct closest c = {.match = ret};
	const struct foreign *refused = foreign_refused(r, e);
	memset(ret, 0, sizeof(*ret));
	if (digest_is_none(&e->exe_sha256)) {
		fail(&c, STEP_DIGEST, "its executable could not be read");
		return;
	}
	for (const struct entry *n = bucket(r, &e->exe_sha256); n; n = n->next) {
		const struct program *p = &n->program;
		if (!digest_equal(&p->sha256, &e->exe_sha256))
			continue;
		if (consider(&c, p, e, refused) != STEP_DONE)
			continue;
		/* Chains are in order of name: the same name comes twice only in a row. */
		if (ret->n && strcmp(ret->program[ret->n - 1]->name, p->name) == 0)
			continue;
		if (ret->n == MATCH_PROGRAMS_MAX) {
			/* Leaving some out could leave out the one a rule denies. */
			ret->n = 0;
			ret->why[0] = '\0';
			fail(&c, STEP_MANY, "it matches more than %d enrolled names",
				MATCH_PROGRAMS_MAX);
			return;
		}
		ret->program[ret->n++] = p;
	}
	if (ret->n)
		ret->why[0] = '\0';
	else if (!ret->why[0])
		fail(&c, STEP_DIGEST,
			e->interpreter
				? "no program is enrolled with this SHA-256, and an interpreter "
				  "identifies nothing alone"
				: "no program is enrolled with this SHA-256");
}

size_t registry_programs(const struct registry *r)
{
	return r->now->n_programs;
}

const struct program *registry_program(const struct registry *r, size_t n)
{
	return n < r->now->n_programs ? &r->now->programs[n]->program : NULL;
}

bool registry_knows(const struct registry *r, const char *name)
{
	/* Programs are in order of name. */
	size_t lo = 0, hi = r->now->n_programs;
	while (lo < hi) {
		size_t mid = lo + (hi - lo) / 2;
		int k = strcmp(r->now->programs[mid]->program.name, name);
		if (k == 0)
			return true;
		if (k < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return false;
}

bool registry_knows_group(const struct registry *r, const char *group)
{
	for (size_t i = 0; i < r->now->n_programs; i++)
		if (group[0] && strcmp(r->now->programs[i]->program.group, group) == 0)
			return true;
	return false;
}

const struct node *registry_node(const struct registry *r, size_t n)
{
	return n < r->now->n_nodes ? &r->now->nodes[n] : NULL;
}

const struct node *registry_node_find(const struct registry *r, const char *name)
{
	for (size_t i = 0; i < r->now->n_nodes; i++)
		if (strcmp(r->now->nodes[i].name, name) == 0)
			return &r->now->nodes[i];
	return NULL;
}

bool registry_revoked(
	const struct registry *r, enum revoked_kind kind, const char *subject, uint64_t issued_ms)
{
	const struct revocation *v = snapshot_revocation(r, r->now, kind, subject);
	return v && issued_ms <= v->before_ms;
}

uint64_t registry_generation(const struct registry *r)
{
	return r->generation;
}
