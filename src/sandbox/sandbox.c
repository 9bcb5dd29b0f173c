/*
 * Entering (sandbox.h): from the outer wall to the inner one, because each may need what the next
 * takes away. Once in the life of a process.
 */
#include "sandbox/sandbox.h"

#include <cap-ng.h>
#include <errno.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "sandbox/profile.h"

static const struct profile profiles[] = {
#define PROFILE(role, files, threads, landlock, net, signals, reason) \
	[SANDBOX_##role] = {files, threads, landlock, signals, net},
#include "sandbox/profiles.def"
#undef PROFILE
};

static const struct {
	enum sandbox_profile profile;
	unsigned cap;
} capabilities[] = {
#define CAPABILITY(role, cap, reason) {SANDBOX_##role, CAP_##cap},
#include "sandbox/profiles.def"
#undef CAPABILITY
};

const struct profile *profile_get(enum sandbox_profile p)
{
	return &profiles[p];
}

static int limit(int what, rlim_t value)
{
	struct rlimit l;
	if (getrlimit((__rlimit_resource_t)what, &l) < 0)
		return -errno;
	if (l.rlim_max == RLIM_INFINITY || l.rlim_max > value)
		l.rlim_max = value;
	l.rlim_cur = l.rlim_max;
	return setrlimit((__rlimit_resource_t)what, &l) < 0 ? -errno : 0;
}

static int limits(const struct profile *p, struct error *e)
{
	int r = limit(RLIMIT_NOFILE, p->files);
	if (!r)
		r = limit(RLIMIT_CORE, 0);
	if (!r && !p->threads)
		r = limit(RLIMIT_NPROC, 0);
	return r < 0 ? error_errno(e, r, "cannot set the process's limits") : 0;
}

/* Everything not in the table goes from every set. The bounding set needs a capability itself: if
 * we have not got it, NO_NEW_PRIVS and the missing exec keep anything from coming back. */
static int drop_capabilities(enum sandbox_profile p, struct error *e)
{
	bool keep[CAP_LAST_CAP + 1] = {false};
	if (capng_get_caps_process() < 0)
		return error_set(e, -EPERM, "cannot read the process's capabilities");
	for (size_t i = 0; i < ARRAY_LEN(capabilities); i++)
		if (capabilities[i].profile == p &&
			capng_have_capability(CAPNG_PERMITTED, capabilities[i].cap))
			keep[capabilities[i].cap] = true;
	bool bounds = capng_have_capability(CAPNG_EFFECTIVE, CAP_SETPCAP);
	capng_clear(CAPNG_SELECT_ALL);
	for (unsigned cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (keep[cap])
			capng_update(CAPNG_ADD, CAPNG_EFFECTIVE | CAPNG_PERMITTED, cap);
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0)
		return error_errno(e, -errno, "cannot clear the ambient capabilities");
	if (bounds && capng_apply(CAPNG_SELECT_BOUNDS) < 0)
		return error_set(e, -EPERM, "cannot narrow the bounding set");
	if (capng_apply(CAPNG_SELECT_CAPS) < 0)
		return error_set(e, -EPERM, "cannot drop capabilities");
	return 0;
}

int sandbox_enter(enum sandbox_profile p, const struct sandbox_args *args, struct error *e)
{
	int r = limits(profile_get(p), e);
	if (!r)
		r = drop_capabilities(p, e);
	if (!r)
		r = sandbox_landlock(p, args, e);
	return r < 0 ? r : sandbox_seccomp(p, e);
}
