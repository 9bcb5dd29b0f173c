/* An image back as YAML: what is in force, in the policy's own language. Compiles to the same
 * policy. */
#include "policy/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

/* Quoted: a program may be called `true` or `7`, a path may hold anything printable. */
static void print_quoted(FILE *f, const char *text, const char *suffix)
{
	fputc('"', f);
	for (; *text; text++)
		fprintf(f, *text == '"' || *text == '\\' ? "\\%c" : "%c", *text);
	fprintf(f, "%s\"", suffix);
}

static void print_list(FILE *f, uint32_t n)
{
	if (n > 1)
		fputc('[', f);
}

static void print_names(FILE *f, const struct policy *p, const char **sep, const char *key,
	struct image_list l, const char *const *words, uint32_t n_words)
{
	uint32_t n = l.count + n_words;
	if (!n)
		return;
	fprintf(f, "%s%s: ", *sep, key);
	*sep = ", ";
	print_list(f, n);
	for (uint32_t i = 0; i < n_words; i++)
		fprintf(f, "%s%s", i ? ", " : "", words[i]);
	const uint32_t *ids = list_ids(p, &l);
	for (uint32_t i = 0; i < l.count; i++) {
		fputs(i || n_words ? ", " : "", f);
		print_quoted(f, policy_text(p, ids[i]), "");
	}
	fputs(n > 1 ? "]" : "", f);
}

static void print_users(FILE *f, const struct policy *p, const char **sep, struct image_list l)
{
	if (!l.count)
		return;
	fprintf(f, "%suser: ", *sep);
	*sep = ", ";
	print_list(f, l.count);
	for (uint32_t i = 0; i < l.count; i++) {
		const struct image_user *u = &p->users[l.first + i];
		fputs(i ? ", " : "", f);
		if (u->name)
			print_quoted(f, policy_text(p, u->name), "");
		else
			fprintf(f, "%u", u->uid);
	}
	fputs(l.count > 1 ? "]" : "", f);
}

/* "{ program: cache, ... }" */
static void print_who(FILE *f, const struct policy *p, const struct image_party *a)
{
	static const char *const star[] = {"\"*\""};
	const char *nodes[2], *sep = "";
	uint32_t n_nodes = 0;
	if (a->flags & IMAGE_PARTY_NODE_ANY)
		nodes[n_nodes++] = "\"*\"";
	if (a->flags & IMAGE_PARTY_NODE_SELF)
		nodes[n_nodes++] = "self";
	fputs("{ ", f);
	print_names(f, p, &sep, "program", a->programs, star, a->flags & IMAGE_PARTY_STAR ? 1 : 0);
	print_names(f, p, &sep, "group", a->groups, NULL, 0);
	print_users(f, p, &sep, a->users);
	print_names(f, p, &sep, "node", a->nodes, nodes, n_nodes);
	print_names(f, p, &sep, "unit", a->units, NULL, 0);
	print_names(f, p, &sep, "role", a->roles, NULL, 0);
	fputs(" }", f);
}

static void print_party(FILE *f, const struct policy *p, const char *key, uint32_t party)
{
	if (!party)
		return;
	fprintf(f, "    %s: ", key);
	print_who(f, p, &p->parties[party]);
	fputs("\n", f);
}

/* A range is not always one prefix once overlapping ones were merged: print the prefixes it is made
 * of. */
static void print_range4(FILE *f, const struct image_range4 *r, const char **sep)
{
	uint64_t at = r->first;
	while (at <= r->last) {
		unsigned bits = 32;
		while (bits && !(at & ((1ull << (33 - bits)) - 1)) &&
			at + (1ull << (33 - bits)) - 1 <= r->last)
			bits--;
		fprintf(f, "%s%u.%u.%u.%u/%u", *sep, (unsigned)(at >> 24) & 255,
			(unsigned)(at >> 16) & 255, (unsigned)(at >> 8) & 255, (unsigned)at & 255,
			bits);
		*sep = ", ";
		at += 1ull << (32 - bits);
	}
}

/* Prefixes overlap only by containing one another, so a merged range of them is always one prefix.
 */
static void print_range6(FILE *f, const struct image_range6 *r, const char **sep)
{
	struct addr a = {.ip_len = 16};
	char text[ADDR_TEXT_MAX];
	uint64_t hi = r->first.hi ^ r->last.hi, lo = r->first.lo ^ r->last.lo;
	int bits = 128 - (hi ? 128 - __builtin_clzll(hi) : lo ? 64 - __builtin_clzll(lo) : 0);
	for (int i = 0; i < 8; i++) {
		a.ip[i] = (uint8_t)(r->first.hi >> (56 - 8 * i));
		a.ip[8 + i] = (uint8_t)(r->first.lo >> (56 - 8 * i));
	}
	addr_format(&a, false, text);
	fprintf(f, "%s\"%s/%d\"", *sep, text, bits);
	*sep = ", ";
}

/* Address, ports, path: each as "KEY: VALUE", with `before` and `after` around it. */
static void print_where(FILE *f, const struct policy *p, const struct image_rule *r,
	const char *before, const char *after)
{
	const struct image_where *w = &p->wheres[r->where];
	const struct image_ports *ports = list_ports(p, &r->ports);
	const char *sep = "";
	if (w->ranges4.count || w->ranges6.count) {
		fprintf(f, "%saddress: [", before);
		for (uint32_t i = 0; i < w->ranges4.count; i++)
			print_range4(f, &p->ranges4[w->ranges4.first + i], &sep);
		for (uint32_t i = 0; i < w->ranges6.count; i++)
			print_range6(f, &p->ranges6[w->ranges6.first + i], &sep);
		fprintf(f, "]%s", after);
	}
	if (r->ports.count)
		fprintf(f, "%sport: [", before);
	for (uint32_t i = 0; i < r->ports.count; i++)
		fprintf(f, ports[i].first == ports[i].last ? "%s%u" : "%s%u-%u", i ? ", " : "",
			ports[i].first, ports[i].last);
	if (r->ports.count)
		fprintf(f, "]%s", after);
	if (w->path) {
		fprintf(f, "%s%s: ", before, r->ops == IMAGE_OP(POLICY_OP_BIND) ? "fifo" : "unix");
		print_quoted(f, policy_text(p, w->path), w->prefix ? "**" : "");
		fputs(after, f);
	}
}

static void print_transport(FILE *f, const struct image_rule *r)
{
	const uint8_t tcp = IMAGE_TRANSPORT(POLICY_TCP), udp = IMAGE_TRANSPORT(POLICY_UDP);
	bool deny = r->flags & IMAGE_RULE_DENY;
	if (r->transports & IMAGE_TRANSPORT(POLICY_UNIX)) /* `unix`, or a denial of everything */
		return;
	if (r->transports == (tcp | udp))
		fputs("    transport: any\n", f);
	else if (r->transports == udp)
		fputs("    transport: udp\n", f);
	else if (deny)
		fputs("    transport: tcp\n", f);
}

static void print_window(FILE *f, const struct image_window *w)
{
	static const char *const days[] = {"mon", "tue", "wed", "thu", "fri", "sat", "sun"};
	unsigned end = w->last + 1u;
	const char *sep = "";
	fputc('"', f);
	for (unsigned i = 0; i < 7; i++)
		if (w->days >> i & 1) {
			fprintf(f, "%s%s", sep, days[i]);
			sep = ",";
		}
	fprintf(f, " %02u:%02u-%02u:%02u\"", w->first / 60u, w->first % 60u, end / 60, end % 60);
}

static void print_limits(FILE *f, const struct image_how *h)
{
	uint64_t s = h->idle_ms / 1000;
	if (s)
		fprintf(f, "    idle: %llu%s\n",
			(unsigned long long)(s % 86400 == 0  ? s / 86400
					     : s % 3600 == 0 ? s / 3600
					     : s % 60 == 0   ? s / 60
							     : s),
			s % 86400 == 0  ? "d"
			: s % 3600 == 0 ? "h"
			: s % 60 == 0   ? "m"
					: "s");
	if (h->connections)
		fprintf(f, "    connections: %u\n", h->connections);
	if (h->rate)
		fprintf(f, "    rate: %u/%s\n", h->rate,
			h->rate_s == 1    ? "s"
			: h->rate_s == 60 ? "m"
					  : "h");
}

static void print_how(FILE *f, const struct policy *p, const struct image_rule *r)
{
	const struct image_how *h = &p->hows[r->how];
	bool deny = r->flags & IMAGE_RULE_DENY;
	if (r->flags & IMAGE_RULE_PLAIN)
		fputs("    plain: true\n", f);
	else if (deny && r->flags & IMAGE_RULE_NOT_PLAIN)
		fputs("    plain: false\n", f);
	if (r->flags & IMAGE_RULE_PERMISSIVE)
		fputs("    permissive: true\n", f);
	if (h->encrypt)
		fputs("    protection: encrypt\n", f);
	print_limits(f, h);
	for (uint32_t i = 0; i < h->windows.count; i++) {
		fputs(i ? ", " : "    when: [", f);
		print_window(f, &p->windows[h->windows.first + i]);
	}
	fputs(h->windows.count ? "]\n" : "", f);
	for (uint32_t i = 0; i < h->labels.count; i++) {
		fputs(i ? ", " : "    label: [", f);
		print_quoted(f, policy_text(p, p->tags[h->labels.first + i]), "");
	}
	fputs(h->labels.count ? "]\n" : "", f);
}

static void print_rule(FILE *f, const struct policy *p, const struct image_rule *r)
{
	const char *sep = "";
	fputs("  - name: ", f);
	print_quoted(f, p->text + r->name, "");
	fprintf(f, " # line %u\n", r->line);
	fprintf(f, "    %s: [", r->flags & IMAGE_RULE_DENY ? "deny" : "allow");
	for (unsigned i = 0; i <= POLICY_OP_ACCEPT; i++) {
		if (!(r->ops & IMAGE_OP(i)))
			continue;
		fprintf(f, "%s%s", sep, policy_op_name((enum policy_op)i));
		sep = ", ";
	}
	fputs("]\n", f);
	print_party(f, p, "from", r->from);
	print_party(f, p, "to", r->to);
	print_where(f, p, r, "    ", "\n");
	print_transport(f, r);
	print_how(f, p, r);
}

static void print_groups(FILE *f, const struct policy *p)
{
	bool any = false;
	for (uint32_t i = 0; i < p->n_names; i++) {
		const char *sep = "";
		if (!(p->names[i].flags & (IMAGE_NAME_ENROLLED | IMAGE_NAME_LIST)))
			continue;
		fputs(any ? "  " : "groups:\n  ", f);
		any = true;
		print_quoted(f, policy_text(p, i), "");
		if (p->names[i].flags & IMAGE_NAME_ENROLLED) {
			fputs(": enrolled\n", f);
			continue;
		}
		fputs(": [", f);
		for (uint32_t k = 0; k < p->n_names; k++) {
			const uint32_t *ids = list_ids(p, &p->names[k].groups);
			for (uint32_t g = 0; g < p->names[k].groups.count; g++)
				if (ids[g] == i) {
					fputs(sep, f);
					print_quoted(f, policy_text(p, k), "");
					sep = ", ";
				}
		}
		fputs("]\n", f);
	}
}

static bool set_has(const uint64_t *set, uint32_t i)
{
	return set[i / 64] >> (i % 64) & 1;
}

/* A role as a list of others: all it gives, or all it excludes. */
static void print_roles_of(
	FILE *f, const struct policy *p, const char *key, const uint64_t *set, uint32_t self)
{
	const char *sep = "";
	for (uint32_t i = 0; i < p->n_roles; i++) {
		if (i == self || !set_has(set, i))
			continue;
		if (!sep[0])
			fprintf(f, "    %s: [", key);
		fputs(sep, f);
		print_quoted(f, policy_text(p, p->roles[i].name), "");
		sep = ", ";
	}
	fputs(sep[0] ? "]\n" : "", f);
}

static void print_roles(FILE *f, const struct policy *p)
{
	fputs(p->n_roles ? "roles:\n" : "", f);
	for (uint32_t i = 0; i < p->n_roles; i++) {
		const char *sep = "    members: [";
		fputs("  ", f);
		print_quoted(f, policy_text(p, p->roles[i].name), "");
		fputs(":\n", f);
		for (uint32_t k = 0; k < p->n_bindings; k++) {
			if (p->bindings[k].role != i)
				continue;
			fputs(sep, f);
			print_who(f, p, &p->parties[p->bindings[k].party]);
			sep = ", ";
		}
		fputs(sep[0] == ',' ? "]\n" : "", f);
		print_roles_of(f, p, "includes", p->roles[i].gives, i);
		print_roles_of(f, p, "excludes", p->roles[i].excludes, i);
	}
}

static void print_labels(FILE *f, const struct policy *p)
{
	const uint8_t inet = IMAGE_TRANSPORT(POLICY_TCP) | IMAGE_TRANSPORT(POLICY_UDP);
	for (uint32_t i = 0; i < p->n_labels; i++) {
		const struct image_rule *l = &p->labels[i];
		if (!i || l[-1].name != l->name) {
			fputs(i ? "  " : "labels:\n  ", f);
			print_quoted(f, policy_text(p, l->name), "");
			fputs(":\n", f);
		}
		fputs("    - {", f);
		print_where(f, p, l, " ", ",");
		if (l->transports == IMAGE_TRANSPORT(POLICY_TCP))
			fputs(" transport: tcp,", f);
		if (l->transports == IMAGE_TRANSPORT(POLICY_UDP))
			fputs(" transport: udp,", f);
		if (l->to) {
			fputs(" at: ", f);
			print_who(f, p, &p->parties[l->to]);
		} else if (l->transports == inet && !l->ports.count && !l->where) {
			fputs(" transport: any", f);
		}
		fputs(" }\n", f);
	}
}

static void print_permissive(FILE *f, const struct policy *p)
{
	const char *sep = "permissive: [";
	for (uint32_t i = 0; i < p->n_names; i++) {
		if (!(p->names[i].flags & IMAGE_NAME_PERMISSIVE))
			continue;
		fputs(sep, f);
		print_quoted(f, policy_text(p, i), "");
		sep = ", ";
	}
	fputs(sep[0] == ',' ? "]\n" : "", f);
}

static void print_head(FILE *f, const struct policy *p)
{
	uint32_t flags = p->header->flags;
	fprintf(f, "version: 1\ndns: %s\nrun: %s\n", flags & IMAGE_DNS ? "true" : "false",
		flags & IMAGE_RUN_ENROLLED ? "enrolled" : "any");
	fputs(flags & IMAGE_ACCEPT_LISTED ? "accept: listed\n" : "", f);
	if (flags & IMAGE_PERMISSIVE_ANY)
		fputs("permissive: any\n", f);
	else
		print_permissive(f, p);
	if (p->header->zone)
		fprintf(f, "timezone: %s\n", policy_text(p, p->header->zone));
	print_groups(f, p);
	print_roles(f, p);
	print_labels(f, p);
	fputs(p->n_rules ? "rules:\n" : "", f);
}

int policy_format(const struct policy *p, uint32_t rule, char **ret)
{
	char *out = NULL;
	size_t len = 0;
	if (!p || (rule != POLICY_RULE_NONE && rule >= p->n_rules))
		return -ENOENT;
	FILE *f = open_memstream(&out, &len);
	if (!f)
		return -ENOMEM;
	if (rule == POLICY_RULE_NONE)
		print_head(f, p);
	else
		print_rule(f, p, &p->rules[rule]);
	if (fclose(f)) {
		free(out);
		return -ENOMEM;
	}
	*ret = out;
	return 0;
}
