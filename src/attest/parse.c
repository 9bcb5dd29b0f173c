/* Parsers of the kernel's texts about a process (parse.h). No allocation, one pass each. */
#include "attest/parse.h"

#include <elf.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* A number in the given base at *p before end; moves *p behind it. */
static int number(const char **p, const char *end, unsigned base, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;
	const char *s = *p;
	for (; s < end; s++) {
		unsigned c = (unsigned char)*s, d;
		if (c >= '0' && c <= '9')
			d = c - '0';
		else if (c >= 'a' && c <= 'f')
			d = c - 'a' + 10;
		else
			break;
		if (d >= base)
			break;
		if (__builtin_mul_overflow(v, base, &v) || __builtin_add_overflow(v, d, &v) ||
			v > max)
			return -EBADMSG;
	}
	if (s == *p)
		return -EBADMSG;
	*p = s;
	*ret = v;
	return 0;
}

static void blanks(const char **p, const char *end)
{
	while (*p < end && (**p == ' ' || **p == '\t'))
		++*p;
}

static bool literal(const char **p, const char *end, char c)
{
	if (*p == end || **p != c)
		return false;
	++*p;
	return true;
}

/* ---- stat ---- */

int parse_stat(const char *text, size_t len, struct proc_stat *ret)
{
	const char *end = text + len;
	const char *open = memchr(text, '(', len), *close = memrchr(text, ')', len);
	memset(ret, 0, sizeof(*ret));
	if (!open || !close || close < open)
		return -EBADMSG;
	size_t n = (size_t)(close - open - 1);
	if (n >= sizeof(ret->comm))
		return -EBADMSG;
	memcpy(ret->comm, open + 1, n);
	/* Behind the name: " S ppid …", the state being field 3. */
	const char *p = close + 1;
	if (end - p < 3 || p[0] != ' ' || p[2] != ' ')
		return -EBADMSG;
	p += 3;
	for (int field = 4; field <= 48; field++) {
		uint64_t v;
		blanks(&p, end);
		bool negative = literal(&p, end, '-');
		if (number(&p, end, 10, UINT64_MAX, &v) < 0)
			return -EBADMSG;
		if (negative)
			continue;
		if (field == 4 && v > UINT32_MAX)
			return -EBADMSG;
		if (field == 4)
			ret->ppid = (uint32_t)v;
		else if (field == 22)
			ret->start_time = v;
		else if (field == 26)
			ret->image.code = v;
		else if (field == 28)
			ret->image.stack = v;
		else if (field == 48)
			ret->image.arguments = v;
	}
	return 0;
}

/* ---- status and fdinfo: "Key:\tvalue" lines ---- */

/* The value of the line that begins with key; NULL if there is none. */
static const char *value_of(
	const char *text, const char *end, const char *key, const char **ret_end)
{
	size_t k = strlen(key);
	while (text < end) {
		const char *eol = memchr(text, '\n', (size_t)(end - text));
		if (!eol)
			eol = end;
		if ((size_t)(eol - text) >= k && memcmp(text, key, k) == 0) {
			*ret_end = eol;
			return text + k;
		}
		text = eol == end ? end : eol + 1;
	}
	return NULL;
}

static int status_effective(const char *text, const char *end, const char *key, uint32_t *ret)
{
	const char *eol, *p = value_of(text, end, key, &eol);
	uint64_t real, effective;
	if (!p)
		return -EBADMSG;
	blanks(&p, eol);
	if (number(&p, eol, 10, UINT32_MAX, &real) < 0)
		return -EBADMSG;
	blanks(&p, eol);
	if (number(&p, eol, 10, UINT32_MAX, &effective) < 0)
		return -EBADMSG;
	*ret = (uint32_t)effective;
	return 0;
}

int parse_status(const char *text, size_t len, struct proc_status *ret)
{
	const char *end = text + len, *eol, *p;
	memset(ret, 0, sizeof(*ret));
	if (status_effective(text, end, "Uid:", &ret->uid) < 0 ||
		status_effective(text, end, "Gid:", &ret->gid) < 0)
		return -EBADMSG;
	p = value_of(text, end, "Groups:", &eol);
	if (!p)
		return -EBADMSG;
	for (blanks(&p, eol); p < eol; blanks(&p, eol)) {
		uint64_t v;
		if (number(&p, eol, 10, UINT32_MAX, &v) < 0)
			return -EBADMSG;
		if (ret->n_groups == ARRAY_LEN(ret->groups))
			return -E2BIG;
		ret->groups[ret->n_groups++] = (uint32_t)v;
	}
	return 0;
}

int parse_fdinfo_pid(const char *text, size_t len, uint32_t *ret)
{
	const char *eol, *p = value_of(text, text + len, "Pid:", &eol);
	uint64_t v;
	if (!p)
		return -EBADMSG;
	blanks(&p, eol);
	if (p < eol && *p == '-')
		return -ESRCH;
	if (number(&p, eol, 10, INT32_MAX, &v) < 0 || p != eol)
		return -EBADMSG;
	if (v == 0)
		return -ESRCH; /* of another pid namespace */
	*ret = (uint32_t)v;
	return 0;
}

/* ---- cgroup ---- */

int parse_cgroup(const char *text, size_t len, const char **ret, size_t *ret_len)
{
	static const char *const keys[] = {"1:name=systemd:", "0::"};
	const char *end = text + len;
	bool found = false;
	for (size_t i = 0; i < ARRAY_LEN(keys); i++) {
		const char *eol, *p = value_of(text, end, keys[i], &eol);
		/* A hybrid host has both; the unified one says nothing there but "/". */
		if (!p || p == eol || *p != '/' || (found && eol - p == 1))
			continue;
		*ret = p;
		*ret_len = (size_t)(eol - p);
		found = true;
	}
	return found ? 0 : -EBADMSG;
}

static bool ends_with(const char *s, size_t n, const char *suffix)
{
	size_t k = strlen(suffix);
	return n > k && memcmp(s + n - k, suffix, k) == 0;
}

bool cgroup_unit(const char *path, size_t len, const char **ret, size_t *ret_len)
{
	const char *end = path + len;
	while (path < end) {
		path++; /* the '/' */
		const char *slash = memchr(path, '/', (size_t)(end - path));
		size_t n = (size_t)((slash ? slash : end) - path);
		if (!ends_with(path, n, ".slice")) {
			*ret = path;
			*ret_len = n;
			return ends_with(path, n, ".service") || ends_with(path, n, ".scope");
		}
		path += n;
	}
	return false;
}

/* ---- maps ---- */

/* The kernel writes a newline in a path as "\012". */
static void unescape(char *s)
{
	char *out = s;
	while (*s) {
		if (strncmp(s, "\\012", 4) == 0) {
			*out++ = '\n';
			s += 4;
		} else {
			*out++ = *s++;
		}
	}
	*out = '\0';
}

int parse_maps_next(char **pp, char *end, struct mapping *ret)
{
	if (*pp >= end)
		return 0;
	char *eol = memchr(*pp, '\n', (size_t)(end - *pp));
	if (!eol)
		return -EBADMSG;
	const char *p = *pp;
	uint64_t skip, major, minor;
	memset(ret, 0, sizeof(*ret));
	if (number(&p, eol, 16, UINT64_MAX, &ret->start) < 0 || !literal(&p, eol, '-') ||
		number(&p, eol, 16, UINT64_MAX, &ret->end) < 0 || !literal(&p, eol, ' ') ||
		eol - p < 5)
		return -EBADMSG;
	ret->executable = p[2] == 'x';
	p += 4;
	if (!literal(&p, eol, ' ') || number(&p, eol, 16, UINT64_MAX, &skip) < 0 ||
		!literal(&p, eol, ' ') || number(&p, eol, 16, UINT32_MAX, &major) < 0 ||
		!literal(&p, eol, ':') || number(&p, eol, 16, UINT32_MAX, &minor) < 0 ||
		!literal(&p, eol, ' ') || number(&p, eol, 10, UINT64_MAX, &ret->inode) < 0)
		return -EBADMSG;
	ret->major = (uint32_t)major;
	ret->minor = (uint32_t)minor;
	blanks(&p, eol);
	*eol = '\0';
	unescape(*pp + (p - *pp));
	ret->path = p;
	*pp = eol + 1;
	return 1;
}

/* ---- auxiliary vector and "#!" ---- */

int parse_auxv_execfn(const void *auxv, size_t len, uint64_t *ret)
{
	for (size_t i = 0; i + sizeof(Elf64_auxv_t) <= len; i += sizeof(Elf64_auxv_t)) {
		Elf64_auxv_t a;
		memcpy(&a, (const char *)auxv + i, sizeof(a));
		if (a.a_type == AT_NULL)
			break;
		if (a.a_type == AT_EXECFN) {
			*ret = a.a_un.a_val;
			return 0;
		}
	}
	return -ENOENT;
}

static bool plain(const char *p, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (!(p[i] >= '0' && p[i] <= '9') &&
			!((p[i] | 0x20) >= 'a' && (p[i] | 0x20) <= 'z') &&
			(!p[i] || !strchr("_-+./,:@%=", p[i])))
			return false;
	return n > 0;
}

/* The kernel hands over all after the interpreter's name as one argument, without blanks around. */
static void env_words(const char *p, const char *stop, struct shebang *ret)
{
	size_t at = 0;
	blanks(&p, stop);
	while (stop > p && (stop[-1] == ' ' || stop[-1] == '\t'))
		stop--;
	bool split = stop - p > 2 && p[0] == '-' && p[1] == 'S';
	if (split)
		p += 2;
	for (blanks(&p, stop); p < stop; blanks(&p, stop)) {
		size_t n = 0;
		while (p + n < stop && p[n] != ' ' && p[n] != '\t')
			n++;
		bool first = ret->n_words == 0;
		if (!plain(p, n) || ret->n_words == SHEBANG_WORDS_MAX || (!split && !first) ||
			(first && (p[0] == '-' || memchr(p, '=', n)))) {
			ret->n_words = 0;
			return;
		}
		memcpy(ret->words + at, p, n);
		ret->words[at + n] = '\0';
		at += n + 1;
		ret->n_words++;
		p += n;
	}
}

int parse_shebang(const char *text, size_t len, struct shebang *ret)
{
	memset(ret, 0, sizeof(*ret));
	if (len < 2 || text[0] != '#' || text[1] != '!')
		return -ENOENT;
	const char *end = text + (len < SHEBANG_MAX ? len : SHEBANG_MAX);
	const char *eol = memchr(text, '\n', (size_t)(end - text));
	const char *p = text + 2, *stop = eol ? eol : end;
	blanks(&p, stop);
	const char *s = p;
	while (s < stop && *s != ' ' && *s != '\t' && *s != '\0')
		s++;
	size_t n = (size_t)(s - p);
	/* A name cut by the end of what the kernel reads would be another file. */
	if (n == 0 || *p != '/' || (s == stop && !eol) || n >= sizeof(ret->interpreter))
		return -EBADMSG;
	memcpy(ret->interpreter, p, n);
	/* Cut short, or with a NUL in it, the rest is not what it seems. */
	if (eol && n > 4 && memcmp(s - 4, "/env", 4) == 0 && !memchr(s, '\0', (size_t)(stop - s)))
		env_words(s, stop, ret);
	return 0;
}
