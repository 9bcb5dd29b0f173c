/*
 * YAML to small trees, by libfyaml's event interface. Only plain data passes: maps, lists, scalars.
 * Input: the text of a person, already bounded by POLICY_TEXT_MAX. A tree is dropped before the
 * next is made.
 */
#include "policy/compile-source.h"

#include <errno.h>
#include <libfyaml.h>
#include <string.h>

struct chunk {
	struct chunk *next;
	size_t used;
	char data[32768];
};

struct reader {
	struct compiler *c;
	yaml_entry_fn entry;
	const char *stream;
	yaml_item_fn item;
	struct fy_parser *parser;
	struct fy_diag *diag;
	struct chunk *chunks; /* the first stays for the next tree */
	uint32_t n_nodes;
	bool stop;
};

static void *arena_alloc(struct reader *r, size_t n)
{
	n = (n + 7) & ~(size_t)7;
	if (!r->chunks || sizeof(r->chunks->data) - r->chunks->used < n) {
		struct chunk *k = malloc(sizeof(*k));
		if (!k) {
			r->c->no_memory = r->stop = true;
			return NULL;
		}
		k->next = r->chunks;
		k->used = 0;
		r->chunks = k;
	}
	void *p = r->chunks->data + r->chunks->used;
	r->chunks->used += n;
	return p;
}

static void arena_reset(struct reader *r, bool all)
{
	while (r->chunks && (all || r->chunks->next)) {
		struct chunk *k = r->chunks;
		r->chunks = k->next;
		free(k);
	}
	if (r->chunks)
		r->chunks->used = 0;
	r->n_nodes = 0;
}

static struct place place_of(struct fy_event *ev)
{
	const struct fy_mark *m = fy_event_start_mark(ev);
	const struct fy_mark *e = fy_event_end_mark(ev);
	struct place p = {1, 1, 1};
	if (m) {
		p.line = (uint32_t)m->line + 1;
		p.column = (uint32_t)m->column + 1;
	}
	if (m && e && e->line == m->line && e->column > m->column && ev->type == FYET_SCALAR)
		p.length = (uint32_t)(e->column - m->column);
	return p;
}

/* The parser's own complaint, where it has one. */
static void complain_syntax(struct reader *r)
{
	void *prev = NULL;
	const struct fy_diag_error *err = fy_diag_errors_iterate(r->diag, &prev);
	struct place at = {1, 1, 1};
	if (err && err->line > 0)
		at.line = (uint32_t)err->line;
	if (err && err->column > 0)
		at.column = (uint32_t)err->column;
	complain(r->c, &at, "", "this is not YAML: %s",
		err && err->msg ? err->msg : "cannot be read");
	r->stop = true;
}

static struct fy_event *next_event(struct reader *r)
{
	if (r->stop)
		return NULL;
	struct fy_event *ev = fy_parser_parse(r->parser);
	if (!ev)
		complain_syntax(r);
	return ev;
}

static void refuse_extras(struct reader *r, struct fy_event *ev)
{
	struct place at = place_of(ev);
	if (ev->type == FYET_ALIAS) {
		complain(r->c, &at, "write it out, or define a group",
			"aliases are not allowed here");
		r->stop = true;
		return;
	}
	if (fy_event_get_anchor_token(ev))
		complain(r->c, &at, "write it out, or define a group",
			"anchors are not allowed here");
	if (fy_event_get_tag_token(ev))
		complain(r->c, &at, "leave it out", "tags are not allowed here");
}

static bool scalar_text(struct reader *r, struct fy_event *ev, struct yaml_node *n)
{
	size_t len = 0;
	const char *text = fy_token_get_text(ev->scalar.value, &len);
	enum fy_scalar_style style = fy_token_scalar_style(ev->scalar.value);
	n->quoted = style != FYSS_PLAIN;
	if (!text)
		len = 0, text = "";
	if (len > YAML_SCALAR_MAX || memchr(text, '\0', len)) {
		complain(r->c, &n->place, "", "this value is too long (at most %u bytes)",
			YAML_SCALAR_MAX);
		len = 0;
	}
	if (style == FYSS_LITERAL || style == FYSS_FOLDED)
		complain(r->c, &n->place, "write it on one line",
			"blocks of text are not allowed here");
	char *copy = arena_alloc(r, len + 1);
	if (!copy)
		return false;
	memcpy(copy, text, len);
	copy[len] = '\0';
	n->text = copy;
	return true;
}

static struct yaml_node *read_node(struct reader *r, struct fy_event *ev, unsigned depth);

static void read_children(struct reader *r, struct yaml_node *parent, unsigned depth)
{
	struct yaml_node **tail = &parent->first;
	while (!r->stop) {
		struct fy_event *ev = next_event(r);
		if (!ev)
			return;
		if (ev->type == FYET_SEQUENCE_END || ev->type == FYET_MAPPING_END) {
			fy_parser_event_free(r->parser, ev);
			return;
		}
		struct yaml_node *n = read_node(r, ev, depth);
		if (!n)
			return;
		if (parent->kind == YAML_MAP) {
			if (n->kind != YAML_SCALAR) {
				complain(r->c, &n->place, "", "a key must be a word");
				r->stop = true;
				return;
			}
			ev = next_event(r);
			n->value = ev ? read_node(r, ev, depth) : NULL;
			if (!n->value)
				return;
		}
		*tail = n;
		tail = &n->next;
	}
}

/* Takes ev. NULL: stopped. */
static struct yaml_node *read_node(struct reader *r, struct fy_event *ev, unsigned depth)
{
	struct yaml_node *n = arena_alloc(r, sizeof(*n));
	enum fy_event_type type = ev->type;
	if (n) {
		*n = (struct yaml_node){.place = place_of(ev), .text = ""};
		n->kind = type == FYET_MAPPING_START    ? YAML_MAP
			  : type == FYET_SEQUENCE_START ? YAML_LIST
							: YAML_SCALAR;
		refuse_extras(r, ev);
		if (type == FYET_SCALAR && !scalar_text(r, ev, n))
			n = NULL;
	}
	fy_parser_event_free(r->parser, ev);
	if (n && ++r->n_nodes > YAML_NODES_MAX) {
		complain(r->c, &n->place, "split it", "too much for one entry (at most %u values)",
			YAML_NODES_MAX);
		r->stop = true;
	}
	if (n && n->kind != YAML_SCALAR) {
		if (depth >= YAML_DEPTH_MAX) {
			complain(r->c, &n->place, "", "nested too deeply");
			r->stop = true;
		} else {
			read_children(r, n, depth + 1);
		}
	}
	return r->stop ? NULL : n;
}

static void read_items(struct reader *r)
{
	while (!r->stop) {
		struct fy_event *ev = next_event(r);
		if (!ev)
			return;
		if (ev->type == FYET_SEQUENCE_END) {
			fy_parser_event_free(r->parser, ev);
			return;
		}
		arena_reset(r, false);
		struct yaml_node *n = read_node(r, ev, 1);
		if (n)
			r->item(r->c, n);
	}
}

static void read_entry(struct reader *r, const struct yaml_node *key)
{
	struct fy_event *ev = next_event(r);
	if (!ev)
		return;
	if (ev->type == FYET_SEQUENCE_START && !strcmp(key->text, r->stream)) {
		refuse_extras(r, ev);
		fy_parser_event_free(r->parser, ev);
		r->entry(r->c, key, NULL);
		read_items(r);
		return;
	}
	struct yaml_node *value = read_node(r, ev, 1);
	if (value)
		r->entry(r->c, key, value);
}

static void read_document(struct reader *r)
{
	while (!r->stop) {
		struct fy_event *ev = next_event(r);
		if (!ev)
			return;
		if (ev->type == FYET_MAPPING_END) {
			fy_parser_event_free(r->parser, ev);
			return;
		}
		arena_reset(r, false);
		struct yaml_node *key = read_node(r, ev, 1);
		if (!key)
			return;
		if (key->kind != YAML_SCALAR) {
			complain(r->c, &key->place, "", "a key must be a word");
			r->stop = true;
			return;
		}
		read_entry(r, key);
	}
}

/* Stream start, document start, the map; after it nothing more. */
static void read_all(struct reader *r)
{
	bool seen = false;
	while (!r->stop) {
		struct fy_event *ev = next_event(r);
		if (!ev)
			return;
		enum fy_event_type type = ev->type;
		struct place at = place_of(ev);
		if (type == FYET_MAPPING_START && !seen)
			refuse_extras(r, ev);
		fy_parser_event_free(r->parser, ev);
		if (type == FYET_STREAM_END)
			return;
		if (type == FYET_MAPPING_START && !seen) {
			seen = true;
			read_document(r);
		} else if (seen && type == FYET_DOCUMENT_START) {
			complain(r->c, &at, "", "a policy is one document");
			return;
		} else if (type == FYET_SCALAR || type == FYET_SEQUENCE_START ||
			   type == FYET_ALIAS) {
			complain(r->c, &at, "begin with `version: 1`", "a policy is a map of keys");
			return;
		}
	}
}

/* Whatever YAML of any version takes for the end of a line, or for nothing at all (a byte order
 * mark). */
static bool begins_line(const char *text, size_t at)
{
	static const char *const ends[] = {
		"\n", "\r", "\xc2\x85", "\xe2\x80\xa8", "\xe2\x80\xa9", "\xef\xbb\xbf"};
	if (at == 0)
		return true;
	for (size_t i = 0; i < ARRAY_LEN(ends); i++) {
		size_t n = strlen(ends[i]);
		if (at >= n && !memcmp(text + at - n, ends[i], n))
			return true;
	}
	return false;
}

/* No policy needs a directive, and the parser does not always come back from a malformed one. */
static bool has_directive(struct compiler *c, const char *text, size_t len)
{
	struct place at = {1, 1, 1};
	for (size_t i = 0; i < len; i++) {
		if (text[i] == '%' && begins_line(text, i)) {
			complain(c, &at, "delete the line", "directives are not allowed here");
			return true;
		}
		at.line += text[i] == '\n';
	}
	return false;
}

int yaml_read(struct compiler *c, const char *text, size_t len, yaml_entry_fn entry,
	const char *stream, yaml_item_fn item)
{
	struct reader r = {.c = c, .entry = entry, .stream = stream, .item = item};
	struct fy_diag_cfg diag_cfg;
	if (has_directive(c, text, len))
		return 0;
	fy_diag_cfg_default(&diag_cfg);
	diag_cfg.fp = NULL;
	diag_cfg.colorize = false;
	r.diag = fy_diag_create(&diag_cfg);
	if (!r.diag)
		return -ENOMEM;
	fy_diag_set_collect_errors(r.diag, true);
	struct fy_parse_cfg cfg = {
		.flags = FYPCF_QUIET | FYPCF_DEFAULT_VERSION_1_2 | FYPCF_JSON_NONE, .diag = r.diag};
	r.parser = fy_parser_create(&cfg);
	if (!r.parser || fy_parser_set_string(r.parser, text, len))
		c->no_memory = true;
	else
		read_all(&r);
	if (r.parser)
		fy_parser_destroy(r.parser);
	fy_diag_destroy(r.diag);
	arena_reset(&r, true);
	return c->no_memory ? -ENOMEM : 0;
}
