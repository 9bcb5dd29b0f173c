/* Checkpoints, keys: the first byte chooses. What parses must format to the same bytes. */
#include <stdlib.h>
#include <string.h>

#include "audit/note.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct audit_checkpoint c;
	struct audit_key k;
	char text[AUDIT_NOTE_MAX];
	if (!size)
		return 0;
	const char *p = (const char *)data + 1;
	size--;
	if (data[0] & 1) {
		if (audit_key_parse(p, size, &k) == 0 &&
			(audit_key_format(&k, text) < 0 || memcmp(text, p, strlen(text)) != 0))
			abort();
	} else if (audit_note_parse(p, size, &c) == 0) {
		int n = audit_note_text(c.origin, c.size, c.root, text);
		if (n < 0 || (size_t)n != c.text_len || memcmp(text, p, c.text_len) != 0)
			abort();
	}
	return 0;
}
