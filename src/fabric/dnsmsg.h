/* DNS messages as bytes: what the relay reads of a program's query and of a resolver's answer.
 * Pure. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define DNS_HEADER 12
#define DNS_NAME_MAX 255
#define DNS_QUERY_MAX 512 /* a program's query; larger ones are refused */
#define DNS_PLAIN_MAX 512 /* an answer over UDP to who said nothing about sizes */
#define DNS_EDNS_MAX 1232 /* the most we take or give over UDP: never fragmented */
#define DNS_BUILD_MAX (DNS_HEADER + DNS_NAME_MAX + 4 + 11)

enum dns_rcode {
	DNS_OK = 0,
	DNS_FORMERR = 1,
	DNS_SERVFAIL = 2,
	DNS_NOTIMP = 4,
	DNS_REFUSED = 5,
};

struct dns_query {
	uint16_t id;
	uint16_t flags; /* only RD, AD and CD */
	uint16_t type;  /* A or AAAA */
	uint8_t name[DNS_NAME_MAX];
	size_t name_len; /* 0: the question could not be read */
	bool edns;
	bool dnssec_ok;
	uint16_t size_max; /* of an answer over UDP */
};

/* DNS_OK: to be asked. Other codes: to be answered so. Negative: not a query at all, no answer. */
int dns_query_parse(const uint8_t *buf, size_t len, struct dns_query *ret);
/* The query as we ask it, made anew: nothing of the program's bytes but the name goes out. */
size_t dns_query_build(const struct dns_query *q, uint16_t id, uint8_t buf[DNS_BUILD_MAX]);
/* An answer without records. truncated: "ask over TCP". */
size_t dns_refusal_build(
	const struct dns_query *q, enum dns_rcode code, bool truncated, uint8_t buf[DNS_BUILD_MAX]);
/* Whether this answers the query built with `id`. */
bool dns_answer_matches(const uint8_t *buf, size_t len, const struct dns_query *q, uint16_t id);
/* Gives a matching answer the id its asker used. */
void dns_answer_set_id(uint8_t *buf, uint16_t id);
