/*
 * One entry of the audit log: filled as a struct, written as one line of JSON in a fixed order of
 * fields (docs/audit.md). What is NULL or 0 is left out. All text may come from an attacker: it is
 * cut at AUDIT_TEXT_MAX bytes and escaped so that an entry is always one line of valid JSON and
 * valid UTF-8.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"

#define AUDIT_ENTRY_MAX 32768 /* bytes of one entry; the format's own limit is 65535 */
#define AUDIT_TEXT_MAX 256    /* bytes of one text before escaping */

enum audit_type {
	AUDIT_NONE,
#define TYPE(id, name) AUDIT_##id,
#include "audit/types.def"
#undef TYPE
	_AUDIT_TYPE_N
};

enum audit_verdict { AUDIT_NO_VERDICT, AUDIT_ALLOW, AUDIT_DENY };

/* One end. */
struct audit_party {
	const char *program;   /* enrolled name */
	const char *path;      /* as the kernel showed it: for people */
	const uint8_t *sha256; /* 32 bytes */
	const char *user;
	uint32_t uid; /* written when pid is not 0 */
	uint32_t pid;
	const char *node;
	const struct addr *address; /* NULL or ip_len 0: left out */
	const char *unix_path;      /* the address of a Unix socket */
};

struct audit_record {
	uint64_t time_ms; /* wall clock; 0: now */
	enum audit_type type;
	enum audit_verdict verdict;
	const char *op;         /* run, connect, bind, publish */
	const char *transport;  /* tcp, udp, unix */
	const char *protection; /* isolate, encrypt, plain */
	const char *rule;       /* the deciding rule's name */
	bool permissive;        /* allowed only to be seen; reason says what would refuse it */
	const char *reason;     /* why it was refused, or ended */
	const uint8_t *channel; /* 16 bytes */
	struct audit_party from, to;
	const char *subject;   /* what it is about: component, program, policy source, node */
	const uint8_t *sha256; /* 32 bytes: of the policy, program or file in question */
	const char *by;        /* user who asked, of administration */
	bool has_bytes;
	uint64_t bytes_sent, bytes_received; /* seen from `from` */
	uint64_t count;                      /* rules, entries, restarts, whatever type says */
};

const char *audit_type_name(enum audit_type t);
/* AUDIT_NONE if there is no such type. */
enum audit_type audit_type_parse(const char *name);
/* Writes the JSON, no newline, NUL-terminated. Return: length, or -EMSGSIZE (cannot happen with
 * AUDIT_ENTRY_MAX room). */
int audit_record_write(const struct audit_record *r, char *buf, size_t size) _must_check_;
