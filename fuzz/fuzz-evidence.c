/* The evidence message, as another node's guard may send it: convert, convert back, write as JSON.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "identity/evidence.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct evidence e, again;
	static struct evidence_msg msg;
	static char json[EVIDENCE_JSON_MAX];
	size_t len;
	Belay__Evidence *m = belay__evidence__unpack(NULL, size, data);
	if (!m)
		return 0;
	if (evidence_from_msg(m, &e) == 0) {
		evidence_to_msg(&e, &msg);
		if (evidence_from_msg(&msg.msg, &again) < 0 || memcmp(&e, &again, sizeof(e)) != 0)
			abort();
		if (evidence_json(&e, json, sizeof(json), &len) < 0)
			abort();
	}
	belay__evidence__free_unpacked(m, NULL);
	return 0;
}
