/*
 * Opening and closing all the guard holds, in the one order that works: the state table first,
 * because its key is every other table's; restored last, when there is something to restore into.
 */
#include <stdlib.h>
#include <string.h>

#include "guard/auditing.h"
#include "guard/bind.h"
#include "guard/channel.h"
#include "guard/control.h"
#include "guard/events.h"
#include "guard/grant.h"
#include "guard/guard.h"
#include "guard/idle.h"
#include "guard/job.h"
#include "guard/lease.h"
#include "guard/limit.h"
#include "guard/parts.h"
#include "guard/policies.h"
#include "guard/process.h"
#include "guard/refusals.h"
#include "guard/relook.h"
#include "guard/repeats.h"
#include "guard/share.h"
#include "guard/state.h"
#include "guard/times.h"
#include "guard/tree.h"
#include "registry/registry.h"

int guard_open(struct guard *g, struct error *e)
{
	bool fresh;
	int r = state_table_open(g->component.heritage.memory, &g->state, &fresh);
	if (r < 0)
		return error_errno(e, r, "cannot map the state table");
	memcpy(g->hash_key, state_table_key(g->state), sizeof(g->hash_key));
	r = registry_open(g->component.heritage.state_dir, &g->registry, e);
	if (r < 0)
		return r;
	if ((r = shares_init(g)) < 0 || (r = repeats_init(g)) < 0 || (r = parts_init(g)) < 0 ||
		(r = refusals_init(g)) < 0 || (r = processes_init(g)) < 0 ||
		(r = binds_init(g)) < 0 || (r = grants_init(g)) < 0 || (r = channels_init(g)) < 0 ||
		(r = leases_init(g)) < 0 || (r = trees_init(g)) < 0 || (r = jobs_init(g)) < 0 ||
		(r = laters_init(g)) < 0 || (r = controls_init(g)) < 0 || (r = idle_init(g)) < 0 ||
		(r = relook_init(g)) < 0 || (r = policies_init(g)) < 0 || (r = times_init(g)) < 0)
		return error_errno(e, r, "cannot set up");
	r = auditing_init(g, e);
	if (r < 0)
		return r;
	r = arrows_init(g, events_arrows);
	if (r < 0)
		return error_errno(e, r, "cannot set up");
	r = remote_init(g, e);
	if (r < 0)
		return r;
	r = restore_load(g);
	if (r < 0)
		return error_errno(e, r, "cannot restore the state of before");
	lease_read(g);
	return 0;
}

void guard_close(struct guard *g)
{
	controls_deinit(g);
	jobs_deinit(g);
	laters_deinit(g);
	arrows_deinit(g);
	remote_deinit(g);
	channels_deinit(g);
	limits_deinit(g);
	grants_deinit(g);
	binds_deinit(g);
	processes_deinit(g);
	leases_deinit(g);
	trees_deinit(g);
	idle_deinit(g);
	relook_deinit(g);
	repeats_deinit(g);
	times_deinit(g);
	auditing_deinit(g);
	policies_deinit(g);
	refusals_deinit(g);
	shares_deinit(g);
	free(g->parts);
	registry_close(g->registry);
	state_table_close(g->state);
}
