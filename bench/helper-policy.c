/*
 * What a policy costs: makes one of N rules, compiles, opens and asks it; one line "NAME VALUE" a
 * measurement, for bench/policy.
 *
 * usage: helper-policy SHAPE RULES
 *   pairs   a rule for each pair of programs and a port
 *   mixed   pairs, groups, users, denials, destinations outside, Unix sockets
 *   flood   pairs of programs whose names collide in an unkeyed FNV-1a table
 *   worst   rules of one program that differ in their networks only: nothing to look them up by
 *
 * Questions are made before the clock starts: half of them are about pairs some rule is about, half
 * are about none. A decision that repeats is one question asked again and again; one that does not
 * is any of 65,536 in random order, over all rules, so that nothing is in a cache.
 */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "policy/compile.h"
#include "policy/policy.h"

#define QUESTIONS 65536u
#define BATCH 32u
#define BATCHES 4096u
#define FLOOD_NAMES 4096u

enum shape { PAIRS, MIXED, FLOOD, WORST, _SHAPES };
static const char *const shape_names[_SHAPES] = {"pairs", "mixed", "flood", "worst"};

static uint64_t seed = 0x9e3779b97f4a7c15ull;

static uint32_t rnd(uint32_t n)
{
	seed ^= seed << 13;
	seed ^= seed >> 7;
	seed ^= seed << 17;
	return (uint32_t)((seed >> 11) % n);
}

static double now_s(void)
{
	struct timespec t;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static void *must(void *p)
{
	if (!p) {
		fprintf(stderr, "helper-policy: out of memory\n");
		exit(1);
	}
	return p;
}

static uint32_t fnv(const char *s)
{
	uint64_t h = 0xcbf29ce484222325ull;
	for (; *s; s++)
		h = (h ^ (unsigned char)*s) * 0x100000001b3ull;
	return (uint32_t)(h ^ h >> 32);
}

/* Names that an unkeyed table of up to 4,096 slots puts into one. */
static char (*flood_names(void))[16]
{
	char(*names)[16] = must(calloc(FLOOD_NAMES, sizeof(*names)));
	uint32_t n = 0;
	for (uint32_t i = 0; n < FLOOD_NAMES; i++) {
		char name[16];
		snprintf(name, sizeof(name), "f%u", i);
		if ((fnv(name) & 4095) == 7)
			memcpy(names[n++], name, sizeof(name));
	}
	return names;
}

struct bench {
	enum shape shape;
	uint32_t n, programs;
	char (*flood)[16];
};

static void program(const struct bench *b, uint32_t i, char ret[16])
{
	if (b->shape == FLOOD)
		memcpy(ret, b->flood[i % FLOOD_NAMES], 16);
	else
		snprintf(ret, 16, "p%u", i % b->programs);
}

/* Rule i is about these two; a multiplier spreads the second over all programs. */
static void pair_of(const struct bench *b, uint32_t i, char from[16], char to[16])
{
	program(b, i, from);
	program(b, (uint32_t)((uint64_t)i * 2654435761u % b->programs), to);
}

static uint32_t port_of(uint32_t i)
{
	return 1024 + i % 30000;
}

static void print_mixed(FILE *f, uint32_t i, const char *from, const char *to)
{
	switch (i % 10) {
	case 6:
		fprintf(f,
			"{name: r%u, allow: connect, from: {group: g%u}, to: {program: %s}, "
			"port: %u}\n",
			i, i % 64, to, port_of(i));
		break;
	case 7:
		fprintf(f,
			"{name: r%u, allow: connect, from: {program: %s, user: %u}, plain: true, "
			"address: 10.%u.%u.0/24, port: 443}\n",
			i, from, i % 1000, i / 256 % 256, i % 256);
		break;
	case 8:
		fprintf(f,
			"{name: r%u, deny: connect, from: {program: %s}, to: {program: %s}, port: "
			"%u}\n",
			i, to, from, port_of(i));
		break;
	case 9:
		fprintf(f, "{name: r%u, allow: connect, from: {program: %s}, unix: /run/s%u/x}\n",
			i, from, i);
		break;
	default:
		fprintf(f,
			"{name: r%u, allow: connect, from: {program: %s}, to: {program: %s}, port: "
			"%u, idle: 10m}\n",
			i, from, to, port_of(i));
	}
}

static char *make_text(const struct bench *b, size_t *ret_len)
{
	char *text = NULL;
	FILE *f = must(open_memstream(&text, ret_len));
	fputs("version: 1\n", f);
	if (b->shape == MIXED) {
		fputs("groups:\n", f);
		for (uint32_t g = 0; g < 64; g++)
			fprintf(f, "  g%u: [p%u, p%u, p%u]\n", g, g, g + 64, g + 128);
	}
	fputs("rules:\n", f);
	for (uint32_t i = 0; i < b->n; i++) {
		char from[16], to[16];
		pair_of(b, i, from, to);
		fputs("  - ", f);
		if (b->shape == MIXED)
			print_mixed(f, i, from, to);
		else if (b->shape == WORST)
			fprintf(f,
				"{name: r%u, allow: connect, from: {program: p0}, plain: true, "
				"address: 10.%u.%u.%u/31}\n",
				i, i / 32768 % 256, i / 128 % 256, i % 128 * 2);
		else
			fprintf(f,
				"{name: r%u, allow: connect, from: {program: %s}, to: {program: "
				"%s}, port: %u}\n",
				i, from, to, port_of(i));
	}
	fclose(f);
	return text;
}

static void party(const struct policy *p, const char *name, struct policy_party *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->enrolled = ret->self = true;
	ret->uid = rnd(1000);
	if (policy_party_program(p, ret, name) < 0)
		exit(1);
}

static struct policy_question *make_questions(const struct bench *b, const struct policy *p)
{
	struct policy_question *q = must(calloc(QUESTIONS, sizeof(*q)));
	for (uint32_t k = 0; k < QUESTIONS; k++) {
		char from[16], to[16];
		uint32_t i = rnd(b->n);
		pair_of(b, i, from, to);
		q[k].op = POLICY_OP_CONNECT;
		q[k].address = (struct addr){.ip_len = 4, .ip = {127, 0, 0, 1}};
		q[k].address.port = (uint16_t)port_of(rnd(2) ? i : rnd(30000));
		if (b->shape == WORST) {
			memcpy(from, "p0", 3);
			q[k].plain = true;
			q[k].address.ip[0] = 10;
			for (int o = 1; o < 4; o++)
				q[k].address.ip[o] = (uint8_t)rnd(256);
		}
		party(p, from, &q[k].from);
		party(p, to, &q[k].to);
	}
	return q;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;
	return (x > y) - (x < y);
}

/* p50 and p99 of batches, ns a decision; mask 0 asks one question, QUESTIONS - 1 any. */
static void ask(
	const struct policy *p, const struct policy_question *q, uint32_t mask, const char *name)
{
	static double took[BATCHES];
	uint32_t *order = must(calloc(BATCH * BATCHES, sizeof(*order))), allowed = 0, n = 0;
	for (uint32_t i = 0; i < BATCH * BATCHES; i++)
		order[i] = rnd(QUESTIONS) & mask;
	double end = now_s() + 3;
	for (; n < BATCHES && (n < 16 || now_s() < end); n++) {
		double start = now_s();
		for (uint32_t i = 0; i < BATCH; i++) {
			struct policy_verdict v;
			policy_eval(p, &q[order[n * BATCH + i]], &v);
			allowed += v.allow;
		}
		took[n] = (now_s() - start) * 1e9 / BATCH;
	}
	qsort(took, n, sizeof(*took), by_value);
	printf("%s-p50 %.1f\n%s-p99 %.1f\n", name, took[n / 2], name, took[n * 99 / 100]);
	fprintf(stderr, "# %s: %u of %u allowed\n", name, allowed, n * BATCH);
	free(order);
}

int main(int argc, char **argv)
{
	struct bench b = {.shape = _SHAPES};
	for (int i = 0; argc == 3 && i < _SHAPES; i++)
		if (!strcmp(argv[1], shape_names[i]))
			b.shape = (enum shape)i;
	b.n = argc == 3 ? (uint32_t)strtoul(argv[2], NULL, 10) : 0;
	if (b.shape == _SHAPES || !b.n || b.n > POLICY_RULES_MAX) {
		fprintf(stderr, "usage: helper-policy pairs|mixed|flood|worst RULES\n");
		return 2;
	}
	b.programs = b.n / 10 > 256 ? b.n / 10 : 256;
	if (b.shape == FLOOD) {
		b.programs = FLOOD_NAMES;
		b.flood = flood_names();
	}
	size_t len, image_len;
	char *text = make_text(&b, &len);
	struct policy_compile_options o = {.source = "bench"};
	struct policy_diagnostics d;
	void *image;
	double start = now_s();
	if (policy_compile(text, len, &o, &d, &image, &image_len) < 0) {
		fputs(policy_diagnostics_format(&d, "bench", text, len), stderr);
		return 1;
	}
	printf("compile %.6f\n", now_s() - start);
	free(text);
	struct error e = ERROR_INIT;
	struct policy *p;
	size_t before = mallinfo2().uordblks + mallinfo2().hblkhd;
	start = now_s();
	if (policy_image_open(image, image_len, &p, &e) < 0) {
		fprintf(stderr, "%s\n", e.text);
		return 1;
	}
	printf("open %.6f\n", now_s() - start);
	size_t index = mallinfo2().uordblks + mallinfo2().hblkhd - before;
	printf("bytes %.1f\n", (double)(image_len + index) / b.n);
	struct policy_question *q = make_questions(&b, p);
	ask(p, q, 0, "repeat");
	ask(p, q, QUESTIONS - 1, "any");
	return 0;
}
