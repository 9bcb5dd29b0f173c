/* Reads cases: the keys of one, and what each becomes. */
#include "policy/cases.h"

#include <errno.h>
#include <pwd.h>
#include <string.h>
#include <time.h>

#include "policy/compile-source.h"

enum case_key {
	CASE_NAME,
	CASE_OP,
	CASE_FROM,
	CASE_TO,
	CASE_ADDRESS,
	CASE_USER,
	CASE_GROUP,
	CASE_UNIT,
	CASE_AT,
	CASE_PLAIN,
	CASE_UDP,
	CASE_EXPECT,
	CASE_RULE,
	CASE_ENCRYPT,
	CASE_PERMISSIVE,
	_CASE_N
};
static const char *const case_keys[_CASE_N] = {"name", "op", "from", "to", "address", "user",
	"group", "unit", "at", "plain", "udp", "expect", "rule", "encrypt", "permissive"};

/* The reader's callbacks know the compiler; it is the first member of what they need. */
struct reading {
	struct compiler c;
	struct policy_cases *cases;
	unsigned seen;
};

int policy_time_read(const char *text, int64_t *ret)
{
	struct tm tm = {0};
	const char *end = strptime(text, "%Y-%m-%dT%H:%M", &tm);
	if (end && *end == ':')
		end = strptime(end, ":%S", &tm);
	if (!end || *end)
		return -EINVAL;
	*ret = timegm(&tm);
	return 0;
}

static bool read_text(struct compiler *c, const struct yaml_node *v, const char **ret)
{
	if (!value_scalar(c, v, "this"))
		return false;
	char *copy = strdup(v->text);
	c->no_memory |= !copy;
	*ret = copy;
	return copy != NULL;
}

static bool read_user(struct compiler *c, const struct yaml_node *v, struct policy_ask *ask)
{
	uint64_t uid;
	const char *s = v->text;
	int (*uid_of)(const char *, uint32_t *) = c->options.uid_of;
	const struct passwd *pw = NULL;
	if (!read_text(c, v, &ask->user))
		return false;
	if (value_digits(&s, UINT32_MAX - 1, &uid) && !*s) {
		ask->uid = (uint32_t)uid;
		return true;
	}
	if (uid_of)
		return uid_of(v->text, &ask->uid) == 0;
	pw = getpwnam(v->text);
	ask->uid = pw ? pw->pw_uid : UINT32_MAX;
	return true;
}

static bool read_where(
	struct compiler *c, enum case_key key, const struct yaml_node *v, struct policy_case *x)
{
	static const char *const expected[] = {"deny", "allow"};
	int i = 0;
	switch (key) {
	case CASE_AT:
		x->has_time = true;
		if (v->kind == YAML_SCALAR && policy_time_read(v->text, &x->local_s) == 0)
			return true;
		complain(c, &v->place, "such as 2026-12-24T18:00", "expected a time");
		return false;
	case CASE_PLAIN:
		return value_bool(c, v, &x->ask.plain);
	case CASE_UDP:
		return value_bool(c, v, &x->ask.udp);
	case CASE_ENCRYPT:
		return value_bool(c, v, &x->encrypt);
	case CASE_PERMISSIVE:
		return value_bool(c, v, &x->permissive);
	case CASE_EXPECT:
		if (!value_word(c, v, expected, 2, &i))
			return false;
		x->allow = i;
		return true;
	default:
		return false;
	}
}

static bool read_key(
	struct compiler *c, enum case_key key, const struct yaml_node *v, struct policy_case *x)
{
	switch (key) {
	case CASE_NAME:
		return read_text(c, v, &x->name);
	case CASE_OP:
		x->ask.op = v->kind == YAML_SCALAR ? policy_op_parse(v->text) : POLICY_OP_NONE;
		if (!x->ask.op)
			complain(c, &v->place, "", "expected an operation");
		return x->ask.op;
	case CASE_FROM:
		return read_text(c, v, &x->ask.from);
	case CASE_TO:
		return read_text(c, v, &x->ask.to);
	case CASE_ADDRESS:
		return read_text(c, v, &x->ask.address);
	case CASE_USER:
		return read_user(c, v, &x->ask);
	case CASE_GROUP:
		return read_text(c, v, &x->ask.group);
	case CASE_UNIT:
		return read_text(c, v, &x->ask.unit);
	case CASE_RULE:
		return read_text(c, v, &x->rule);
	default:
		return read_where(c, key, v, x);
	}
}

static void case_free(struct policy_case *x)
{
	const char *const texts[] = {x->name, x->rule, x->ask.from, x->ask.to, x->ask.address,
		x->ask.user, x->ask.group, x->ask.unit};
	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		free((void *)(uintptr_t)texts[i]);
}

static void read_case(struct compiler *c, const struct yaml_node *item)
{
	struct reading *r = (struct reading *)(void *)c;
	struct policy_case x = {.ask.op = POLICY_OP_CONNECT, .line = item->place.line};
	unsigned seen = 0;
	size_t errors = c->d->n_errors;
	if (item->kind != YAML_MAP) {
		complain(c, &item->place, "such as `- { from: shell, to: cache, expect: allow }`",
			"a case is a map of keys");
		return;
	}
	for (const struct yaml_node *k = item->first; k; k = k->next) {
		int key = key_find(c, k, case_keys, _CASE_N, &seen);
		if (key >= 0)
			(void)read_key(c, (enum case_key)key, k->value, &x);
	}
	if (!(seen & 1u << CASE_EXPECT))
		complain(c, &item->place, "`expect: allow` or `expect: deny`",
			"a case says what is expected");
	if (r->cases->n == POLICY_CASES_MAX)
		complain(c, &item->place, "", "too many cases (at most %u)", POLICY_CASES_MAX);
	if (c->d->n_errors > errors || c->no_memory ||
		!pool_grow((void **)&r->cases->list, &r->cases->room, r->cases->n, sizeof(x))) {
		case_free(&x);
		return;
	}
	r->cases->list[r->cases->n++] = x;
}

static void read_top(struct compiler *c, const struct yaml_node *key, const struct yaml_node *value)
{
	static const char *const keys[] = {"version", "cases"};
	struct reading *r = (struct reading *)(void *)c;
	int k = key_find(c, key, keys, ARRAY_LEN(keys), &r->seen);
	if (k == 0 && (value->kind != YAML_SCALAR || strcmp(value->text, "1")))
		complain(c, &value->place, "`version: 1`", "this Belay reads version 1 of cases");
	if (k == 1 && value)
		complain(c, &value->place, "- from: ...", "cases is a list");
}

int policy_cases_read(const char *text, size_t len, const struct policy_compile_options *options,
	struct policy_diagnostics *d, struct policy_cases *ret)
{
	struct reading r = {.c = {.options = *options, .d = d}, .cases = ret};
	static const struct place top = {1, 1, 1};
	*d = (struct policy_diagnostics){0};
	*ret = (struct policy_cases){0};
	if (len > POLICY_TEXT_MAX || memchr(text, '\0', len)) {
		complain(&r.c, &top, "", "this is no text, or too long");
		return -EINVAL;
	}
	int k = yaml_read(&r.c, text, len, read_top, "cases", read_case);
	if (k == 0 && !(r.seen & 1) && !d->n_errors)
		complain(&r.c, &top, "begin with `version: 1`", "cases do not say their version");
	diagnostics_sort(d);
	if (k < 0 || r.c.no_memory)
		return -ENOMEM;
	return d->n_errors ? -EINVAL : 0;
}

void policy_cases_deinit(struct policy_cases *c)
{
	for (uint32_t i = 0; i < c->n; i++)
		case_free(&c->list[i]);
	free(c->list);
	*c = (struct policy_cases){0};
}
