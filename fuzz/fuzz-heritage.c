/* Any text as a component's heritage: what is accepted keeps the rules and reads the same when
 * written again. */
#include <stdlib.h>
#include <string.h>

#include "ipc/heritage.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *text = malloc(size + 1), *again = NULL;
	struct heritage h, back;
	memcpy(text, data, size);
	text[size] = '\0';
	if (heritage_parse(text, &h, NULL) == 0) {
		if (heritage_format(&h, &again) < 0 || heritage_parse(again, &back, NULL) < 0)
			abort();
		if (h.n_kept != back.n_kept || strcmp(h.dir, back.dir) ||
			strlen(again) > strlen(text))
			abort();
		for (size_t i = 0; i < h.n_kept; i++)
			if (!heritage_name_valid(h.kept[i].name) || h.kept[i].fd < 3)
				abort();
		heritage_clear(&back);
		heritage_clear(&h);
	}
	free(again);
	free(text);
	return 0;
}
