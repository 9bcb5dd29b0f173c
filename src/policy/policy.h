/*
 * Deciding by policy: a compiled image and a question give a verdict (docs/policy.md has the
 * semantics).
 *
 * The image comes from outside (the command line compiled it, a memfd or the disk carried it) and
 * is trusted for nothing: policy_image_open() checks every offset, count, reference and order once;
 * after that policy_eval() may index without checks. The guard links this half only; YAML is read
 * in compile*.c, by the command line.
 *
 * Cost: policy_eval() is pure: no allocation, no system call, no copy of the question; a few hash
 * probes, then the rules that share programs, port and address with the question. policy_explain()
 * walks every rule.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/addr.h"
#include "base/cleanup.h"
#include "base/error.h"

#define POLICY_IMAGE_MAX (256u * 1024 * 1024)
#define POLICY_RULES_MAX 1000000u
#define POLICY_NAME_MAX 64         /* program, group, user, node and rule names, with NUL */
#define POLICY_PARTY_NAMES_MAX 16u /* programs, and groups, one process may match */
#define POLICY_ROLES_MAX 256u
#define POLICY_LABELS_MAX 1024u /* places of all labels together */
#define POLICY_RULE_NONE UINT32_MAX

struct policy;

/* Numbers as in proto/common.proto. */
enum policy_op {
	POLICY_OP_NONE = 0,
	POLICY_OP_RUN = 1,
	POLICY_OP_CONNECT = 2,
	POLICY_OP_BIND = 3,
	POLICY_OP_PUBLISH = 4,
	POLICY_OP_ACCEPT = 6, /* what a connect is to the program at the other end */
};
enum policy_transport { POLICY_TCP = 0, POLICY_UDP = 1, POLICY_UNIX = 2 };
enum policy_protection { POLICY_ISOLATE = 0, POLICY_ENCRYPT = 1, POLICY_PLAIN = 2 };

/*
 * One end. Names are ids of policy_intern(), 0 for a name no rule mentions; so a party is good for
 * one policy only. Zeroed is an unidentified process of uid 0 on an unknown node: set self and uid.
 */
struct policy_party {
	uint32_t programs[POLICY_PARTY_NAMES_MAX]; /* what the process was identified as */
	uint32_t groups[POLICY_PARTY_NAMES_MAX]; /* groups given at enrolment, not the policy's own
						  */
	uint32_t n_programs, n_groups;
	uint32_t uid;                 /* on its node */
	uint32_t user;                /* its user's name; needed for parties of other nodes only */
	uint32_t node;                /* its node's name; 0 when this instance has no node name */
	uint32_t unit, unit_template; /* its service unit, "a@b.service" and "a@.service" */
	bool self;                    /* it is on this node */
	bool enrolled;                /* the registry knows it and it is not revoked */
};

enum policy_half {
	POLICY_PAIR,   /* both ends are known, or the operation has one end only */
	POLICY_CALLER, /* connect before the other program is known: could any rule allow it? Only
			  to.self and to.node are read of `to` */
};

struct policy_question {
	enum policy_op op;
	enum policy_half half;
	enum policy_transport transport;
	bool plain;          /* connect to a destination outside Belay: `to` is not read */
	bool unix_peer;      /* POLICY_UNIX: `to` says who listens there; else nobody knows */
	struct addr address; /* connect: destination; bind, publish: the program's own. Port 0 in a
				bind: the kernel chooses */
	const char *unix_path; /* POLICY_UNIX: as resolved, absolute. In a bind: a named pipe's */
	int64_t now_s;         /* seconds since 1970, UTC: for rules with times */
	struct policy_party from; /* run: the new image; accept: the listener */
	struct policy_party to;   /* accept: who connects */
};

enum policy_reason {
	POLICY_ALLOWED_RULE, /* verdict.rule */
	POLICY_ALLOWED_RUN,  /* run without a rule: contained, and everything else is still refused
			      */
	POLICY_ALLOWED_ACCEPT,      /* accept without a rule: the connect was judged */
	POLICY_ALLOWED_PERMISSIVE,  /* it would be refused, by verdict.rule if that is one */
	POLICY_DENIED_RULE,         /* verdict.rule */
	POLICY_DENIED_NO_RULE,      /* nothing allows it */
	POLICY_DENIED_NOT_ENROLLED, /* `run: enrolled` */
	POLICY_DENIED_NO_POLICY,    /* no policy is loaded */
	POLICY_DENIED_QUESTION,     /* not a question: unknown operation, missing address or path */
};

struct policy_verdict {
	bool allow;
	bool plain; /* protection is POLICY_PLAIN */
	/* Allowed only because a rule or program is permissive; or a permissive rule would have
	 * denied what others allow. To be logged, with permissive_rule (POLICY_RULE_NONE: no rule
	 * allows it). */
	bool permissive;
	uint32_t permissive_rule;
	enum policy_reason reason;
	uint32_t rule;                     /* the deciding rule, or POLICY_RULE_NONE */
	const char *rule_name;             /* in the image, or "" */
	uint32_t line;                     /* in the source, or 0 */
	enum policy_protection protection; /* the strictest of all rules that allow */
	uint64_t idle_ms;                  /* the shortest; 0: none */
	uint32_t connections;              /* simultaneous, the smallest; 0: no limit */
	uint32_t limit_rule;   /* whose limit that is (count by this rule), or POLICY_RULE_NONE */
	uint32_t rate, rate_s; /* new ones in so many seconds, the slowest; 0: no limit */
	uint32_t rate_rule;
};

/*
 * Checks an image and opens a view on it; the image must stay mapped and unchanged (a sealed memfd)
 * until policy_close(). -EINVAL or -EPROTONOSUPPORT with a reason in e. Linear in len.
 */
int policy_image_open(
	const void *image, size_t len, struct policy **ret, struct error *e) _must_check_;
void policy_close(struct policy *p); /* NULL is fine */

/* The id of a name in this policy, 0 if no rule mentions it. p may be NULL. */
uint32_t policy_intern(const struct policy *p, const char *name);
/* Appends a name; -E2BIG when the party is full (then it must not be judged: refuse). */
int policy_party_program(
	const struct policy *p, struct policy_party *party, const char *name) _must_check_;
int policy_party_group(
	const struct policy *p, struct policy_party *party, const char *name) _must_check_;

/* The unit a process runs in; "" for none. */
void policy_party_unit(const struct policy *p, struct policy_party *party, const char *unit);

/* Fills v completely; v->allow is the answer. p may be NULL: no policy is loaded. */
void policy_eval(const struct policy *p, const struct policy_question *q, struct policy_verdict *v);

/* What would have to differ for the nearest allowing rule, as a set. */
enum policy_differs {
	POLICY_DIFFERS_FROM_PROGRAM = 1 << 0,
	POLICY_DIFFERS_FROM_USER = 1 << 1,
	POLICY_DIFFERS_FROM_NODE = 1 << 2,
	POLICY_DIFFERS_FROM_ROLE = 1 << 3,
	POLICY_DIFFERS_FROM_UNIT = 1 << 4,
	POLICY_DIFFERS_TO_PROGRAM = 1 << 5, /* those of `to` are those of `from`, shifted */
	POLICY_DIFFERS_TO_USER = 1 << 6,
	POLICY_DIFFERS_TO_NODE = 1 << 7,
	POLICY_DIFFERS_TO_ROLE = 1 << 8,
	POLICY_DIFFERS_TO_UNIT = 1 << 9,
	POLICY_DIFFERS_ADDRESS = 1 << 10,
	POLICY_DIFFERS_PORT = 1 << 11,
	POLICY_DIFFERS_TRANSPORT = 1 << 12,
	POLICY_DIFFERS_PATH = 1 << 13,
	POLICY_DIFFERS_PLAIN = 1 << 14,
	POLICY_DIFFERS_TIME = 1 << 15,
	POLICY_DIFFERS_LABEL = 1 << 16,
};
#define POLICY_DIFFERS_TO_SHIFT 5
#define POLICY_DIFFERS_PARTY 31u

struct policy_explanation {
	struct policy_verdict verdict;
	uint32_t nearest; /* refused: the allowing rule that comes nearest, or POLICY_RULE_NONE */
	unsigned differs; /* enum policy_differs */
	char text[256];   /* one line: verdict and deciding rule as "FILE:LINE" */
	char advice[512]; /* refused: what would have to differ, or what to write */
};

/* The same verdict with its reasons, for `explain` and `why`. Walks all rules: not for the hot
 * path. */
void policy_explain(
	const struct policy *p, const struct policy_question *q, struct policy_explanation *ret);

/*
 * For a question without address or path: each rule that would allow the two is asked about its own
 * first address and port. Gives the first that is allowed, or the nearest miss, and where that is.
 */
void policy_explain_anywhere(const struct policy *p, const struct policy_question *q,
	struct policy_explanation *ret, char ret_address[ADDR_TEXT_MAX]);

/* The word of the language, or NULL; and back, POLICY_OP_NONE when it is none. */
const char *policy_op_name(enum policy_op op);
enum policy_op policy_op_parse(const char *text);

/* A question as a person asks it: `belay policy explain`, of a file or of the loaded policy. */
struct policy_ask {
	enum policy_op op;
	const char
		*from; /* "NAME" or "NODE/NAME": taken to be enrolled. NULL or "": not identified */
	const char *to;      /* likewise; NULL or "": could it connect at all? */
	const char *address; /* "A:P" or a socket's path. NULL or "": is there any where it may? */
	const char *user;    /* of `from`, for people of other nodes; else uid counts */
	uint32_t uid;
	const char *group;                        /* given at enrolment of `from`, or NULL */
	const char *unit;                         /* of `from`, or NULL */
	int64_t now_s;                            /* seconds since 1970, UTC */
	const char *to_user, *to_group, *to_unit; /* of `to`, as above */
	uint32_t to_uid;
	bool plain, udp;
};
/* The evaluator's question; strings of ask stay in use. -EINVAL with e when it is none. */
int policy_ask_question(const struct policy *p, const struct policy_ask *ask,
	struct policy_question *ret, struct error *e) _must_check_;
/* -EINVAL with e when it is no question. ret_address: which address the answer is about. */
int policy_ask(const struct policy *p, const struct policy_ask *ask, struct policy_explanation *ret,
	char ret_address[ADDR_TEXT_MAX], struct error *e) _must_check_;

/* The second at which clocks in the policy's time zone show local_s (counted as if it were UTC). */
int64_t policy_from_local(const struct policy *p, int64_t local_s);
/*
 * When verdicts may change by time alone: the first second after now_s at which a rule's times
 * begin or end, or 0 when no rule has any. Then what is open is to be judged again.
 */
int64_t policy_next_change(const struct policy *p, int64_t now_s);

/* What the image says of itself. */
uint32_t policy_rules(const struct policy *p);
bool policy_dns(const struct policy *p);           /* false when p is NULL */
const char *policy_source(const struct policy *p); /* file name as compiled */
const char *policy_rule_name(const struct policy *p, uint32_t rule);
uint32_t policy_rule_line(const struct policy *p, uint32_t rule);
/* The index of the rule of that name, or POLICY_RULE_NONE: to follow a rule across a reload. */
uint32_t policy_rule_find(const struct policy *p, const char *name);
/*
 * Rule `rule` as YAML, the way `belay policy show` prints it; rule == POLICY_RULE_NONE gives the
 * head (version, groups). Malloc'ed into *ret; the concatenation of head and all rules compiles to
 * the same policy.
 */
int policy_format(const struct policy *p, uint32_t rule, char **ret) _must_check_;

static inline void policy_closep(struct policy **p)
{
	policy_close(*p);
}
#define _cleanup_policy_ _cleanup_(policy_closep)
