/* The first bytes of a packet, as the packet filter tells of it: what passes has two whole names.
 */
#include <stdlib.h>

#include "fabric/asks.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct addr from, to;
	if (asks_parse(data, size, &from, &to) < 0)
		return 0;
	if (!from.port || !to.port || from.ip_len != to.ip_len ||
		(from.ip_len != 4 && from.ip_len != 16))
		abort();
	return 0;
}
