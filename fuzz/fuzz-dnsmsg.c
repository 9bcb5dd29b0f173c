/* A program's DNS query, and an answer to it: the first two bytes say how long the query is. */
#include <stdlib.h>

#include "fabric/dnsmsg.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 2)
		return 0;
	size_t n = (size_t)(data[0] << 8 | data[1]);
	const uint8_t *rest = data + 2;
	struct dns_query q, again;
	uint8_t buf[DNS_BUILD_MAX];
	size -= 2;
	n = n < size ? n : size;
	int code = dns_query_parse(rest, n, &q);
	if (code < 0)
		return 0;
	size_t len = dns_refusal_build(&q, DNS_SERVFAIL, true, buf);
	if (len > sizeof(buf))
		abort();
	/* What goes out parses to the same question, and its own echo answers it. */
	len = dns_query_build(&q, q.id, buf);
	if (code == DNS_OK && dns_query_parse(buf, len, &again) != DNS_OK)
		abort();
	buf[2] |= 0x80;
	if (code == DNS_OK && !dns_answer_matches(buf, len, &q, q.id))
		abort();
	(void)dns_answer_matches(rest + n, size - n, &q, q.id);
	return 0;
}
