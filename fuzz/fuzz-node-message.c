/* Any bytes as a message of another node: the lenient unpacker with its memory cap. */
#include "ipc/ipc.h"
#include "node.pb-c.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	ipc_free(ipc_unpack_lenient(&belay__node_message__descriptor, data, size));
	return 0;
}
