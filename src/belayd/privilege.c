/*
 * What a child becomes between fork and exec. Private instance: nothing changes but that nothing
 * can be gained. Host instance: a uid of the role's own, no groups, exactly the capabilities of
 * privilege.def (ambient, so that they pass the exec), and no others in the bounding set.
 */
#include <cap-ng.h>
#include <errno.h>
#include <grp.h>
#include <linux/securebits.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/log.h"
#include "belayd/belayd.h"

#define CAP_ALL_SETS (CAPNG_EFFECTIVE | CAPNG_PERMITTED | CAPNG_INHERITABLE | CAPNG_BOUNDING_SET)

static const struct {
	enum role role;
	unsigned cap;
} privileges[] = {
#define PRIVILEGE(role, cap, reason) {ROLE_##role, CAP_##cap},
#include "belayd/privilege.def"
#undef PRIVILEGE
};

uid_t privilege_uid(const struct belayd *b, enum role role)
{
	return b->host ? b->uid_base + (uid_t)role : getuid();
}

/* Root of a container may lack some: the role then starts without, and `belay doctor` tells. */
static bool have(unsigned cap)
{
	return capng_have_capability(CAPNG_PERMITTED, cap) &&
	       prctl(PR_CAPBSET_READ, cap, 0, 0, 0) == 1;
}

int privilege_drop(const struct belayd *b, enum role role)
{
	if (!b->host)
		return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
	bool wants[CAP_LAST_CAP + 1] = {false};
	capng_get_caps_process();
	for (size_t i = 0; i < ARRAY_LEN(privileges); i++)
		if (privileges[i].role == role && have(privileges[i].cap))
			wants[privileges[i].cap] = true;
	capng_clear(CAPNG_SELECT_ALL);
	for (unsigned cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (wants[cap])
			capng_update(CAPNG_ADD, CAP_ALL_SETS, cap);
	/*
	 * Who takes on a caller's effective id for the time of a Unix connect must come back from
	 * it with all it had, also when the caller is root.
	 */
	if (wants[CAP_SETUID] && prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0)
		return -errno;
	int uid = (int)privilege_uid(b, role);
	if (capng_change_id(uid, uid, CAPNG_DROP_SUPP_GRP | CAPNG_CLEAR_BOUNDING) < 0)
		return -EPERM;
	for (unsigned cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (wants[cap] && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
			return -errno;
	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ? -errno : 0;
}
