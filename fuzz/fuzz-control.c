/* Any bytes as a request on the control socket: what passes the checks has the shape its handler
 * relies on. */
#include <stdlib.h>

#include "control.pb-c.h"
#include "guard/control.h"
#include "ipc/ipc.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	if (size < 1)
		return 0;
	size_t n_fds = data[0] % 4;
	Belay__ControlRequest *m =
		ipc_unpack(&belay__control_request__descriptor, data + 1, size - 1);
	if (m && control_check(m, n_fds) == 0) {
		if (m->body_case == BELAY__CONTROL_REQUEST__BODY_ENROLL && (!m->enroll || !n_fds))
			abort();
		if (m->body_case == BELAY__CONTROL_REQUEST__BODY_POLICY_LOAD && n_fds != 1)
			abort();
		if (n_fds > CONTROL_FDS_MAX)
			abort();
	}
	ipc_free(m);
	return 0;
}
