/* Nanoseconds a seal and an open take, for each provider and size, context reused. Not a test:
 * prints a table. */
#include <stdio.h>
#include <string.h>

#include "base/clock.h"
#include "crypto/aead.h"
#include "crypto/random.h"

#define ROUND_NS 200000000u

static uint8_t buf[65536];

static double measure(struct aead *a, size_t n, bool opening)
{
	uint8_t nonce[AEAD_NONCE_LEN] = {0}, aad[24] = {0}, tag[AEAD_TAG_LEN];
	uint64_t start = clock_ns(CLOCK_MONOTONIC), now = start, count = 0;
	static uint8_t text[sizeof(buf)], sealed[sizeof(buf)];
	int bad = aead_seal(a, nonce, aad, sizeof(aad), text, n, sealed, tag);
	for (; now - start < ROUND_NS; now = clock_ns(CLOCK_MONOTONIC)) {
		for (int i = 0; i < 64; i++, count++) {
			if (opening) {
				bad |= aead_open(a, nonce, aad, sizeof(aad), sealed, n, tag, buf);
			} else {
				memcpy(nonce, &count, sizeof(count));
				bad |= aead_seal(a, nonce, aad, sizeof(aad), text, n, buf, tag);
			}
		}
	}
	return bad ? -1 : (double)(now - start) / (double)count;
}

int main(void)
{
	static const size_t sizes[] = {64, 1024, 16384};
	struct secret key;
	random_secret(&key);
	printf("%-16s %8s %10s %10s\n", "provider", "bytes", "seal ns", "open ns");
	for (int p = AEAD_IPSEC_MB; p < _AEAD_N; p++) {
		_cleanup_aead_ struct aead *a = NULL;
		if (aead_new((enum aead_provider)p, &key, &a) < 0)
			continue;
		for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
			printf("%-16s %8zu %10.0f %10.0f\n",
				aead_provider_name((enum aead_provider)p), sizes[i],
				measure(a, sizes[i], false), measure(a, sizes[i], true));
	}
	return 0;
}
