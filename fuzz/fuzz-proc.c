/* stat, status, fdinfo, the auxiliary vector and "#!" lines of a process: the first byte says
 * which. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "attest/parse.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proc_stat st;
	struct proc_status status;
	uint32_t pid;
	uint64_t at;
	struct shebang bang;
	if (!size)
		return 0;
	const char *text = (const char *)data + 1;
	size--;
	switch (data[0] % 5) {
	case 0:
		if (parse_stat(text, size, &st) == 0 && strlen(st.comm) >= sizeof(st.comm))
			abort();
		break;
	case 1:
		(void)!parse_status(text, size, &status);
		break;
	case 2:
		(void)!parse_fdinfo_pid(text, size, &pid);
		break;
	case 3:
		(void)!parse_auxv_execfn(text, size, &at);
		break;
	default:
		if (parse_shebang(text, size, &bang) == 0 &&
			(bang.interpreter[0] != '/' || bang.words[0] == '-'))
			abort();
	}
	return 0;
}
