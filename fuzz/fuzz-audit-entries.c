/* A bundle of entries as a file may hold it: framing, then each entry's schema. And a record of
 * hostile text, which must always come out as an entry of the schema. */
#include <stdlib.h>
#include <string.h>

#include "audit/store.h"
#include "audit/verify.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *entry;
	size_t off = 0, len;
	while (store_entry_next(data, size, &off, &entry, &len) > 0)
		(void)audit_record_check((const char *)entry, len);

	static char json[AUDIT_ENTRY_MAX];
	char text[600];
	size_t n = size < sizeof(text) - 1 ? size : sizeof(text) - 1;
	memcpy(text, data, n);
	text[n] = '\0';
	struct audit_record r = {
		.type = AUDIT_DECISION, .rule = text, .from = {.program = text, .pid = 1}};
	int k = audit_record_write(&r, json, sizeof(json));
	if (k < 0 || audit_record_check(json, (size_t)k) < 0)
		abort();
	return 0;
}
