/* Any bytes as a policy image, the checksum mended so that it is not what stops them: refused, or
 * safe to use. */
#include <stdlib.h>
#include <string.h>

#include "policy/image.h"

static void ask(const struct policy *p, enum policy_op op, const char *address, bool plain)
{
	struct policy_ask a = {.op = op, .from = "alpha/shell", .address = address, .plain = plain};
	struct policy_explanation x;
	struct error e = ERROR_INIT;
	char where[ADDR_TEXT_MAX];
	if (policy_ask(p, &a, &x, where, &e) < 0)
		abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct policy *p = NULL;
	struct error e = ERROR_INIT;
	uint8_t *copy = malloc(size ? size : 1);
	memcpy(copy, data, size);
	if (size >= sizeof(struct image_header) && size % 8 == 0)
		((struct image_header *)(void *)copy)->checksum = image_checksum(copy, size);
	if (policy_image_open(copy, size, &p, &e) == 0) {
		for (int op = POLICY_OP_RUN; op <= POLICY_OP_PUBLISH; op++) {
			ask(p, (enum policy_op)op, NULL, false);
			ask(p, (enum policy_op)op, "127.0.0.1:6379", op == POLICY_OP_CONNECT);
			ask(p, (enum policy_op)op, "[fd00::1]:80", false);
		}
		for (uint32_t i = 0; i <= policy_rules(p) && i < 100; i++) {
			char *text = NULL;
			if (policy_format(p, i ? i - 1 : POLICY_RULE_NONE, &text) < 0)
				abort();
			free(text);
		}
		policy_close(p);
	}
	free(copy);
	return 0;
}
