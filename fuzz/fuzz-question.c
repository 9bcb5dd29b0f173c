/* Any bytes as a message of enforce: a question that passes its check has what its kind needs. */
#include <stdlib.h>

#include "enforce.pb-c.h"
#include "guard/job.h"
#include "ipc/ipc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	size_t n_fds = data[0] % 4;
	struct addr a;
	Belay__FromEnforce *m = ipc_unpack(&belay__from_enforce__descriptor, data + 1, size - 1);
	if (m && m->body_case == BELAY__FROM_ENFORCE__BODY_QUESTION &&
		question_check(m->question, n_fds, &a) == 0) {
		if (!m->question->pid || !m->question->tree || n_fds < 1 || n_fds > 2)
			abort();
		if (m->question->call == BELAY__QUESTION__CALL__CALL_CONNECT &&
			(n_fds != 2 || !a.ip_len))
			abort();
		if (a.ip_len != 0 && a.ip_len != 4 && a.ip_len != 16)
			abort();
	}
	ipc_free(m);
	return 0;
}
