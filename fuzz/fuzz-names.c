/*
 * Short texts people, certificates and messages name things with: an address with a port, a SPIFFE
 * ID. What is accepted and written again is accepted as the same.
 */
#include <stdlib.h>
#include <string.h>

#include "base/addr.h"
#include "identity/spiffe.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[SPIFFE_ID_SIZE + 64], again[SPIFFE_ID_SIZE], shown[ADDR_TEXT_MAX];
	struct addr a, b;
	struct spiffe_id id;
	if (size >= sizeof(text))
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (addr_parse(text, &a) == 0) {
		addr_format(&a, true, shown);
		if (addr_parse(shown, &b) < 0 || !addr_equal(&a, &b))
			abort();
	}
	if (spiffe_parse(text, &id) == 0 &&
		(spiffe_format(id.domain, id.node, id.program, again) < 0 || strcmp(text, again)))
		abort();
	return 0;
}
