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
	for (uint32_t i = 0; i < l.count; i++) {
		fputs(i || n_words ? ", " : "", f);
		print_quoted(f, policy_text(p, p->ids[l.first + i]), "");
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

static void print_party(
	FILE *f, const struct policy *p, const char *key, const struct image_party *a)
{
	static const char *const star[] = {"\"*\""};
	const char *nodes[2], *sep = "";
	uint32_t n_nodes = 0;
	if (a->flags & IMAGE_PARTY_NODE_ANY)
		nodes[n_nodes++] = "\"*\"";
	if (a->flags & IMAGE_PARTY_NODE_SELF)
		nodes[n_nodes++] = "self";
	if (!a->programs.count && !a->groups.count && !a->users.count && !a->nodes.count &&
		!a->flags)
		return;
	fprintf(f, "    %s: { ", key);
	print_names(f, p, &sep, "program", a->programs, star, a->flags & IMAGE_PARTY_STAR ? 1 : 0);
	print_names(f, p, &sep, "group", a->groups, NULL, 0);
	print_users(f, p, &sep, a->users);
	print_names(f, p, &sep, "node", a->nodes, nodes, n_nodes);
	fputs(" }\n", f);
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

static void print_where(FILE *f, const struct policy *p, const struct image_rule *r)
{
	const char *sep = "";
	if (r->ranges4.count || r->ranges6.count) {
		fputs("    address: [", f);
		for (uint32_t i = 0; i < r->ranges4.count; i++)
			print_range4(f, &p->ranges4[r->ranges4.first + i], &sep);
		for (uint32_t i = 0; i < r->ranges6.count; i++)
			print_range6(f, &p->ranges6[r->ranges6.first + i], &sep);
		fputs("]\n", f);
	}
	if (r->ports.count)
		fputs("    port: [", f);
	for (uint32_t i = 0; i < r->ports.count; i++) {
		const struct image_ports *x = &p->ports[r->ports.first + i];
		fprintf(f, x->first == x->last ? "%s%u" : "%s%u-%u", i ? ", " : "", x->first,
			x->last);
	}
	if (r->ports.count)
		fputs("]\n", f);
	if (r->path) {
		fputs("    unix: ", f);
		print_quoted(f, policy_text(p, r->path), r->flags & IMAGE_RULE_PREFIX ? "**" : "");
		fputs("\n", f);
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

static void print_how(FILE *f, const struct image_rule *r)
{
	bool deny = r->flags & IMAGE_RULE_DENY;
	if (r->flags & IMAGE_RULE_PLAIN)
		fputs("    plain: true\n", f);
	else if (deny && r->flags & IMAGE_RULE_NOT_PLAIN)
		fputs("    plain: false\n", f);
	if (r->encrypt)
		fputs("    protection: encrypt\n", f);
	uint64_t s = r->idle_ms / 1000;
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
	if (r->connections)
		fprintf(f, "    connections: %u\n", r->connections);
}

static void print_rule(FILE *f, const struct policy *p, const struct image_rule *r)
{
	static const char *const ops[] = {"run", "connect", "bind", "publish"};
	const char *sep = "";
	fputs("  - name: ", f);
	print_quoted(f, policy_text(p, r->name), "");
	fprintf(f, " # line %u\n", r->line);
	fprintf(f, "    %s: [", r->flags & IMAGE_RULE_DENY ? "deny" : "allow");
	for (unsigned i = 0; i < ARRAY_LEN(ops); i++) {
		if (!(r->ops & IMAGE_OP(POLICY_OP_RUN + i)))
			continue;
		fprintf(f, "%s%s", sep, ops[i]);
		sep = ", ";
	}
	fputs("]\n", f);
	print_party(f, p, "from", &r->from);
	print_party(f, p, "to", &r->to);
	print_where(f, p, r);
	print_transport(f, r);
	print_how(f, r);
}

static void print_head(FILE *f, const struct policy *p)
{
	bool any = false;
	fprintf(f, "version: 1\ndns: %s\nrun: %s\n",
		p->header->flags & IMAGE_DNS ? "true" : "false",
		p->header->flags & IMAGE_RUN_ENROLLED ? "enrolled" : "any");
	for (uint32_t i = 0; i < p->n_names; i++) {
		const char *sep = "";
		if (!(p->names[i].flags & (IMAGE_NAME_ENROLLED | IMAGE_NAME_LIST)))
			continue;
		fputs(any ? "" : "groups:\n", f);
		any = true;
		fputs("  ", f);
		print_quoted(f, policy_text(p, i), "");
		fputs(": ", f);
		if (p->names[i].flags & IMAGE_NAME_ENROLLED) {
			fputs("enrolled\n", f);
			continue;
		}
		fputc('[', f);
		for (uint32_t k = 0; k < p->n_names; k++)
			for (uint32_t g = 0; g < p->names[k].groups.count; g++)
				if (p->ids[p->names[k].groups.first + g] == i) {
					fputs(sep, f);
					print_quoted(f, policy_text(p, k), "");
					sep = ", ";
				}
		fputs("]\n", f);
	}
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
