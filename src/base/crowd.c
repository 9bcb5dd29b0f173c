/* Who gives way (crowd.h). Input: addresses the kernel tells. Runs only when all places are taken.
 */
#include "base/crowd.h"

#include <string.h>

bool crowd_same_source(const struct addr *a, const struct addr *b)
{
	size_t n = a->ip_len == 16 ? 8 : a->ip_len;
	return a->ip_len == b->ip_len && memcmp(a->ip, b->ip, n) == 0;
}

static size_t of_source(const struct addr *waiting, size_t n, const struct addr *source)
{
	size_t same = 0;
	for (size_t i = 0; i < n; i++)
		same += crowd_same_source(&waiting[i], source);
	return same;
}

size_t crowd_gives_way(const struct addr *waiting, size_t n, const struct addr *newcomer)
{
	size_t who = n, most = of_source(waiting, n, newcomer);
	for (size_t i = 0; i < n; i++) {
		size_t same = of_source(waiting, n, &waiting[i]);
		if (same < most || (same == most && who == n))
			continue;
		who = i; /* of the largest the last, which is the oldest */
		most = same;
	}
	return who;
}
