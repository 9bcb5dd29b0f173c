/*
 * What a component inherits, text to struct and back (heritage.h). The text comes from belayd,
 * which is trusted; it is parsed as if it were not, because whoever starts the binary by hand
 * chooses it. No input makes the parser read beyond the NUL or allocate more than HERITAGE_KEPT_MAX
 * entries.
 */
#include "ipc/heritage.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "base/hex.h"

#define DIR_PLAIN "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._+-"

/* Where the parser is; `bad` names the first field that was not as it must be. */
struct cursor {
	const char *p;
	const char *bad;
	int last_fd;
};

bool heritage_has_state(enum role role)
{
	return role == ROLE_GUARD || role == ROLE_SIGNER;
}

bool heritage_has_memory(enum role role)
{
	return role == ROLE_GUARD || role == ROLE_ENFORCE;
}

bool heritage_name_valid(const char *name)
{
	size_t n = strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-");
	return n > 0 && n < HERITAGE_NAME_MAX && !name[n];
}

/* Consumes `key` when it stands next. */
static bool skip(struct cursor *c, const char *key)
{
	size_t n = strlen(key);
	if (c->bad || strncmp(c->p, key, n))
		return false;
	c->p += n;
	return true;
}

static uint32_t number(struct cursor *c, uint32_t max, const char *what)
{
	uint64_t v = 0;
	const char *start = c->p;
	for (; *c->p >= '0' && *c->p <= '9' && v <= max; c->p++)
		v = v * 10 + (uint64_t)(*c->p - '0');
	if (c->p == start || v > max || (*start == '0' && c->p != start + 1))
		c->bad = c->bad ? c->bad : what;
	return c->bad ? 0 : (uint32_t)v;
}

static void expect(struct cursor *c, const char *key)
{
	if (!skip(c, key) && !c->bad)
		c->bad = key;
}

static int descriptor(struct cursor *c, const char *key)
{
	expect(c, key);
	int fd = (int)number(c, HERITAGE_FD_MAX, key);
	if (fd <= c->last_fd && !c->bad)
		c->bad = key;
	c->last_fd = fd;
	return c->bad ? -1 : fd;
}

/* The bytes up to the next space or the end, or "=", copied; too long is bad. */
static void word(struct cursor *c, const char *stop, char *ret, size_t size, const char *what)
{
	size_t n = strcspn(c->p, stop);
	if (c->bad || n >= size) {
		c->bad = c->bad ? c->bad : what;
		return;
	}
	memcpy(ret, c->p, n);
	ret[n] = '\0';
	c->p += n;
}

static void path(struct cursor *c, char ret[HERITAGE_DIR_MAX])
{
	size_t n = 0;
	while (!c->bad && *c->p && *c->p != ' ') {
		uint8_t byte = (uint8_t)*c->p++;
		if (byte == '%') {
			char two[3] = {c->p[0], c->p[0] ? c->p[1] : '\0', '\0'};
			if (hex_decode(two, &byte, 1) < 0 || !byte || strchr(DIR_PLAIN, byte)) {
				c->bad = "dir=";
				return;
			}
			c->p += 2;
		} else if (!strchr(DIR_PLAIN, byte)) {
			c->bad = "dir=";
		}
		if (n + 1 >= HERITAGE_DIR_MAX)
			c->bad = "dir=";
		else
			ret[n++] = (char)byte;
	}
	if (ret[0] != '/')
		c->bad = c->bad ? c->bad : "dir=";
}

static void resolvers(struct cursor *c, struct heritage *h)
{
	while (skip(c, " resolver=")) {
		char text[ADDR_TEXT_MAX] = "", again[ADDR_TEXT_MAX];
		struct addr a;
		word(c, " ", text, sizeof(text), "resolver=");
		/* One spelling only, so that what is read is what was written. */
		bool good = addr_parse(text, &a) == 0 && a.port;
		if (good)
			addr_format(&a, true, again);
		if (!good || strcmp(text, again) != 0 || h->n_resolvers == HERITAGE_RESOLVERS_MAX) {
			c->bad = c->bad ? c->bad : "resolver=";
			return;
		}
		h->resolvers[h->n_resolvers++] = a;
	}
}

static int kept(struct cursor *c, struct heritage *h)
{
	size_t room = 0;
	while (!c->bad && *c->p) {
		if (h->n_kept == HERITAGE_KEPT_MAX) {
			c->bad = "kept: (too many)";
			break;
		}
		if (h->n_kept == room) {
			room = room ? room * 2 : 8;
			void *more = reallocarray(h->kept, room, sizeof(*h->kept));
			if (!more)
				return -ENOMEM;
			h->kept = more;
		}
		struct heritage_kept *k = &h->kept[h->n_kept];
		memset(k, 0, sizeof(*k));
		expect(c, " kept:");
		word(c, "= ", k->name, sizeof(k->name), "kept:");
		if (!c->bad && !heritage_name_valid(k->name))
			c->bad = "kept:";
		k->fd = descriptor(c, "=");
		h->n_kept++;
	}
	return 0;
}

static int parse_all(struct cursor *c, struct heritage *h)
{
	char name[16] = "";
	expect(c, "role=");
	word(c, " ", name, sizeof(name), "role=");
	h->role = role_parse(name);
	if (h->role == ROLE_NONE)
		c->bad = "role=";
	expect(c, " host=");
	h->host = number(c, 1, "host=");
	expect(c, " gen=");
	h->generation = number(c, UINT32_MAX, "gen=");
	expect(c, " owner=");
	h->owner_uid = number(c, UINT32_MAX - 1, "owner=");
	h->dispatcher = descriptor(c, " dispatcher=");
	h->belayd = descriptor(c, " belayd=");
	if (heritage_has_state(h->role))
		h->state_dir = descriptor(c, " state=");
	if (heritage_has_memory(h->role))
		h->memory = descriptor(c, " memory=");
	if (h->role == ROLE_GUARD)
		resolvers(c, h);
	expect(c, " dir=");
	path(c, h->dir);
	return kept(c, h);
}

int heritage_parse(const char *text, struct heritage *ret, struct error *e)
{
	struct cursor c = {.p = text, .last_fd = 2};
	memset(ret, 0, sizeof(*ret));
	ret->dispatcher = ret->belayd = ret->state_dir = ret->memory = -1;
	int r = strnlen(text, HERITAGE_TEXT_MAX) < HERITAGE_TEXT_MAX ? parse_all(&c, ret) : -E2BIG;
	if (!r && c.bad)
		r = -EINVAL;
	if (!r)
		return 0;
	heritage_clear(ret);
	return error_set(e, r,
		"the heritage is not as belayd writes it%s%s (components are started by belayd "
		"only)",
		c.bad ? ", at" : "", c.bad ? c.bad : "");
}

static void format_path(FILE *f, const char *dir)
{
	for (; *dir; dir++)
		if (strchr(DIR_PLAIN, *dir))
			fputc(*dir, f);
		else
			fprintf(f, "%%%02x", (unsigned)(uint8_t)*dir);
}

int heritage_format(const struct heritage *h, char **ret)
{
	char *text = NULL;
	size_t len = 0;
	FILE *f = open_memstream(&text, &len);
	if (!f)
		return -ENOMEM;
	fprintf(f, "role=%s host=%d gen=%u owner=%u dispatcher=%d belayd=%d", role_name(h->role),
		h->host, h->generation, h->owner_uid, h->dispatcher, h->belayd);
	if (h->state_dir >= 0)
		fprintf(f, " state=%d", h->state_dir);
	if (h->memory >= 0)
		fprintf(f, " memory=%d", h->memory);
	for (size_t i = 0; i < h->n_resolvers; i++) {
		char at[ADDR_TEXT_MAX];
		addr_format(&h->resolvers[i], true, at);
		fprintf(f, " resolver=%s", at);
	}
	fputs(" dir=", f);
	format_path(f, h->dir);
	for (size_t i = 0; i < h->n_kept; i++)
		fprintf(f, " kept:%s=%d", h->kept[i].name, h->kept[i].fd);
	if (fclose(f)) {
		free(text);
		return -ENOMEM;
	}
	struct heritage check;
	int r = heritage_parse(text, &check, NULL); /* belayd must not write what nobody can read */
	if (r < 0) {
		free(text);
		return r;
	}
	heritage_clear(&check);
	*ret = text;
	return 0;
}

void heritage_clear(struct heritage *h)
{
	free(h->kept);
	h->kept = NULL;
	h->n_kept = 0;
}
