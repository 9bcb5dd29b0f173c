/*
 * Errors for the person who wrote the policy: kept while compiling, shown with the line, a caret
 * and a hint. What is shown comes from the text: control characters in it are not sent to the
 * terminal.
 */
#include "policy/compile-source.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static void add(struct compiler *c, bool warning, const struct place *at, const char *hint,
	const char *fmt, va_list ap)
{
	struct policy_diagnostics *d = c->d;
	if (warning)
		d->n_warnings++;
	else
		d->n_errors++;
	if (d->n == POLICY_DIAGNOSTICS_MAX)
		return;
	if (!d->list)
		d->list = calloc(POLICY_DIAGNOSTICS_MAX, sizeof(*d->list));
	if (!d->list) {
		c->no_memory = true;
		return;
	}
	struct policy_diagnostic *x = &d->list[d->n++];
	x->warning = warning;
	x->line = at->line;
	x->column = at->column;
	x->length = at->length ? at->length : 1;
	vsnprintf(x->text, sizeof(x->text), fmt, ap);
	snprintf(x->hint, sizeof(x->hint), "%s", hint);
}

void complain(struct compiler *c, const struct place *at, const char *hint, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add(c, false, at, hint, fmt, ap);
	va_end(ap);
}

void warn(struct compiler *c, const struct place *at, const char *hint, const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	add(c, true, at, hint, fmt, ap);
	va_end(ap);
}

static int by_place(const void *va, const void *vb)
{
	const struct policy_diagnostic *a = va, *b = vb;
	if (a->line != b->line)
		return a->line < b->line ? -1 : 1;
	if (a->column != b->column)
		return a->column < b->column ? -1 : 1;
	return strcmp(a->text, b->text);
}

void diagnostics_sort(struct policy_diagnostics *d)
{
	if (d->n)
		qsort(d->list, d->n, sizeof(*d->list), by_place);
}

void policy_diagnostics_deinit(struct policy_diagnostics *d)
{
	free(d->list);
	*d = (struct policy_diagnostics){0};
}

#define WORD_MAX 32

static int distance(const char *a, const char *b)
{
	int la = (int)strnlen(a, WORD_MAX + 1), lb = (int)strnlen(b, WORD_MAX + 1);
	int row[WORD_MAX + 1];
	if (la > WORD_MAX || lb > WORD_MAX)
		return WORD_MAX;
	for (int j = 0; j <= lb; j++)
		row[j] = j;
	for (int i = 1; i <= la; i++) {
		int diagonal = row[0];
		row[0] = i;
		for (int j = 1; j <= lb; j++) {
			int change = diagonal + (a[i - 1] != b[j - 1]);
			diagonal = row[j];
			int best = row[j] + 1 < row[j - 1] + 1 ? row[j] + 1 : row[j - 1] + 1;
			row[j] = best < change ? best : change;
		}
	}
	return row[lb];
}

int nearest(const char *word, const char *const *words, int n)
{
	int best = -1, best_distance = 3;
	for (int i = 0; i < n; i++) {
		int d = distance(word, words[i]);
		if (d < best_distance && d < (int)strlen(words[i])) {
			best = i;
			best_distance = d;
		}
	}
	return best;
}

static char printable(char ch)
{
	unsigned char u = (unsigned char)ch;
	return u < 0x20 || u == 0x7f ? '?' : ch;
}

/* The line with what the caret points at; the caret line repeats tabs so that it lines up. */
static void print_line(FILE *f, const char *text, size_t len, const struct policy_diagnostic *x)
{
	const char *p = text, *end = text + len;
	for (uint32_t line = 1; line < x->line && p < end; line++) {
		const char *nl = memchr(p, '\n', (size_t)(end - p));
		p = nl ? nl + 1 : end;
	}
	const char *stop = memchr(p, '\n', (size_t)(end - p));
	size_t n = (size_t)((stop ? stop : end) - p);
	if (n && p[n - 1] == '\r')
		n--;
	if (n > 160)
		n = 160;
	fputs("  ", f);
	for (size_t i = 0; i < n; i++)
		fputc(p[i] == '\t' ? '\t' : printable(p[i]), f);
	fputs("\n  ", f);
	/* Columns count characters: UTF-8 continuation bytes take no place. */
	uint32_t column = 1;
	for (size_t i = 0; i < n && column < x->column; i++) {
		if (((unsigned char)p[i] & 0xc0) == 0x80)
			continue;
		fputc(p[i] == '\t' ? '\t' : ' ', f);
		column++;
	}
	fputc('^', f);
	for (uint32_t i = 1; i < x->length && x->column + i <= n; i++)
		fputc('~', f);
	fputc('\n', f);
}

char *policy_diagnostics_format(
	const struct policy_diagnostics *d, const char *source, const char *text, size_t len)
{
	char *out = NULL;
	size_t out_len = 0;
	FILE *f = open_memstream(&out, &out_len);
	if (!f)
		return NULL;
	for (size_t i = 0; i < d->n; i++) {
		const struct policy_diagnostic *x = &d->list[i];
		fprintf(f, "%s:%u:%u: %s: ", source, x->line, x->column,
			x->warning ? "warning" : "error");
		for (const char *t = x->text; *t; t++)
			fputc(printable(*t), f);
		fputc('\n', f);
		print_line(f, text, len, x);
		if (x->hint[0])
			fprintf(f, "  hint: %s\n", x->hint);
	}
	if (d->n_errors + d->n_warnings > d->n)
		fprintf(f, "%s: %zu more\n", source, d->n_errors + d->n_warnings - d->n);
	if (fclose(f)) {
		free(out);
		return NULL;
	}
	return out;
}
