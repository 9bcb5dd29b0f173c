/* Any bytes as a record of the state table: it unpacks exactly or not at all. */
#include "guard/state.h"
#include "ipc/ipc.h"
#include "state.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size <= STATE_PAYLOAD_MAX)
		ipc_free(ipc_unpack(&belay__state_record__descriptor, data, size));
	return 0;
}
