/* Single values of the policy language: words, names, numbers, durations, paths, ports, addresses.
 */
#include "policy/compile-source.h"

#include <stdio.h>
#include <string.h>
#include <sys/un.h>

bool value_scalar(struct compiler *c, const struct yaml_node *v, const char *what)
{
	if (v->kind != YAML_SCALAR) {
		complain(c, &v->place, "", "%s must be a single value", what);
		return false;
	}
	if (!v->text[0]) {
		complain(
			c, &v->place, "leave the key out, or give it a value", "%s is empty", what);
		return false;
	}
	return true;
}

bool value_bool(struct compiler *c, const struct yaml_node *v, bool *ret)
{
	bool plain = v->kind == YAML_SCALAR && !v->quoted;
	if (plain && !strcmp(v->text, "true"))
		*ret = true;
	else if (plain && !strcmp(v->text, "false"))
		*ret = false;
	else {
		complain(c, &v->place, "", "expected true or false");
		return false;
	}
	return true;
}

bool value_word(
	struct compiler *c, const struct yaml_node *v, const char *const *words, int n, int *ret)
{
	char list[160] = "", hint[200] = "";
	if (v->kind != YAML_SCALAR) {
		complain(c, &v->place, "", "expected one word");
		return false;
	}
	for (int i = 0; i < n; i++) {
		if (!strcmp(v->text, words[i])) {
			*ret = i;
			return true;
		}
		size_t used = strlen(list);
		snprintf(list + used, sizeof(list) - used, "%s%s",
			i == 0       ? ""
			: i == n - 1 ? " or "
				     : ", ",
			words[i]);
	}
	int near = nearest(v->text, words, n);
	if (near >= 0)
		snprintf(hint, sizeof(hint), "did you mean `%s`?", words[near]);
	complain(c, &v->place, hint, "expected %s, not `%s`", list, v->text);
	return false;
}

static bool name_add(struct compiler *c, struct names *names, const struct yaml_node *v,
	const char *what, uint32_t *ret)
{
	static const char more[] = "._-+@";
	if (!value_scalar(c, v, what))
		return false;
	size_t n = strlen(v->text);
	for (const char *s = v->text; *s; s++) {
		bool alnum = (*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
			     (*s >= '0' && *s <= '9');
		if (!alnum && (!strchr(more, *s) || (s == v->text && *s == '-'))) {
			complain(c, &v->place, "letters, digits and ._-+@, not beginning with -",
				"`%s` cannot be %s", v->text, what);
			return false;
		}
	}
	if (n >= POLICY_NAME_MAX) {
		complain(c, &v->place, "", "%s is too long (at most %u characters)", what,
			POLICY_NAME_MAX - 1);
		return false;
	}
	*ret = names_add(names, v->text);
	if (!*ret)
		c->no_memory = true;
	return *ret != 0;
}

bool value_name(struct compiler *c, const struct yaml_node *v, const char *what, uint32_t *ret)
{
	return name_add(c, &c->names, v, what, ret);
}

bool value_rule_name(struct compiler *c, const struct yaml_node *v, uint32_t *ret)
{
	return name_add(c, &c->rule_names, v, "a rule's name", ret);
}

bool value_digits(const char **s, uint64_t max, uint64_t *ret)
{
	uint64_t v = 0;
	const char *p = *s;
	if (*p < '0' || *p > '9')
		return false;
	for (; *p >= '0' && *p <= '9'; p++) {
		v = v * 10 + (uint64_t)(*p - '0');
		if (v > max)
			return false;
	}
	*s = p;
	*ret = v;
	return true;
}

bool value_duration(struct compiler *c, const struct yaml_node *v, uint64_t *ret_ms)
{
	static const char hint[] = "a number and s, m, h or d, such as 10m; from 1s to 365d";
	uint64_t n = 0, unit;
	if (!value_scalar(c, v, "this"))
		return false;
	const char *s = v->text;
	bool ok = value_digits(&s, 365u * 86400u, &n) && n;
	unit = *s == 's' ? 1 : *s == 'm' ? 60 : *s == 'h' ? 3600 : *s == 'd' ? 86400 : 0;
	if (!ok || !unit || s[1] || n * unit > 365u * 86400u) {
		complain(c, &v->place, hint, "`%s` is not a length of time", v->text);
		return false;
	}
	*ret_ms = n * unit * 1000;
	return true;
}

bool value_count(struct compiler *c, const struct yaml_node *v, uint32_t max, uint32_t *ret)
{
	uint64_t n = 0;
	const char *s = v->kind == YAML_SCALAR ? v->text : "";
	if (!value_digits(&s, max, &n) || *s || !n) {
		complain(c, &v->place, "", "expected a number from 1 to %u", max);
		return false;
	}
	*ret = (uint32_t)n;
	return true;
}

bool value_rate(struct compiler *c, const struct yaml_node *v, uint32_t *ret, uint32_t *ret_s)
{
	uint64_t n = 0;
	const char *s = v->kind == YAML_SCALAR ? v->text : "";
	bool ok = value_digits(&s, IMAGE_RATE_MAX, &n) && n && s[0] == '/';
	uint32_t unit = !ok ? 0 : s[1] == 's' ? 1 : s[1] == 'm' ? 60 : s[1] == 'h' ? 3600 : 0;
	if (!unit || s[2]) {
		complain(c, &v->place, "such as 100/s, 10/m or 5/h",
			"expected how many new connections in how long");
		return false;
	}
	*ret = (uint32_t)n;
	*ret_s = unit;
	return true;
}

bool value_path(struct compiler *c, const struct yaml_node *v, uint32_t *ret, bool *ret_prefix)
{
	char path[IMAGE_PATH_MAX];
	if (!value_scalar(c, v, "a socket's path"))
		return false;
	size_t n = strlen(v->text);
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)v->text[i] < 0x20 || v->text[i] == 0x7f) {
			complain(c, &v->place, "", "a socket's path without control characters");
			return false;
		}
	*ret_prefix = n >= 3 && !strcmp(v->text + n - 3, "/**");
	if (*ret_prefix)
		n -= 2; /* keeps the slash, so that /run/a/ does not cover /run/ab */
	if (v->text[0] != '/' || memchr(v->text, '*', n)) {
		complain(c, &v->place, "an absolute path, or one that ends in /**",
			"`%s` is no socket path", v->text);
		return false;
	}
	if (n >= sizeof(((struct sockaddr_un *)0)->sun_path)) {
		complain(c, &v->place, "", "no socket can have so long a path");
		return false;
	}
	memcpy(path, v->text, n);
	path[n] = '\0';
	if (strstr(path, "//") || strstr(path, "/./") || strstr(path, "/../") ||
		(n >= 2 && !strcmp(path + n - 2, "/.")) ||
		(n >= 3 && !strcmp(path + n - 3, "/..")) || (!*ret_prefix && path[n - 1] == '/')) {
		complain(c, &v->place, "write the path as it is once resolved: no //, no ., no ..",
			"`%s` never is a socket's resolved path", v->text);
		return false;
	}
	*ret = names_add(&c->names, path);
	if (!*ret)
		c->no_memory = true;
	return *ret != 0;
}

bool value_each(struct compiler *c, const struct yaml_node *v, const char *what,
	bool (*fn)(struct compiler *c, const struct yaml_node *item, void *data), void *data)
{
	uint32_t n = 0;
	bool ok = true;
	if (v->kind == YAML_MAP) {
		complain(c, &v->place, "", "%s must be a value or a list of values", what);
		return false;
	}
	if (v->kind == YAML_SCALAR)
		return value_scalar(c, v, what) && fn(c, v, data);
	if (!v->first) {
		complain(c, &v->place, "leave the key out to mean any", "%s: the list is empty",
			what);
		return false;
	}
	for (const struct yaml_node *i = v->first; i; i = i->next) {
		if (++n > IMAGE_LIST_MAX) {
			complain(c, &i->place, "split the rule",
				"%s: the list is too long (at most %u)", what, IMAGE_LIST_MAX);
			return false;
		}
		if (i->kind != YAML_SCALAR)
			complain(c, &i->place, "", "%s: a list of single values", what);
		ok &= i->kind == YAML_SCALAR && value_scalar(c, i, what) && fn(c, i, data);
	}
	return ok;
}

static bool one_port(struct compiler *c, const struct yaml_node *v, void *data _unused_)
{
	uint64_t a = 0, b;
	const char *s = v->text;
	bool ok = value_digits(&s, 65535, &a);
	b = a;
	if (ok && *s == '-') {
		s++;
		ok = value_digits(&s, 65535, &b);
	}
	if (!ok || *s) {
		complain(c, &v->place, "a number from 0 to 65535, or FIRST-LAST", "`%s` is no port",
			v->text);
		return false;
	}
	if (b < a) {
		char hint[64];
		snprintf(hint, sizeof(hint), "did you mean %u-%u?", (unsigned)b, (unsigned)a);
		complain(c, &v->place, hint, "the range `%s` is empty", v->text);
		return false;
	}
	struct image_ports p = {(uint16_t)a, (uint16_t)b};
	pool_add(c, &c->ports, p);
	return true;
}

static int by_port(const void *va, const void *vb)
{
	const struct image_ports *a = va, *b = vb;
	return (a->first > b->first) - (a->first < b->first);
}

bool value_ports(struct compiler *c, const struct yaml_node *v, struct image_list *ret)
{
	uint32_t first = c->ports.n, n = first;
	bool ok = value_each(c, v, "a port", one_port, NULL);
	if (c->ports.n == first)
		return false;
	struct image_ports *p = c->ports.v;
	qsort(p + first, c->ports.n - first, sizeof(*p), by_port);
	for (uint32_t i = first + 1; i < c->ports.n; i++) {
		if (p[i].first > p[n].last)
			p[++n] = p[i];
		else if (p[i].last > p[n].last)
			p[n].last = p[i].last;
	}
	c->ports.n = n + 1;
	*ret = (struct image_list){first, c->ports.n - first};
	return ok;
}

static uint64_t be(const uint8_t *b, int n)
{
	uint64_t v = 0;
	for (int i = 0; i < n; i++)
		v = v << 8 | b[i];
	return v;
}

/* The network's first and last address; false when the address has bits beyond the prefix. */
static bool add_network(struct compiler *c, const struct addr *a, unsigned bits)
{
	if (a->ip_len == 4) {
		uint32_t ip = (uint32_t)be(a->ip, 4),
			 host = bits ? (uint32_t)((1ull << (32 - bits)) - 1) : ~0u;
		struct image_range4 r = {ip, ip | host};
		if (ip & host)
			return false;
		pool_add(c, &c->ranges4, r);
		return true;
	}
	struct image_u128 ip = {be(a->ip, 8), be(a->ip + 8, 8)}, host;
	host.hi = bits >= 64 ? 0 : bits ? (1ull << (64 - bits)) - 1 : ~0ull;
	host.lo = bits >= 128 ? 0 : bits > 64 ? (1ull << (128 - bits)) - 1 : ~0ull;
	if (ip.hi & host.hi || ip.lo & host.lo)
		return false;
	struct image_range6 r = {ip, {ip.hi | host.hi, ip.lo | host.lo}};
	pool_add(c, &c->ranges6, r);
	return true;
}

static void network_hint(const struct addr *a, unsigned bits, char *hint, size_t size)
{
	struct addr net = *a;
	char text[ADDR_TEXT_MAX];
	for (unsigned i = bits; i < a->ip_len * 8u; i++)
		net.ip[i / 8] = (uint8_t)(net.ip[i / 8] & ~(0x80 >> i % 8));
	addr_format(&net, false, text);
	snprintf(hint, size, "the network is %s/%u", text, bits);
}

static bool one_address(struct compiler *c, const struct yaml_node *v, void *data _unused_)
{
	static const char form[] =
		"ADDR or ADDR/BITS, such as 127.0.0.0/8 or ::1; names are not resolved";
	char text[ADDR_TEXT_MAX], hint[160];
	const char *slash = strchr(v->text, '/');
	size_t n = slash ? (size_t)(slash - v->text) : strlen(v->text);
	struct addr a;
	uint64_t bits = 0;
	if (n >= sizeof(text)) {
		complain(c, &v->place, form, "`%s` is no address", v->text);
		return false;
	}
	memcpy(text, v->text, n);
	text[n] = '\0';
	if (addr_parse(text, &a) < 0 || text[0] == '[') {
		complain(c, &v->place, form, "`%s` is no address", v->text);
		return false;
	}
	if (a.port || (a.ip_len == 4 && strchr(text, ':'))) {
		complain(c, &v->place,
			"an IPv4 address without a port; the port is a key of its own: `port: N`",
			"`%s` is no plain address", v->text);
		return false;
	}
	bits = a.ip_len * 8u;
	const char *s = slash ? slash + 1 : "";
	if (slash && (!value_digits(&s, bits, &bits) || *s)) {
		complain(c, &v->place, form, "`%s`: the prefix is 0 to %u bits", v->text,
			a.ip_len * 8u);
		return false;
	}
	if (!add_network(c, &a, (unsigned)bits)) {
		network_hint(&a, (unsigned)bits, hint, sizeof(hint));
		complain(c, &v->place, hint, "`%s` has bits beyond its prefix", v->text);
		return false;
	}
	return true;
}

static int by_range4(const void *va, const void *vb)
{
	const struct image_range4 *a = va, *b = vb;
	return (a->first > b->first) - (a->first < b->first);
}

static int u128_compare(const struct image_u128 *a, const struct image_u128 *b)
{
	if (a->hi != b->hi)
		return a->hi < b->hi ? -1 : 1;
	return (a->lo > b->lo) - (a->lo < b->lo);
}

static int by_range6(const void *va, const void *vb)
{
	const struct image_range6 *a = va, *b = vb;
	return u128_compare(&a->first, &b->first);
}

static void merge4(struct compiler *c, uint32_t first)
{
	struct image_range4 *p = c->ranges4.v;
	uint32_t n = first;
	if (c->ranges4.n == first)
		return;
	qsort(p + first, c->ranges4.n - first, sizeof(*p), by_range4);
	for (uint32_t i = first + 1; i < c->ranges4.n; i++) {
		if (p[i].first > p[n].last)
			p[++n] = p[i];
		else if (p[i].last > p[n].last)
			p[n].last = p[i].last;
	}
	c->ranges4.n = n + 1;
}

static void merge6(struct compiler *c, uint32_t first)
{
	struct image_range6 *p = c->ranges6.v;
	uint32_t n = first;
	if (c->ranges6.n == first)
		return;
	qsort(p + first, c->ranges6.n - first, sizeof(*p), by_range6);
	for (uint32_t i = first + 1; i < c->ranges6.n; i++) {
		if (u128_compare(&p[i].first, &p[n].last) > 0)
			p[++n] = p[i];
		else if (u128_compare(&p[i].last, &p[n].last) > 0)
			p[n].last = p[i].last;
	}
	c->ranges6.n = n + 1;
}

bool value_addresses(struct compiler *c, const struct yaml_node *v, struct image_list *ret4,
	struct image_list *ret6)
{
	uint32_t first4 = c->ranges4.n, first6 = c->ranges6.n;
	bool ok = value_each(c, v, "an address", one_address, NULL);
	merge4(c, first4);
	merge6(c, first6);
	*ret4 = (struct image_list){first4, c->ranges4.n - first4};
	*ret6 = (struct image_list){first6, c->ranges6.n - first6};
	return ok;
}
