/* Any text as a join token: what is accepted is exactly what would be written again. */
#include <stdlib.h>
#include <string.h>

#include "guard/token.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char text[512], again[TOKEN_TEXT_MAX];
	struct token t;
	if (size >= sizeof(text))
		return 0;
	memcpy(text, data, size);
	text[size] = '\0';
	if (token_parse(text, &t) < 0)
		return 0;
	token_format(&t, again);
	if (strcmp(text, again) != 0)
		abort();
	return 0;
}
