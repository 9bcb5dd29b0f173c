/*
 * Any bytes as a policy's text: either errors that can be shown, or an image that opens, is shown
 * as text that compiles again, and answers questions.
 */
#include <stdlib.h>
#include <string.h>

#include "policy/compile.h"
#include "policy/policy.h"

static int uid_of(const char *user, uint32_t *ret)
{
	*ret = (uint32_t)strlen(user);
	return user[0] == 'z' ? -1 : 0;
}

static const struct policy_compile_options options = {.source = "fuzz", .uid_of = uid_of};

static void reread(const struct policy *p)
{
	static char all[1 << 20];
	size_t used = 0, len = 0;
	for (uint32_t i = 0; i <= policy_rules(p); i++) {
		char *text = NULL;
		if (policy_format(p, i ? i - 1 : POLICY_RULE_NONE, &text) < 0)
			abort();
		size_t n = strlen(text);
		if (n > sizeof(all) - used) {
			free(text);
			return;
		}
		memcpy(all + used, text, n);
		used += n;
		free(text);
	}
	struct policy_diagnostics d;
	void *image = NULL;
	if (policy_compile(all, used, &options, &d, &image, &len) < 0)
		abort();
	policy_diagnostics_deinit(&d);
	free(image);
}

/* libfyaml keeps a few bytes after some malformed texts: our own leaks are still reported. */
const char *__lsan_default_suppressions(void);
const char *__lsan_default_suppressions(void)
{
	return "leak:libfyaml";
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct policy_diagnostics d;
	struct error e = ERROR_INIT;
	void *image = NULL;
	size_t len = 0;
	int r = policy_compile((const char *)data, size, &options, &d, &image, &len);
	char *text = policy_diagnostics_format(&d, "fuzz", (const char *)data, size);
	if (!text || (r == 0) != (d.n_errors == 0))
		abort();
	free(text);
	policy_diagnostics_deinit(&d);
	if (r < 0)
		return 0;
	struct policy *p = NULL;
	if (policy_image_open(image, len, &p, &e) < 0)
		abort();
	reread(p);
	policy_close(p);
	free(image);
	return 0;
}
